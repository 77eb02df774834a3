"""Draw docs/images/overview.png from two finished runs of the bundled pipeline.

stepcredit train embedded_jpeg run.seed=101 --run runs/jpeg
stepcredit train embedded_warmth run.seed=101 --run runs/warmth
uv run python docs/overview.py runs/jpeg runs/warmth
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from stepcredit.maths.credit import contribution_weights, cosine_to_final
from stepcredit.policy.loading import load_pipeline, make_policy
from stepcredit.runs import recipes
from stepcredit.types import Plan, Prompt

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent / "images" / "overview.png"
STEPS, SHOWN = 20, (0, 3, 6, 9, 13, 19)
SEED = 19
STORY = Prompt("a large striped red circle on a blue background")
PROMPTS = [
    Prompt("a blue circle on a green background"),
    Prompt("a large purple square on a black background on the right"),
    Prompt("a large yellow triangle on a blue background"),
    Prompt("a green triangle on a cyan background on the left"),
]
INK, ACCENT = "#44546a", "#c2572b"


def main(jpeg: str, warmth: str) -> None:
    config = recipes.load(None, ["sample.guidance=3"])
    policy = make_policy(load_pipeline(config.model), config)
    plan = Plan(steps=STEPS, noisy=range(STEPS))
    rollout = policy.rollout([STORY], [SEED], plan, keep_x0=True)
    trajectory = rollout.trajectory
    assert trajectory.x0 is not None
    similarity = cosine_to_final(trajectory.x0, trajectory.final)
    weights = contribution_weights(similarity, 1)
    with torch.no_grad():
        predicted = policy.decode(trajectory.x0[0, list(SHOWN)])

    figure = plt.figure(figsize=(12, 3.6), dpi=150)
    left, right = figure.subfigures(1, 2, width_ratios=[1.45, 1])
    _draw_steps(left, predicted, similarity[0].numpy(), weights[0].numpy())
    rows = [("before", None), ("small JPEG", jpeg), ("warm colors", warmth)]
    _draw_samples(right, [(name, _samples(run)) for name, run in rows])
    figure.savefig(OUT, facecolor="white")


def _samples(run: str | None) -> Tensor:
    """The same four prompts and noise, with the trained LoRA of a run or without."""
    config = recipes.load(None, [])
    pipeline = load_pipeline(config.model)
    if run is not None:
        pipeline.load_lora_weights(str(Path(run) / "lora"))
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    policy = make_policy(pipeline, config)
    with torch.no_grad():
        return policy.rollout(PROMPTS, [7, 8, 9, 10], Plan(steps=STEPS, noisy=range(STEPS))).images


def _draw_steps(
    figure: matplotlib.figure.SubFigure, images: Tensor, similarity: np.ndarray, weights: np.ndarray
) -> None:
    grid = figure.add_gridspec(2, len(SHOWN), height_ratios=[1, 1.15], left=0.1, right=0.89, top=0.82, bottom=0.14)
    for column, (step, image) in enumerate(zip(SHOWN, images, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).float().numpy(), interpolation="nearest")
        axes.set_title(f"step {step + 1}", fontsize=9, color=INK)
        axes.axis("off")
    axes = figure.add_subplot(grid[1, :])
    axes.bar(range(1, STEPS + 1), weights, color=ACCENT, width=0.8)
    axes.set_xlabel("denoising step", fontsize=9, color=INK)
    axes.set_ylabel("credit", fontsize=9, color=ACCENT)
    axes.set_xticks([1, 5, 10, 15, 20])
    line = axes.twinx()
    line.plot(range(1, STEPS + 1), similarity[:-1], color=INK, marker="o", markersize=2.5, linewidth=1)
    line.set_ylabel("similarity", fontsize=9, color=INK)
    line.set_ylim(0, 1.05)
    for part in (axes, line):
        part.tick_params(labelsize=8, colors=INK)
        part.spines["top"].set_visible(False)
    figure.suptitle("Each step gets credit for moving the predicted image toward the final one", fontsize=10, color=INK)


def _draw_samples(figure: matplotlib.figure.SubFigure, rows: list[tuple[str, Tensor]]) -> None:
    grid = figure.add_gridspec(
        len(rows), len(PROMPTS), left=0.24, right=0.98, top=0.88, bottom=0.03, wspace=0.05, hspace=0.07
    )
    for row, (name, images) in enumerate(rows):
        for column, image in enumerate(images):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image.permute(1, 2, 0).clamp(0, 1).float().numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if column == 0:
                axes.set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
    figure.suptitle("Before and after 640 reward queries, same noise", fontsize=10, color=INK)


if __name__ == "__main__":
    main(*sys.argv[1:])
