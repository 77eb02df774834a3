"""`stepcredit sample`: images from a run or a model, by the same rollout that training uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from stepcredit.errors import InputError
from stepcredit.evaluation.source import open_source
from stepcredit.prompts import load_prompts, prompt_text
from stepcredit.rewards.vision.images import to_pil
from stepcredit.training.sampling_plan import evaluation_plan
from stepcredit.types import Plan, Policy, Prompt
from stepcredit.utils.files import write_atomically
from stepcredit.utils.seeds import Stream, sample_seeds

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
    policy, config = open_source(source, "to sample from").load(
        {"steps": steps, "guidance": guidance}, safety_checker=True
    )
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


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "prompt"
