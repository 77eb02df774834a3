"""`stepcredit sample`: images from a run or a model, by the same rollout that training uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from stepcredit import checkpoint, recipes
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.plans import evaluation_plan
from stepcredit.prompts import load_prompts, prompt_text
from stepcredit.rewards.images import to_pil
from stepcredit.seeds import Stream, sample_seeds
from stepcredit.tracking import RunDirectory, write_atomically
from stepcredit.trainer import policy_tensors
from stepcredit.types import Plan, Policy, Prompt

BATCH = 16
"""Images in memory at a time; of these, as many are sampled at once as the configuration says."""


def sample(
    source: str,
    texts: Sequence[str],
    prompt_source: str | None,
    out: Path,
    images_per_prompt: int,
    seed: int,
    steps: int | None = None,
    guidance: float | None = None,
) -> None:
    """Write PNGs and samples.jsonl (prompt, image number, file) into `out`.

    `steps` and `guidance` are by default those of the run; for a model, 20 and 3 (embedded) or its pipeline's own.
    """
    prompts = [Prompt(prompt_text(text, "--prompt")) for text in texts] + (
        load_prompts(prompt_source) if prompt_source else []
    )
    if not prompts:
        raise InputError("nothing to sample: give --prompt TEXT or --prompts FILE")
    policy, config = _policy(source, {"steps": steps, "guidance": guidance})
    wanted = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (prompt, picture) in enumerate(_pictures(policy, evaluation_plan(config, BATCH), wanted, seed)):
        name = f"{number:04d}_{_slug(prompt.text)}.png"
        with _writing(out):
            picture.save(out / name)
        lines.append(json.dumps({"prompt": prompt.text, "number": number, "file": name}) + "\n")
    with _writing(out):
        write_atomically(out / "samples.jsonl", "".join(lines).encode())
    print(f"{len(wanted)} images in {out}")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from error


def _pictures(policy: Policy, plan: Plan, wanted: Sequence[Prompt], seed: int) -> Iterator[tuple[Prompt, Image.Image]]:
    """Every prompt with its picture, whose noise depends on `seed` and its place alone."""
    seeds = sample_seeds(seed, Stream.EVALUATION, 0, len(wanted))
    for start in range(0, len(wanted), BATCH):
        chunk = wanted[start : start + BATCH]
        with policy.averaged():
            images = policy.rollout(chunk, seeds[start : start + BATCH], plan).images
        yield from zip(chunk, to_pil(images), strict=True)


def _policy(source: str, asked: dict[str, float | None]) -> tuple[Policy, TrainConfig]:
    """The policy of a run directory with its newest weights, or of a model as it is, and how it samples."""
    asked = {key: value for key, value in asked.items() if value is not None}
    # diffusers takes longest to import
    from stepcredit.policy.loading import load_pipeline, make_policy, usual_sampling
    from stepcredit.quiet import quiet_libraries

    quiet_libraries()
    folder = Path(source)
    if (folder / "config.yaml").is_file():
        return _trained(RunDirectory.open(folder), asked)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise InputError(f"{source} is neither a run (no config.yaml) nor a diffusers pipeline (no model_index.json)")
    model = recipes.validate({"model": {"path": source}, "sample": asked}, "sample").model
    pipeline = load_pipeline(model)
    sampling = usual_sampling(pipeline, source) | asked
    config = recipes.validate({"model": {"path": source}, "sample": sampling}, "sample")
    return make_policy(pipeline, config, safety_checker=True), config


def _trained(directory: RunDirectory, asked: dict[str, float | None]) -> tuple[Policy, TrainConfig]:
    from stepcredit.policy.loading import load_policy

    config, saved = directory.config, checkpoint.found(directory.checkpoint_root)
    if "steps" in asked:
        asked = {**asked, "evaluation_steps": None}
    config = config.model_copy(update={"sample": config.sample.model_copy(update=asked)})
    if not saved:
        raise InputError(f"{directory.path} holds no checkpoint to sample from")
    policy = load_policy(config, safety_checker=True)
    policy.load_state_dict(policy_tensors(checkpoint.load(saved[-1])))
    return policy, config


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "prompt"
