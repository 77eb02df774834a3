"""Means and medians of clustered values, with standard errors and confidence intervals.

Images of one prompt, or figures of one seed, are not independent. The bootstrap therefore resamples whole clusters, and
the standard error is that of the clusters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape

RESAMPLES = 10_000
LEVEL = 0.95
FEW_CLUSTERS = 10
"""With fewer clusters an interval carries a warning: of normal clusters, 5 cover 84% and 8 cover 89% instead of 95%."""
FEW_VALUES = 5
"""With fewer values a median's interval carries a warning: of normal values, 4 cover 87% and 5 cover 93%, not 95%."""
_BLOCK = 2**20


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: of all values.
        standard_error: None for one cluster.
        interval: (low, high); None for one cluster.
        remark: a warning about the interval, or why there is none; otherwise empty.
    """

    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None
    remark: str = ""


@dataclass(frozen=True)
class Median:
    """A median with its uncertainty.

    Attributes:
        median: of all values.
        interval: (low, high); None for one value.
        remark: a warning about the interval, or why there is none; otherwise empty.
    """

    median: float
    interval: tuple[float, float] | None
    remark: str = ""


def as_json(estimate: Estimate | Median) -> dict[str, Any]:
    """The fields as plain data that can be written as JSON."""
    fields = asdict(estimate)
    return fields | {"interval": list(fields["interval"]) if fields["interval"] else None}


def clustered_mean(
    values: Tensor,
    clusters: Sequence[Hashable],
    seed: int,
    *,
    unit: str = "cluster",
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean, its cluster-robust standard error, and the percentile interval of a cluster bootstrap.

        standard error = sqrt(C / (C - 1) sum_c (S_c - n_c mean)^2) / N

    S_c is the sum and n_c the number of values in cluster c of C, and N is the number of all values. For clusters of
    equal size this is the standard deviation of the cluster means divided by sqrt(C). A resample draws C whole clusters
    with replacement and takes the mean of their values. The interval lies between the (1 -+ level) / 2 quantiles of
    `resamples` such means. Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8
    and 5.3.1.

    The resamples come from a torch generator and not from `scipy.stats.bootstrap`, whose random numbers would change
    the intervals of results that are already published.

    Args:
        values: (N,), finite, N at least 1; computed in float64 on the CPU.
        clusters: N names. Values with equal names form a cluster; they need not be adjacent.
        seed: at least 0; determines the resamples.
        unit: what a cluster is called in warnings.
        level: in (0, 1).
        resamples: at least 1.

    Raises:
        ValueError: values that are not (N,) with N >= 1 or not finite, or not one name per value.

    Degenerate cases: one cluster has no standard error and no interval. Fewer than FEW_CLUSTERS clusters get an
    interval with the warning that it is too narrow, and the half width of a Student's t interval in standard errors.
    """
    sums, counts = _totals(values, clusters)
    mean, number = sums.sum() / counts.sum(), len(sums)
    if number == 1:
        return Estimate(float(mean), None, None, _single(unit))
    error = ((sums - counts * mean).square().sum() * number / (number - 1)).sqrt() / counts.sum()
    interval = _percentiles(_resampled_means(sums, counts, seed, resamples), level)
    return Estimate(float(mean), float(error), interval, _warning(number, unit, level))


