"""Means, differences and medians over seeds, as plain data that can be written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepcredit.stats.intervals import as_json, clustered_mean, median_interval, paired_difference

UNIT = "seed"
BOOTSTRAP_SEED = 0


def mean(values: Sequence[float]) -> dict[str, Any]:
    """The Estimate of the mean over seeds; all its figures are None without seeds."""
    if not values:
        return _missing("no seed")
    return as_json(clustered_mean(_column(values), range(len(values)), BOOTSTRAP_SEED, unit=UNIT))


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any]:
    """The Estimate of values - reference, both by seed, over the seeds that both have."""
    seeds = [seed for seed in values if seed in reference]
    if not seeds:
        return _missing("no seed in common")
    after, before = (_column([side[seed] for seed in seeds]) for side in (values, reference))
    return as_json(paired_difference(after, before, seeds, BOOTSTRAP_SEED, unit=UNIT))


def median_factor(factors: Sequence[float | None]) -> dict[str, Any]:
    """The Median of the known factors, and how many there are (`of`), are 0 (`never`) and are above 1 (`above_one`)."""
    known = [factor for factor in factors if factor is not None]
    counts = {
        "never": sum(factor == 0 for factor in known),
        "above_one": sum(factor > 1 for factor in known),
        "of": len(known),
    }
    if not known:
        missing = dict.fromkeys(("median", "interval", "method", "coverage"))
        return missing | {"warning": "no seed has both the arm and the reference"} | counts
    return as_json(median_interval(_column(known), unit=UNIT)) | counts


def _missing(reason: str) -> dict[str, Any]:
    return dict.fromkeys(("mean", "standard_error", "interval", "method")) | {"warning": reason}


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
