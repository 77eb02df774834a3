"""Means and medians of clustered values, with standard errors and confidence intervals.

Images of one prompt, or figures of one seed, are not independent. Every interval is therefore one over whole clusters:

- the mean of fewer than FEW_CLUSTERS clusters has a Student's t interval
- the mean of FEW_CLUSTERS clusters or more has a percentile interval of the bootstrap
- a median has the interval between two order statistics
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape

RESAMPLES = 10_000
LEVEL = 0.95
FEW_CLUSTERS = 10
"""With fewer clusters, a mean has a t interval. The bootstrap would cover 83% for 5 normal clusters and 89% for 8."""
_BLOCK = 2**20

Method = Literal["t", "bootstrap", "order statistics"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: of all values.
        standard_error: None for one cluster.
        interval: (low, high); None for one cluster.
        warning: a warning about the interval, or why there is none; otherwise empty.
        method: how the interval was computed, `t` or `bootstrap`; None without an interval.
    """

    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None
    warning: str = ""
    method: Method | None = None


@dataclass(frozen=True)
class Median:
    """A median with its uncertainty.

    Attributes:
        median: of all values.
        interval: (low, high); None for one value.
        warning: a note about the interval, or why there is none; otherwise empty.
        method: `order statistics`; None without an interval.
        coverage: probability that such an interval contains the median of the population; None without an interval.
    """

    median: float
    interval: tuple[float, float] | None
    warning: str = ""
    method: Method | None = None
    coverage: float | None = None


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
    """The mean, its cluster-robust standard error, and a confidence interval.

        standard error = sqrt(C / (C - 1) sum_c (S_c - n_c mean)^2) / N

    S_c is the sum and n_c the number of values in cluster c of C, and N is the number of all values. For clusters of
    equal size this is the standard deviation of the cluster means divided by sqrt(C).

    Below FEW_CLUSTERS clusters, the interval is Student's t interval, which is exact for normal clusters of equal size:

        mean -+ t_{(1 + level) / 2, C - 1} standard error

    From FEW_CLUSTERS on, it is the percentile interval of a cluster bootstrap, which assumes no distribution and need
    not be symmetric. A resample draws C whole clusters with replacement and takes the mean of their values. The
    interval lies between the (1 -+ level) / 2 quantiles of `resamples` such means. For few clusters it would be too
    narrow. Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 5.3.1.

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

    Degenerate cases: one cluster has no standard error and no interval. If all cluster means are equal, the interval
    has width 0.
    """
    sums, counts = _totals(values, clusters)
    mean, number = float(sums.sum() / counts.sum()), len(sums)
    if number == 1:
        return Estimate(mean, None, None, _single(unit))
    error = float(((sums - counts * mean).square().sum() * number / (number - 1)).sqrt() / counts.sum())
    if number < FEW_CLUSTERS:
        return Estimate(mean, error, t_interval(mean, error, number, level), method="t")
    interval = _percentiles(_resampled_means(sums, counts, seed, resamples), level)
    return Estimate(mean, error, interval, method="bootstrap")


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


def median_interval(values: Tensor, *, unit: str = "value", level: float = LEVEL) -> Median:
    """The median, and the interval between two order statistics of the values.

    With X ~ Binomial(N, 1/2), the interval from the k-th smallest to the k-th largest of N values contains the median
    of any continuous distribution with probability 1 - 2 P(X < k). k is the largest rank for which this is at least
    `level`. Of fewer than 6 values, even [min, max] covers less than 95%: 50% for 2 values, 75% for 3, 87.5% for 4 and
    93.75% for 5. Such an interval is [min, max], and a note gives its coverage.

    The median of an even number of values is the mean of the two in the middle. Use it for values such as ratios, where
    only the order of extreme values is meaningful. Source: David and Nagaraja, Order Statistics (2003), section 7.1.

    Args:
        values: (N,), finite, N at least 1; computed in float64 on the CPU.
        unit: what a value is called in notes.
        level: in (0, 1).

    Raises:
        ValueError: values that are not (N,) with N >= 1 or not finite.

    Degenerate case: one value has no interval.
    """
    ordered, count = _finite(values).sort().values, len(values)
    median = float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
    if count == 1:
        return Median(median, None, _single(unit))
    from scipy.stats import binom  # takes half a second to import, and training does not need it

    rank = max(int(binom.ppf((1 - level) / 2, count, 0.5)), 1)
    coverage = 1 - 2 * float(binom.cdf(rank - 1, count, 0.5))
    note = f"the interval of the median of {count} {unit}s is [min, max], which covers {coverage:.1%}"
    interval = float(ordered[rank - 1]), float(ordered[count - rank])
    return Median(median, interval, note if rank == 1 else "", "order statistics", coverage)


def mean_pairwise_distance(points: Tensor) -> float | None:
    """Mean Euclidean distance over all pairs of the N points (N, D); None for fewer than two points.

    Raises:
        ValueError: points that are not (N, D).
    """
    require_dims("points", points, 2, "(N, D)")
    if len(points) < 2:
        return None
    return float(torch.pdist(points.detach().cpu().double()).mean())


def t_interval(mean: float, standard_error: float, values: int, level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean of `values` values, which are at least 2.

    >>> [round(end, 2) for end in t_interval(0.0, 1.0, 5)]
    [-2.78, 2.78]
    """
    from scipy.stats import t  # takes half a second to import, and training does not need it

    if standard_error == 0:  # scipy returns NaN
        return mean, mean
    low, high = t.interval(level, values - 1, mean, standard_error)
    return float(low), float(high)


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


def _percentiles(statistics: Tensor, level: float) -> tuple[float, float]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(statistics, tails).tolist()
    return low, high


def _single(unit: str) -> str:
    return f"one {unit} only: no interval, because it does not show how much {unit}s differ"


def _resampled_means(sums: Tensor, counts: Tensor, seed: int, resamples: int) -> Tensor:
    """(resamples,), computed in blocks to limit memory."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    block = max(_BLOCK // len(sums), 1)
    means = []
    for start in range(0, resamples, block):
        drawn = torch.randint(len(sums), (min(block, resamples - start), len(sums)), generator=generator)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return torch.cat(means)