def paired_difference(
    after: Tensor,
    before: Tensor,
    clusters: Sequence[Hashable],
    seed: int,
    *,
    unit: str = "cluster",
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Estimate:
    """`clustered_mean` of after - before, value by value. What both sides share, such as prompt and noise, cancels.

    Args:
        after: (N,), finite.
        before: (N,), in the same order.
        clusters, seed, unit, level, resamples: as for `clustered_mean`.

    Raises:
        ValueError: different shapes, or as for `clustered_mean`.
    """
    require_shape("after", after, tuple(before.shape), "give both in the same order")
    difference = after.double() - before.double()
    return clustered_mean(difference, clusters, seed, unit=unit, level=level, resamples=resamples)


def bootstrap_median(
    values: Tensor, seed: int, *, unit: str = "value", level: float = LEVEL, resamples: int = RESAMPLES
) -> Median:
    """The median and the percentile interval of its bootstrap.

    The interval lies between the (1 -+ level) / 2 quantiles of the medians of `resamples` draws of N values with
    replacement. The median of an even number of values is the mean of the two in the middle. Use it for values such as
    ratios, where only the order of extreme values is meaningful. Source: Davison and Hinkley, Bootstrap Methods and
    their Application (1997), section 2.3. On scipy see `clustered_mean`.

    Args:
        values: (N,), finite, N at least 1; computed in float64 on the CPU.
        seed, level, resamples: as for `clustered_mean`.
        unit: what a value is called in warnings.

    Raises:
        ValueError: values that are not (N,) with N >= 1 or not finite.

    Degenerate cases: one value has no interval. Fewer than FEW_VALUES values get an interval with the warning that it
    is too narrow.
    """
    sample, count = _finite(values), len(values)
    if count == 1:
        return Median(float(sample), None, _single(unit))
    generator = torch.Generator().manual_seed(seed % 2**63)
    draws = sample[torch.randint(count, (resamples, count), generator=generator)]
    warning = f"{count} {unit}s only: the interval is too narrow" if count < FEW_VALUES else ""
    return Median(float(_median(sample)), _percentiles(_median(draws), level), warning)


def mean_pairwise_distance(points: Tensor) -> float | None:
    """Mean Euclidean distance over all pairs of the N points (N, D); None for fewer than two points.

    Raises:
        ValueError: points that are not (N, D).
    """
    require_dims("points", points, 2, "(N, D)")
    if len(points) < 2:
        return None
    return float(torch.pdist(points.detach().cpu().double()).mean())


def t_half_width(level: float, values: int) -> float:
    """Half the width of a Student's t interval for the mean of `values` values, in standard errors.

    >>> round(t_half_width(0.95, 5), 2), round(t_half_width(0.95, 8), 2)
    (2.78, 2.36)
    """
    from scipy.stats import t  # takes half a second to import, and training does not need it

    return float(t.ppf((1 + level) / 2, values - 1))


def _totals(values: Tensor, clusters: Sequence[Hashable]) -> tuple[Tensor, Tensor]:
    """Sum and number of the values of every cluster, (C,) each, in float64."""
    sample = _finite(values)
    if len(clusters) != len(values):
        raise ValueError(f"clusters has {len(clusters)} names for {len(values)} values: give one for each")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    rows = torch.tensor([numbers[name] for name in clusters])
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, rows, sample)
    return sums, rows.bincount().double()


def _finite(values: Tensor) -> Tensor:
    """(N,) in float64 on the CPU; a ValueError if empty or not finite."""
    require_dims("values", values, 1, "(N,)")
    if len(values) == 0 or not values.isfinite().all():
        raise ValueError(f"values are {'empty' if len(values) == 0 else 'not finite'}, expected finite numbers")
    return values.detach().cpu().double()


def _median(values: Tensor) -> Tensor:
    """The median over the last dimension; `torch.median` would return the lower of two middle values."""
    ordered, count = values.sort(-1).values, values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def _percentiles(statistics: Tensor, level: float) -> tuple[float, float]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(statistics, tails).tolist()
    return low, high


def _single(unit: str) -> str:
    return f"one {unit} only: no interval, because it does not show how much {unit}s differ"


def _warning(clusters: int, unit: str, level: float) -> str:
    if clusters >= FEW_CLUSTERS:
        return ""
    return (
        f"{clusters} {unit}s only: the interval is too narrow; a t interval would be "
        f"± {t_half_width(level, clusters):.2f} standard errors"
    )


def _resampled_means(sums: Tensor, counts: Tensor, seed: int, resamples: int) -> Tensor:
    """(resamples,), computed in blocks to limit memory."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    block = max(_BLOCK // len(sums), 1)
    means = []
    for start in range(0, resamples, block):
        drawn = torch.randint(len(sums), (min(block, resamples - start), len(sums)), generator=generator)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return torch.cat(means)
