"""What the scores of a model or a run amount to, as plain data that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepcredit.evaluation.measure import Measured, PromptSet
from stepcredit.stats.intervals import LEVEL, RESAMPLES, clustered_mean, paired_difference, plain

BASE, TUNED, DIFFERENCE = "base", "tuned", "difference"
UNIT = "prompt"
ONE_IMAGE = "one image per prompt has no distance to others: take --images 2 or more"
METHOD = (
    f"{LEVEL:.0%} percentile bootstrap, {RESAMPLES} resamples of whole prompts, so that images of one prompt do not "
    "count as independent; the standard error is that of prompts too; differences are paired by prompt and noise"
)

Sides = Mapping[str, Measured]
"""BASE, and TUNED where there is a trained side: the same prompts and noise."""
Figure = dict[str, Any]
"""An Estimate as a mapping for each side, and for DIFFERENCE where there are two."""


def findings(prompts: PromptSet, sides: Sides, seed: int) -> dict[str, Any]:
    """Everything about one prompt set.

    Returns:
        `name`, `source`, `prompts` and `images` (numbers); `rewards`, a Figure of each; `diversity`, a Figure of the
        mean pairwise distance of a prompt's images; `by_prompt`, for each its text and, per side, `scores` (a list per
        reward) and `diversity`.
    """
    base = sides[BASE]
    texts = [prompt.text for prompt in prompts.prompts]
    images = next(iter(base.scores.values())).shape[1]
    return {
        "name": prompts.name,
        "source": prompts.source,
        "prompts": len(texts),
        "images": len(texts) * images,
        "rewards": {
            name: _figure({side: found.scores[name] for side, found in sides.items()}, texts, seed)
            for name in base.scores
        },
        "diversity": _diversity(sides, texts, seed),
        "by_prompt": [_one_prompt(text, row, sides) for row, text in enumerate(texts)],
    }


def _figure(sides: Mapping[str, Tensor], texts: Sequence[str], seed: int) -> Figure:
    """Of values (P, N) of each side. Prompts of equal text are one cluster."""
    clusters = [text for text in texts for _ in range(sides[BASE].shape[1])]
    figure = {
        side: plain(clustered_mean(values.flatten(), clusters, seed, unit=UNIT)) for side, values in sides.items()
    }
    if TUNED in sides:
        after, before = sides[TUNED].flatten(), sides[BASE].flatten()
        figure[DIFFERENCE] = plain(paired_difference(after, before, clusters, seed, unit=UNIT))
    return figure


def _diversity(sides: Sides, texts: Sequence[str], seed: int) -> Figure:
    columns: dict[str, Tensor] = {}
    for side, found in sides.items():
        distances = [distance for distance in found.distances if distance is not None]
        if len(distances) < len(texts):
            nothing = {"mean": None, "standard_error": None, "interval": None, "remark": ONE_IMAGE}
            return dict.fromkeys((*sides, *([DIFFERENCE] if TUNED in sides else [])), nothing)
        columns[side] = torch.tensor(distances, dtype=torch.float64).unsqueeze(1)
    return _figure(columns, texts, seed)


def _one_prompt(text: str, row: int, sides: Sides) -> dict[str, Any]:
    return {"prompt": text} | {
        side: {
            "scores": {name: values[row].tolist() for name, values in found.scores.items()},
            "diversity": found.distances[row],
        }
        for side, found in sides.items()
    }
