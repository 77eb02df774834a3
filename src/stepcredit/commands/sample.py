"""`stepcredit sample`: images from a run or a model, by the same rollout that training uses."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from stepcredit import checkpoint, recipes
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.policy.loading import load_policy
from stepcredit.prompts import load_prompts
from stepcredit.quiet import quiet_libraries
from stepcredit.rewards.images import to_pil
from stepcredit.seeds import Stream, sample_seeds
from stepcredit.tracking import RunDirectory
from stepcredit.trainer import policy_tensors
from stepcredit.types import Policy, Prompt

BATCH = 64


def sample(
    source: str, texts: Sequence[str], prompt_source: str | None, out: Path, images_per_prompt: int, seed: int
) -> None:
    """Write PNGs and samples.jsonl (prompt, image number, file) into `out`."""
    quiet_libraries()
    prompts = [Prompt(text) for text in texts] + (load_prompts(prompt_source) if prompt_source else [])
    if not prompts:
        raise InputError("nothing to sample: give --prompt TEXT or --prompts FILE")
    policy = _policy(source)
    wanted = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    seeds = sample_seeds(seed, Stream.EVALUATION, 0, len(wanted))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    with (out / "samples.jsonl").open("w", encoding="utf-8") as index:
        for start in range(0, len(wanted), BATCH):
            chunk = wanted[start : start + BATCH]
            pictures = to_pil(policy.rollout(chunk, seeds[start : start + BATCH]).images)
            for number, (prompt, picture) in enumerate(zip(chunk, pictures, strict=True), start):
                name = f"{number:04d}_{_slug(prompt.text)}.png"
                picture.save(out / name)
                index.write(json.dumps({"prompt": prompt.text, "number": number, "file": name}) + "\n")
    print(f"{len(wanted)} images in {out}")


def _policy(source: str) -> Policy:
    """The policy of a run directory with its newest weights, or of a model as it is."""
    folder = Path(source)
    if not (folder / "config.yaml").is_file():
        return load_policy(recipes.validate({"model": {"path": source}}, "sample"))
    directory = RunDirectory.open(folder)
    policy = load_policy(_for_sampling(directory.config))
    saved = checkpoint.found(directory.checkpoint_root)
    if not saved:
        raise InputError(f"{folder} holds no checkpoint to sample from")
    policy.load_state_dict(policy_tensors(checkpoint.load(saved[-1])))
    return policy


def _for_sampling(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"sample": config.sample.model_copy(update={"batch": BATCH})})


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "prompt"
