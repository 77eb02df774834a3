"""Statistics of the scores of a model or a run, as plain data that can be written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepcredit.evaluation.base_and_tuned import BASE, TUNED
from stepcredit.evaluation.measure import Measurement
from stepcredit.evaluation.prompt_sets import PromptSet
from stepcredit.evaluation.set_statistics import PerPrompt, PerSet
from stepcredit.prompts.tags import rows_by_tag
from stepcredit.stats.intervals import FEW_CLUSTERS, LEVEL, RESAMPLES, as_json, clustered_mean, paired_difference

DIFFERENCE = "difference"
UNIT = "prompt"
METHOD = (
    f"{LEVEL:.0%} intervals over prompts, because images of one prompt are not independent: a percentile bootstrap "
    f"with {RESAMPLES} resamples of whole prompts, or a t interval below {FEW_CLUSTERS} prompts; the standard error is "
    "also over prompts; differences are paired by prompt and noise"
)

Sides = Mapping[str, Measurement]
"""BASE, and TUNED for a run, with the same prompts and noise."""
Figure = dict[str, Any]
"""An Estimate as a mapping for each side, and for DIFFERENCE if there are two sides."""


def prompt_set_results(prompts: PromptSet, sides: Sides, seed: int) -> dict[str, Any]:
    """Summarize the measurements on one prompt set.

    Clusters are prompts. Lists of prompts are usually long enough for the bootstrap, which needs no normal scores: a
    reward is often bounded or skewed over prompts. Fewer than FEW_CLUSTERS prompts have t intervals, see
    `clustered_mean`.

    Args:
        seed: of the bootstrap.

    Returns:
        `name`, `source`, `prompts` and `images` (numbers); `rewards`, a Figure for each reward; `pass_rates`, a Figure
        of the share of correct images for each reward with a pass score; under the name of each set statistic a Figure,
        or for a PerSet the number of each side and their difference, with the baselines beside it; `by_tag`, for each
        tag of the prompts its numbers of `prompts` and `images`, its `rewards` and its `pass_rates`; `by_prompt`, for
        each prompt its text and, per side, `scores` (a list per reward) and the value of each PerPrompt.
    """
    texts = [prompt.text for prompt in prompts.prompts]
    images = next(iter(sides[BASE].scores.values())).shape[1]
    everything = list(range(len(texts)))
    return {
        "name": prompts.name,
        "source": prompts.source,
        "prompts": len(texts),
        "images": len(texts) * images,
        **_figures(sides, texts, everything, seed),
        **_set_statistics(sides, texts, seed),
        "by_tag": {
            tag: {"prompts": len(rows), "images": len(rows) * images, **_figures(sides, texts, rows, seed)}
            for tag, rows in rows_by_tag(prompts.prompts).items()
        },
        "by_prompt": [_one_prompt(text, row, sides) for row, text in enumerate(texts)],
    }


def _figures(sides: Sides, texts: Sequence[str], rows: Sequence[int], seed: int) -> dict[str, dict[str, Figure]]:
    """`rewards` and `pass_rates`, the Figures over the prompts `rows`."""

    def figures(values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Figure]:
        of_rows = [texts[row] for row in rows]
        return {
            name: _figure({side: values[side][name][rows] for side in sides}, of_rows, seed) for name in values[BASE]
        }

    return {
        "rewards": figures({side: measured.scores for side, measured in sides.items()}),
        "pass_rates": figures({side: measured.passed for side, measured in sides.items()}),
    }


def _figure(sides: Mapping[str, Tensor], texts: Sequence[str], seed: int) -> Figure:
    """The Figure of values (P, N) for each side. Prompts with the same text form one cluster."""
    clusters = [text for text in texts for _ in range(sides[BASE].shape[1])]
    figure = {
        side: as_json(clustered_mean(values.flatten(), clusters, seed, unit=UNIT)) for side, values in sides.items()
    }
    if TUNED in sides:
        after, before = sides[TUNED].flatten(), sides[BASE].flatten()
        figure[DIFFERENCE] = as_json(paired_difference(after, before, clusters, seed, unit=UNIT))
    return figure


def _set_statistics(sides: Sides, texts: Sequence[str], seed: int) -> dict[str, Any]:
    """The figures of the set statistics by name, and their baselines."""
    found: dict[str, Any] = {}
    for name in sides[BASE].statistics:
        values = {side: measured.statistics[name] for side, measured in sides.items()}
        of_sets = {side: value for side, value in values.items() if isinstance(value, PerSet)}
        of_prompts = {side: value for side, value in values.items() if isinstance(value, PerPrompt)}
        if of_sets:
            found |= {name: _numbers(of_sets), **of_sets[BASE].baselines}
        else:
            found[name] = _per_prompt(of_prompts, texts, seed)
    return found


def _numbers(sides: Mapping[str, PerSet]) -> dict[str, float]:
    numbers = {side: statistic.value for side, statistic in sides.items()}
    return numbers | ({DIFFERENCE: numbers[TUNED] - numbers[BASE]} if TUNED in numbers else {})


def _per_prompt(sides: Mapping[str, PerPrompt], texts: Sequence[str], seed: int) -> Figure:
    columns: dict[str, Tensor] = {}
    for side, statistic in sides.items():
        known = [value for value in statistic.values if value is not None]
        if len(known) < len(texts):
            missing = {"mean": None, "standard_error": None, "interval": None, "warning": statistic.missing}
            return dict.fromkeys((*sides, *([DIFFERENCE] if TUNED in sides else [])), missing)
        columns[side] = torch.tensor(known, dtype=torch.float64).unsqueeze(1)
    return _figure(columns, texts, seed)


def _one_prompt(text: str, row: int, sides: Sides) -> dict[str, Any]:
    return {"prompt": text} | {
        side: {
            "scores": {name: values[row].tolist() for name, values in measured.scores.items()},
            **{
                name: statistic.values[row]
                for name, statistic in measured.statistics.items()
                if isinstance(statistic, PerPrompt)
            },
        }
        for side, measured in sides.items()
    }
