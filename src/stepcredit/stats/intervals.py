"""Means of values that come in clusters, and how sure they are.

Images of one prompt, or figures of one seed, resemble each other: they are no independent draws. So whole clusters are
resampled, and the standard error is that of clusters too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape
from stepcredit.stats.student_t import standard_errors

RESAMPLES = 10_000
LEVEL = 0.95
FEW = 10
"""Clusters below which an interval is remarked on: of normal clusters, 5 cover 84% and 8 cover 89% instead of 95%."""
FEW_FOR_A_MEDIAN = 5
"""Values below which a median's interval is remarked on: of 4 normal values it covers 87% instead of 95%, of 5 93%."""
_BLOCK = 2**20


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is.

    Attributes:
        mean: of all values.
        standard_error: None from one cluster.
        interval: (low, high), or None from one cluster.
        remark: why there is no interval or why it is not to be trusted; empty where nothing is to be said.
    """

    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None
    remark: str = ""


@dataclass(frozen=True)
class Median:
    """A median and how sure it is.

    Attributes:
        median: of all values.
        interval: (low, high), or None from one value.
        remark: why there is no interval or why it is not to be trusted; empty where nothing is to be said.
    """

    median: float
    interval: tuple[float, float] | None
    remark: str = ""


def plain(found: Estimate | Median) -> dict[str, Any]:
    """Its fields as JSON holds them."""
    fields = asdict(found)
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

    with S_c the sum and n_c the number of values in cluster c of C, N of all; for clusters of equal size this is the
    standard deviation of their means over sqrt(C). A resample draws C whole clusters with replacement and takes the
    mean of their values; the interval is what lies between the (1 -+ level) / 2 quantiles of `resamples` such means.
    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 5.3.1.

    Args:
        values: (N,), finite, N at least 1; computed in float64 on the CPU.
        clusters: N names; values of equal names belong together and need not be adjacent.
        seed: at least 0, fixes the resamples: equal seeds and numbers of clusters draw the same ones.
        unit: what a remark calls a cluster.
        level: in (0, 1).
        resamples: at least 1.

    Raises:
        ValueError: not (N,) with N >= 1, not finite, or not one name per value.

    Degenerate: one cluster has neither standard error nor interval, and the remark says so. Of fewer than FEW clusters
    the interval is given with the remark that it is too narrow, and how wide Student's t would make it.
    """
    sums, counts = _totals(values, clusters)
    mean, found = sums.sum() / counts.sum(), len(sums)
    if found == 1:
        return Estimate(float(mean), None, None, f"one {unit} only: it does not tell how far others would differ")
    error = ((sums - counts * mean).square().sum() * found / (found - 1)).sqrt() / counts.sum()
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(_resampled_means(sums, counts, seed, resamples), tails).tolist()
    return Estimate(float(mean), float(error), (low, high), _remark(found, unit, level))


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
    """`clustered_mean` of after - before, value by value: what both share, such as prompt and noise, cancels.

    Args:
        after: (N,), finite.
        before: (N,), in the same order.
        clusters, seed, unit, level, resamples: as for `clustered_mean`.

    Raises:
        ValueError: other shapes, or as for `clustered_mean`.
    """
    require_shape("after", after, tuple(before.shape), "give both in the same order")
    difference = after.double() - before.double()
    return clustered_mean(difference, clusters, seed, unit=unit, level=level, resamples=resamples)


def bootstrap_median(
    values: Tensor, seed: int, *, unit: str = "value", level: float = LEVEL, resamples: int = RESAMPLES
) -> Median:
    """The median and the percentile interval of its bootstrap: what lies between the (1 -+ level) / 2 quantiles of the
    medians of `resamples` draws of N values with replacement.

    For values such as ratios whose worst is only known to be bad: a median asks on which side of it they are. Of an
    even number it is the mean of the two in the middle.
    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 2.3.

    Args:
        values: (N,), finite, N at least 1; computed in float64 on the CPU.
        seed, level, resamples: as for `clustered_mean`.
        unit: what a remark calls a value.

    Raises:
        ValueError: not (N,) with N >= 1, or not finite.

    Degenerate: one value has no interval, and the remark says so. Of fewer than FEW_FOR_A_MEDIAN values the interval
    is given with the remark that it is too narrow.
    """
    sample, count = _finite(values), len(values)
    if count == 1:
        return Median(float(sample), None, f"one {unit} only: it does not tell how far others would differ")
    generator = torch.Generator().manual_seed(seed % 2**63)
    draws = sample[torch.randint(count, (resamples, count), generator=generator)]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(_middle(draws), tails).tolist()
    remark = f"{count} {unit}s only: the interval is too narrow" if count < FEW_FOR_A_MEDIAN else ""
    return Median(float(_middle(sample)), (low, high), remark)


def mean_pairwise_distance(points: Tensor) -> float | None:
    """Mean Euclidean distance of all pairs of the N points (N, D); None for fewer than two.

    Raises:
        ValueError: not (N, D).
    """
    require_dims("points", points, 2, "(N, D)")
    if len(points) < 2:
        return None
    return float(torch.pdist(points.detach().cpu().double()).mean())


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
    """(N,) in float64, or a ValueError."""
    require_dims("values", values, 1, "(N,)")
    if len(values) == 0 or not values.isfinite().all():
        raise ValueError(f"values are {'empty' if len(values) == 0 else 'not finite'}, expected finite numbers")
    return values.detach().cpu().double()


def _middle(values: Tensor) -> Tensor:
    """The median over the last dimension; of an even number the mean of the two in the middle."""
    ordered, count = values.sort(-1).values, values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def _remark(clusters: int, unit: str, level: float) -> str:
    if clusters >= FEW:
        return ""
    wide = standard_errors(level, clusters - 1)
    return f"{clusters} {unit}s only: the interval is too narrow, a t interval is ± {wide:.2f} standard errors"


def _resampled_means(sums: Tensor, counts: Tensor, seed: int, resamples: int) -> Tensor:
    """(resamples,), a block at a time so that many clusters need no more memory than few."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    block = max(_BLOCK // len(sums), 1)
    means = []
    for start in range(0, resamples, block):
        drawn = torch.randint(len(sums), (min(block, resamples - start), len(sums)), generator=generator)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return torch.cat(means)
