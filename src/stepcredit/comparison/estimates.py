"""Means, differences and medians over seeds, as plain data that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepcredit.stats.intervals import as_json, bootstrap_median, clustered_mean, paired_difference

UNIT = "seed"
BOOTSTRAP_SEED = 0


def mean(values: Sequence[float]) -> dict[str, Any]:
    """An Estimate, of nothing where there is no seed."""
    if not values:
        return _nothing("no seed")
    return as_json(clustered_mean(_column(values), range(len(values)), BOOTSTRAP_SEED, unit=UNIT))


def difference(own: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any]:
    """An Estimate of own - theirs, both by seed, over the seeds that both have."""
    seeds = [seed for seed in own if seed in theirs]
    if not seeds:
        return _nothing("no seed in common")
    after, before = (_column([side[seed] for seed in seeds]) for side in (own, theirs))
    return as_json(paired_difference(after, before, seeds, BOOTSTRAP_SEED, unit=UNIT))


def median_factor(factors: Sequence[float | None]) -> dict[str, Any]:
    """A Median of those that are known, with how many are 0 (`never`), how many `above_one`, and `of` how many."""
    known = [factor for factor in factors if factor is not None]
    counts = {
        "never": sum(factor == 0 for factor in known),
        "above_one": sum(factor > 1 for factor in known),
        "of": len(known),
    }
    if not known:
        return {"median": None, "interval": None, "remark": "no seed has both the arm and the reference"} | counts
    return as_json(bootstrap_median(_column(known), BOOTSTRAP_SEED, unit=UNIT)) | counts


def _nothing(why: str) -> dict[str, Any]:
    return {"mean": None, "standard_error": None, "interval": None, "remark": why}


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
