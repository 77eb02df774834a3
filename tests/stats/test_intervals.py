import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.stats.intervals import (
    FEW_CLUSTERS,
    Estimate,
    clustered_mean,
    mean_pairwise_distance,
    median_interval,
    paired_difference,
    t_interval,
)

FLOATS = st.floats(-100, 100)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal_clusters(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """(count, size) of mean 0, in which the values of a cluster share half of their variance."""
    shared = torch.randn(count, 1, generator=generator)
    return shared + torch.randn(count, size, generator=generator)


# Mean and standard error


def test_mean_and_standard_error_of_equal_clusters():
    # Cluster means 2, 4, 9: mean 5, variance (9 + 1 + 16) / 2 = 13.
    found = clustered_mean(tensor(1, 3, 4, 4, 8, 10), list("aabbcc"), 0)
    assert found.mean == 5
    assert found.standard_error == pytest.approx(math.sqrt(13 / 3))


def test_clusters_of_unequal_size_weigh_by_their_values():
    # Mean 14 / 4 = 3.5; S - n mean = 12 - 10.5 = 1.5 and 2 - 3.5 = -1.5; sqrt(2 / 1 * 4.5) / 4 = 0.75.
    found = clustered_mean(tensor(3, 4, 2, 5), ["a", "a", "b", "a"], 0)
    assert found.mean == 3.5
    assert found.standard_error == pytest.approx(0.75)


def test_every_value_its_own_cluster_is_the_usual_standard_error():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert clustered_mean(values, range(20), 0).standard_error == pytest.approx(float(values.double().std()) / 20**0.5)


def test_copies_of_a_value_do_not_lower_the_standard_error():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0))
    once = clustered_mean(values, range(20), 0)
    copied = clustered_mean(values.repeat_interleave(4), [row // 4 for row in range(80)], 0)
    assert copied.standard_error == pytest.approx(once.standard_error)
    assert copied.interval == pytest.approx(once.interval)


# Interval of a mean


def test_the_t_interval_of_a_textbook_sample():
    # Mean 5, standard deviation 2, t_{0.975, 4} = 2.776: 5 -+ 2.776 * 2 / sqrt(5) (Abramowitz and Stegun, table 26.10).
    found = clustered_mean(tensor(3, 3, 5, 7, 7), range(5), 0)
    assert found.method == "t"
    assert found.interval == pytest.approx((5 - 2.4833, 5 + 2.4833), abs=1e-3)
    # Differences 1, 2, 3: mean 2, standard deviation 1, t_{0.975, 2} = 4.303.
    paired = paired_difference(tensor(2, 4, 6), tensor(1, 2, 3), range(3), 0)
    assert paired.interval == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


def test_the_t_interval_of_clusters_uses_their_number_and_their_standard_error():
    names = [row // 4 for row in range(24)]
    found = clustered_mean(normal_clusters(6, 4, torch.Generator().manual_seed(0)).flatten(), names, 0)
    half = 2.5706 * found.standard_error  # 5 degrees of freedom
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), abs=1e-4)


def test_ten_clusters_have_a_bootstrap_and_fewer_a_t_interval():
    few, many = (clustered_mean(torch.arange(count), range(count), 0) for count in (FEW_CLUSTERS - 1, FEW_CLUSTERS))
    assert (few.method, many.method) == ("t", "bootstrap")
    assert few.warning == many.warning == ""
    assert clustered_mean(torch.arange(9), range(9), 0) == clustered_mean(torch.arange(9), range(9), 1)


@pytest.mark.parametrize("count", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 8, 9))])
def test_intervals_of_few_seeds_cover_the_mean_as_often_as_they_say(count):
    generator, rounds = torch.Generator().manual_seed(count), 2000
    seeds = torch.randn(rounds, count, generator=generator, dtype=torch.float64) + 1
    found = [clustered_mean(row, range(count), 0).interval for row in seeds]
    assert sum(low <= 1 <= high for low, high in found) / rounds == pytest.approx(0.95, abs=0.015)
    narrow = [clustered_mean(row, range(count), 0, level=0.8).interval for row in seeds]
    assert sum(low <= 1 <= high for low, high in narrow) / rounds == pytest.approx(0.8, abs=0.025)


def test_intervals_of_few_paired_differences_cover_the_difference():
    generator, rounds, covered = torch.Generator().manual_seed(0), 2000, 0
    for _ in range(rounds):
        shared = 10 * torch.randn(5, generator=generator, dtype=torch.float64)
        after, before = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2))
        low, high = paired_difference(shared + after + 2, shared + before, range(5), 0).interval
        covered += low <= 2 <= high
    assert covered / rounds == pytest.approx(0.95, abs=0.015)


