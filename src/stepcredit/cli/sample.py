"""`stepcredit sample`: write images from a run or a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from stepcredit.algorithms.sampling_plan import evaluation_plan
from stepcredit.errors import InputError
from stepcredit.evaluation.image_size import size_note
from stepcredit.evaluation.long_prompts import long_prompt_notes
from stepcredit.evaluation.sampling import BATCH, sample_images
from stepcredit.evaluation.source import open_source
from stepcredit.prompts import load_prompts, prompt_text
from stepcredit.types import Prompt
from stepcredit.utils.files import write_atomically
from stepcredit.utils.output import writing_to
from stepcredit.utils.slug import slug


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
    """Write PNG files and samples.jsonl (prompt, image number, file) into `out`.

    `steps` and `guidance` default to those of the run. For a model they default to 20 and 3 (bundled models) or to the
    defaults of its pipeline.
    """
    prompts = [Prompt(prompt_text(text, "--prompt")) for text in texts]
    prompts += load_prompts(prompt_source) if prompt_source else []
    if not prompts:
        raise InputError("nothing to sample: give --prompt TEXT or --prompts FILE")
    policy, config = open_source(source, "to sample from").load(steps=steps, guidance=guidance, safety_checker=True)
    for line in long_prompt_notes(policy, prompts):
        print(line, file=sys.stderr)
    plan = evaluation_plan(config, BATCH)
    with writing_to(out, "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for number, (prompt, image) in enumerate(sample_images(policy, prompts, images_per_prompt, seed, plan)):
        name = f"{number:04d}_{slug(prompt.text)}.png"
        if not lines and (note := size_note(config.sample, image.height, image.width)):
            print(note, file=sys.stderr)
        with writing_to(out, "choose another --out"):
            image.save(out / name)
        lines.append(json.dumps({"prompt": prompt.text, "number": number, "file": name}) + "\n")
    with writing_to(out, "choose another --out"):
        write_atomically(out / "samples.jsonl", "".join(lines).encode())
    print(f"{len(lines)} images in {out}")
