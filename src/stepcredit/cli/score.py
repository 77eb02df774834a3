"""`stepcredit score`: score image files with a reward, by the code that training uses."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, shortened
from stepcredit.evaluation.long_prompts import long_prompt_notes
from stepcredit.rewards import CheckedReward, build_reward
from stepcredit.rewards.vision.preprocess import to_unit
from stepcredit.runs import recipes
from stepcredit.types import Prompt
from stepcredit.utils.paths import expanded


@dataclass(frozen=True)
class Scored:
    """An image file with its prompt and score."""

    file: str
    prompt: str
    score: float


def score(reward: str, files: Sequence[str], prompts: Sequence[str], options: Sequence[str], as_json: bool) -> None:
    """Print one line per image, in the order of `files`, or a JSON array of {file, prompt, score}.

    Args:
        reward: name of a reward, `module:function` or `path/file.py:function`.
        files: images of any size in a format that Pillow reads; transparency is dropped.
        prompts: one for all images, or one per image.
        options: of the reward, as key=value with a value in YAML.
        as_json: print JSON instead of a table.

    Raises:
        InputError: an image that cannot be read, a wrong number of prompts, or an invalid reward or option.
        RewardError: the reward failed.
    """
    if len(prompts) not in (1, len(files)):
        raise InputError(
            f"{len(prompts)} prompts for {len(files)} images: pass one --prompt for all images, or one per image"
        )
    texts = list(prompts) * len(files) if len(prompts) == 1 else list(prompts)
    images = [_read(file) for file in files]
    built = build_reward(RewardSection(name=reward, options=_options(options)))
    for note in long_prompt_notes(None, [Prompt(text) for text in texts], [built]):
        print(note, file=sys.stderr)
    scores = _scores(built, images, texts)
    _print([Scored(*row) for row in zip(files, texts, scores, strict=True)], as_json)


def _read(file: str) -> Tensor:
    """The image (3, H, W) in [0, 1]."""
    try:
        with Image.open(expanded(file)) as picture:
            return to_unit(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise InputError(f"cannot read {file} as an image: {reason}") from error


def _scores(reward: CheckedReward, images: Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
    """The scores in the order of `images`. Images of equal size are scored as one batch."""
    scores = [0.0] * len(images)
    for shape in dict.fromkeys(image.shape for image in images):
        rows = [row for row, image in enumerate(images) if image.shape == shape]
        batch = torch.stack([images[row] for row in rows])
        for row, value in zip(rows, reward(batch, [prompts[row] for row in rows], [{}] * len(rows)), strict=True):
            scores[row] = value.item()
    return scores


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key):
            raise InputError(f"'{pair}' is not an option: write key=value")
        options[key] = recipes.parse(text, f"cannot read the value of '{shortened(pair)}'")
    return options


def _print(rows: Sequence[Scored], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    width = max(len(row.file) for row in rows)
    for row in rows:
        print(f"{row.file:<{width}}  {row.score:.6g}")