def test_equal_values_have_an_interval_of_width_0():
    assert clustered_mean(tensor(2, 2, 2), range(3), 0).interval == (2, 2)


def test_resamples_of_unequal_clusters_are_means_of_their_values():
    names = [row for row in range(12) for _ in range(row + 1)]
    found = clustered_mean(torch.full((len(names),), 3.0), names, 0)
    assert (found.method, found.interval) == ("bootstrap", (3, 3))


def test_the_level_is_the_share_of_resampled_means_inside():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0))
    found = clustered_mean(values, range(200), 0)
    half = (found.interval[1] - found.interval[0]) / 2
    assert half == pytest.approx(1.96 * found.standard_error, rel=0.04)
    narrow = clustered_mean(values, range(200), 0, level=0.5)
    assert (narrow.interval[1] - narrow.interval[0]) / 2 == pytest.approx(0.674 * found.standard_error, rel=0.06)


def test_intervals_of_clusters_cover_the_truth_and_those_of_images_do_not():
    generator, rounds = torch.Generator().manual_seed(1), 400
    clustered = independent = 0
    for number in range(rounds):
        values = normal_clusters(30, 4, generator).flatten()
        low, high = clustered_mean(values, [row // 4 for row in range(120)], number, resamples=400).interval
        clustered += low <= 0 <= high
        low, high = clustered_mean(values, range(120), number, resamples=400).interval
        independent += low <= 0 <= high
    assert 0.89 <= clustered / rounds <= 0.97
    assert independent / rounds < 0.85


def test_the_seed_determines_the_interval():
    values, names = torch.randn(24, generator=torch.Generator().manual_seed(0)), [row // 2 for row in range(24)]
    first, again, other = (clustered_mean(values, names, seed) for seed in (3, 3, 2**70))
    assert first == again
    assert first.interval != other.interval and first.mean == other.mean


def test_blocks_of_resamples_are_independent(monkeypatch):
    values = torch.randn(12, generator=torch.Generator().manual_seed(0))
    whole = clustered_mean(values, range(12), 0)
    monkeypatch.setattr("stepcredit.stats.intervals._BLOCK", 120)
    assert clustered_mean(values, range(12), 0).interval == pytest.approx(whole.interval, abs=0.05)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(FLOATS, min_size=2, max_size=12), FLOATS, st.floats(0.1, 10))
def test_shift_and_scale_carry_over(values, shift, scale):
    plain = clustered_mean(tensor(*values), range(len(values)), 0, resamples=50)
    moved = clustered_mean(tensor(*values) * scale + shift, range(len(values)), 0, resamples=50)
    assert moved.mean == pytest.approx(plain.mean * scale + shift, abs=1e-6)
    assert moved.standard_error == pytest.approx(plain.standard_error * scale, abs=1e-6)
    assert moved.interval == pytest.approx([end * scale + shift for end in plain.interval], abs=1e-6)


# Paired differences


def test_what_both_sides_share_cancels():
    generator = torch.Generator().manual_seed(0)
    before = normal_clusters(16, 4, generator).flatten() * 100
    names = [row // 4 for row in range(64)]
    after = before.double() + 0.25
    found = paired_difference(after, before, names, 0)
    assert found.mean == pytest.approx(0.25) and found.standard_error == pytest.approx(0, abs=1e-12)
    assert clustered_mean(before, names, 0).standard_error > 10


def test_equal_sides_have_difference_zero():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    assert paired_difference(values, values, [row % 20 for row in range(40)], 0) == Estimate(
        0, 0, (0, 0), method="bootstrap"
    )


def test_the_difference_is_after_minus_before():
    assert paired_difference(tensor(3, 5), tensor(1, 1), ["a", "b"], 0).mean == 3


# Few clusters


def test_one_cluster_has_no_interval():
    found = clustered_mean(tensor(1, 2, 6), ["a"] * 3, 0, unit="prompt")
    assert (found.mean, found.standard_error, found.interval) == (3, None, None)
    assert "one prompt" in found.warning


@pytest.mark.parametrize(
    ("level", "values", "published"),  # Abramowitz and Stegun, table 26.10
    [(0.95, 2, 12.706), (0.95, 5, 2.776), (0.95, 10, 2.262), (0.99, 4, 5.841)],
)
def test_t_intervals_have_the_published_quantiles(level, values, published):
    assert t_interval(0.0, 1.0, values, level) == pytest.approx((-published, published), abs=5.1e-4)


def test_recorded_intervals_do_not_change():
    """The docs quote intervals of these resamples, so they stay the same in every version."""
    values = torch.arange(12) ** 2
    assert clustered_mean(values, range(12), 0).interval == pytest.approx((20.75, 65.58333333333333))


# Distances


def test_mean_of_all_pairs():
    # Sides 3, 4 and 5.
    assert mean_pairwise_distance(tensor(0, 0, 3, 0, 3, 4).reshape(3, 2)) == pytest.approx(4)


def test_equal_points_and_a_single_point():
    assert mean_pairwise_distance(torch.ones(5, 7)) == 0
    assert mean_pairwise_distance(torch.ones(1, 7)) is None


# Bad input


@pytest.mark.parametrize(
    ("values", "names", "line"),
    [
        (tensor(), [], "values are empty"),
        (tensor(1, math.nan), ["a", "b"], "values are not finite"),
        (torch.zeros(2, 2), ["a", "b"], "values has shape (2, 2)"),
        (tensor(1, 2), ["a"], "clusters has 1 names for 2 values"),
    ],
)
def test_bad_values_are_refused(values, names, line):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        clustered_mean(values, names, 0)
    assert str(caught.value).startswith(line)


def test_pairs_must_have_equal_length():
    with pytest.raises(ValueError, match="give both in the same order"):
        paired_difference(tensor(1, 2), tensor(1), ["a", "b"], 0)


def test_points_must_be_a_matrix():
    with pytest.raises(ValueError, match="points has shape"):
        mean_pairwise_distance(tensor(1, 2))


# Median


def test_median_of_an_odd_and_an_even_number():
    assert median_interval(tensor(5, 1, 2)).median == 2
    assert median_interval(tensor(5, 1, 2, 9)).median == 3.5


@pytest.mark.parametrize(
    ("count", "ranks", "coverage"),  # David and Nagaraja, Order Statistics, section 7.1; ranks count from 1
    [
        (2, (1, 2), 0.5),
        (3, (1, 3), 0.75),
        (4, (1, 4), 0.875),
        (5, (1, 5), 0.9375),
        (6, (1, 6), 0.96875),
        (8, (1, 8), 0.9921875),
        (9, (2, 8), 0.9609375),
        (12, (3, 10), 0.96142578125),
        (20, (6, 15), 0.95861053466796875),
    ],
)
def test_the_interval_of_a_median_lies_between_two_order_statistics(count, ranks, coverage):
    values = torch.randperm(count, generator=torch.Generator().manual_seed(0)) + 1
    found = median_interval(values, unit="seed")
    assert found.interval == ranks
    assert found.coverage == pytest.approx(coverage)
    assert ("[min, max]" in found.warning) == (ranks == (1, count))


def test_the_interval_of_a_median_of_five_says_that_it_is_the_range():
    warning = median_interval(tensor(1.58, 1.89, 1.73, 1.85, 3.25), unit="seed").warning
    assert "5 seeds" in warning and "[min, max]" in warning and "93.8%" in warning


def test_another_level_has_other_ranks():
    assert median_interval(torch.arange(9), level=0.5).interval == (2, 6)
    assert median_interval(torch.arange(9), level=0.999).interval == (0, 8)


def test_an_outlier_does_not_move_the_median():
    values = tensor(1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 0.0)
    wild = values.clone()
    wild[8] = 1e6
    assert median_interval(wild).median == median_interval(values).median == pytest.approx(1.55)
    assert median_interval(wild).interval[1] < 2.1


@pytest.mark.parametrize("count", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 6, 9, 12))])
def test_median_intervals_cover_the_median_as_often_as_they_say(count):
    generator, rounds = torch.Generator().manual_seed(count), 2000
    skewed = torch.randn(rounds, count, generator=generator, dtype=torch.float64).exp()  # median 1
    found = [median_interval(row) for row in skewed]
    covered = sum(each.interval[0] <= 1 <= each.interval[1] for each in found) / rounds
    assert covered == pytest.approx(found[0].coverage, abs=0.02)


def test_the_median_of_one_value_has_no_interval():
    one = median_interval(tensor(2), unit="seed")
    assert (one.median, one.interval, one.coverage) == (2, None, None) and "one seed" in one.warning


@pytest.mark.parametrize("values", [tensor(), tensor(1, float("nan")), torch.zeros(2, 2)])
def test_a_median_of_bad_values_is_refused(values):
    with pytest.raises(ValueError, match="values"):
        median_interval(values)
