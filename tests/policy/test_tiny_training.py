"""The trainer on a tiny Stable Diffusion: averages are what is shown, and the divergence in either space holds back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.command_line import stepcredit
from tests.tiny import tiny_sd
from torch import Tensor

from stepcredit.algorithms.sampling_plan import evaluation_plan
from stepcredit.policy.loading import load_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.rewards.vision.images import to_pil
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Prompt
from stepcredit.utils.logging import quiet_libraries
from stepcredit.utils.seeds import Stream, sample_seeds

OPTIONS = [
    "sample.steps=3",
    "sample.guidance=1",
    "sample.prompts_per_epoch=2",
    "sample.images_per_prompt=4",
    "train.epochs=2",
    "train.updates_per_epoch=2",
    "train.learning_rate=0.05",
    "credit.window=1",
    "reward.name=warmth",
    "run.grid_images=1",
    "run.grid_every=100",
    "model.device=cpu",
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    quiet_libraries()
    tiny_sd().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def trained(model: Path, name: str, *options: str) -> Path:
    run = model.parent / name
    said = stepcredit("train", f"model.path={model}", *OPTIONS, *options, "--run", run)
    assert said.code == 0, said
    return run


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def newest(run: Path) -> PipelinePolicy:
    directory = RunDirectory.open(run)
    policy = load_policy(directory.config)
    policy.load_state_dict(checkpoint.load(checkpoint.folders(directory.checkpoint_root)[-1]).part("policy"))
    return policy


def drawn(policy: PipelinePolicy, run: Path) -> np.ndarray:
    plan = evaluation_plan(RunDirectory.open(run).config, 16)
    images = policy.rollout([Prompt("a cat")] * 2, sample_seeds(0, Stream.EVALUATION, 0, 2), plan).images
    return np.stack([np.asarray(picture) for picture in to_pil(images)])


def test_sample_grids_use_the_moving_average(model: Path) -> None:
    run, out = trained(model, "run", "model.ema=0.9"), model.parent / "out"
    said = stepcredit("sample", run, "--prompt", "a cat", "--images", "2", "--out", out)
    assert said.code == 0, said
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))])
    policy = newest(run)
    with policy.averaged():
        averaged = drawn(policy, run)
    assert np.array_equal(pictures, averaged)
    assert not np.array_equal(pictures, drawn(policy, run))


def distance(run: Path) -> float:
    """Of the trained weights from the ones that the run began with."""
    policy = newest(run)
    start = load_policy(RunDirectory.open(run).config)
    pairs = zip(policy.parameters(), start.parameters(), strict=True)
    moved: Tensor = torch.stack([(left - right).square().sum() for left, right in pairs]).sum()
    return float(moved.detach().sqrt())


@pytest.mark.parametrize(
    ("adapter", "space"),
    [
        ("lora", "log_prob"),
        pytest.param("lora", "prediction", marks=pytest.mark.slow),
        pytest.param("full", "prediction", marks=pytest.mark.slow),
    ],
)
def test_the_divergence_from_the_reference(model: Path, adapter: str, space: str) -> None:
    """It is 0 at the start, is reported, and a large weight keeps it small."""
    options = [f"train.kl_space={space}", f"model.adapter={adapter}", "train.updates_per_epoch=1", "train.epochs=4"]
    if adapter == "full":
        options.append("train.learning_rate=0.001")
    free = trained(model, "free", *options, "train.kl_weight=1e-9")
    held = trained(model, "held", *options, "train.kl_weight=1e4")
    first, second = ([row["reference_kl"] for row in rows(run)] for run in (free, held))
    assert first[0] == second[0] == 0.0 and 0.0 < second[-1] < 0.8 * first[-1]
    assert all(row["ratio_max_deviation"] == 0.0 for row in rows(held))
    assert distance(held) < distance(free)


def test_the_spaces_measure_different_things(model: Path) -> None:
    log_prob, prediction = (
        trained(model, space, f"train.kl_space={space}", "train.kl_weight=1e-9", "train.epochs=1")
        for space in ("log_prob", "prediction")
    )
    left, right = (rows(run)[0] for run in (log_prob, prediction))
    assert left["reward_mean"] == right["reward_mean"] and left["grad_norm"] == pytest.approx(right["grad_norm"], 1e-4)
    assert left["reference_kl"] > 0 and right["reference_kl"] > 0
    assert left["reference_kl"] != pytest.approx(right["reference_kl"], rel=1e-3)
