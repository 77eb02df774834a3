"""What every registered credit rule keeps to. A new rule is tested here as soon as its file exists."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepcredit.config import CreditSection
from stepcredit.credit import CREDIT, FactorRule, WeightRule, build_credit
from stepcredit.errors import InputError
from stepcredit.types import CreditAssigner, Schedule, Trajectory

RULES = CREDIT.names()
WEIGHTS = [name for name in RULES if isinstance(build_credit(CreditSection(name=name)), WeightRule)]
FACTORS = [name for name in RULES if isinstance(build_credit(CreditSection(name=name)), FactorRule)]
CONTRIBUTIONS = ["contribution", "contribution-batch-mean"]


def rule(name: str, **keys: Any) -> CreditAssigner:
    return build_credit(CreditSection(name=name, **keys))


def schedule(steps: int) -> Schedule:
    """Noise that falls, steps that grow, native scales 1, 2, 3, ..."""
    number = torch.arange(1.0, steps + 1)
    levels = torch.linspace(1, 0, steps + 1)
    return Schedule(1 / number, torch.ones(steps), number.square(), 1 - levels, levels)


def trajectory(x0: Tensor, final: Tensor) -> Trajectory:
    """B trajectories of T steps that predicted `x0` (B, T, *L) and ended in `final` (B, *L)."""
    batch, steps = x0.shape[:2]
    latents = torch.cat([torch.zeros_like(x0), final.unsqueeze(1)], dim=1)
    return Trajectory(
        latents=latents,
        timesteps=torch.arange(steps).flip(0),
        log_probs=torch.zeros(batch, steps),
        trainable=torch.ones(steps, dtype=torch.bool),
        schedule=schedule(steps),
        x0=x0,
        prompts=["a cat"] * batch,
        metadata=[{}] * batch,
    )


def similar(similarity: list[list[float]]) -> Trajectory:
    """TrajectoryBuffer whose predictions have exactly these cosines to a final latent (1, 0)."""
    s = torch.tensor(similarity)
    return trajectory(torch.stack([s, (1 - s**2).sqrt()], dim=2), torch.tensor([[1.0, 0.0]]).expand(len(s), 2))


def settling(batch: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Trajectory:
    """TrajectoryBuffer whose predictions come nearer to the final latent at every step, at a pace of their own."""
    generator = torch.Generator().manual_seed(seed)
    final, start = (torch.randn(batch, 4, 3, 3, generator=generator) for _ in range(2))
    pace = torch.rand(batch, 1, generator=generator) * 2 + 0.5
    mix = (torch.arange(1, steps + 1) / (steps + 1)).pow(pace).view(batch, steps, 1, 1, 1)
    return trajectory((mix * final.unsqueeze(1) + (1 - mix) * start.unsqueeze(1)).to(dtype), final.to(dtype))


def moving(batch: int, steps: int, seed: int = 0) -> Trajectory:
    """As `settling`, with latents that wander."""
    latents = torch.randn(batch, steps + 1, 4, 3, 3, generator=torch.Generator().manual_seed(seed)).cumsum(1)
    return replace(settling(batch, steps, seed), latents=latents)


def advantages(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, generator=torch.Generator().manual_seed(seed))


def spent(name: str, trajectories: Trajectory, **keys: Any) -> Tensor:
    """The multiplier M of a rule."""
    return rule(name, **keys)(trajectories, torch.ones(len(trajectories)))


@pytest.mark.parametrize("name", RULES)
@given(batch=st.integers(1, 4), steps=st.integers(1, 7), window=st.integers(1, 9), alpha=st.floats(0, 1))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_one_finite_float32_row_per_trajectory(name: str, batch: int, steps: int, window: int, alpha: float) -> None:
    assume(name != "drop-last" or steps > 2)
    result = rule(name, window=window, alpha=alpha)(settling(batch, steps), advantages(batch))
    assert result.shape == (batch, steps)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in RULES),
        *((name, {"batch_mean": True}) for name in RULES if hasattr(CREDIT.get(name), "batch_mean")),
    ],
)
def test_compares_images_is_declared_correctly(name: str, options: dict[str, Any]) -> None:
    """Else each of several processes would spread by its own images alone."""
    trajectories, rows = moving(4, 6), [0, 2]
    some = replace(
        trajectories,
        latents=trajectories.latents[rows],
        x0=trajectories.x0[rows],
        prompts=["a cat"] * 2,
        metadata=[{}] * 2,
    )
    given = rule(name, window=2, options=options)
    alike = torch.allclose(given(trajectories, advantages(4))[rows], given(some, advantages(4)[rows]))
    assert alike != given.compares_images


@pytest.mark.parametrize("name", RULES)
def test_alpha_of_one_is_exactly_the_advantage(name: str) -> None:
    advantage = advantages(5)
    result = rule(name, window=2, alpha=1)(settling(5, 6), advantage)
    assert torch.equal(result, advantage.unsqueeze(1).expand(5, 6))


@pytest.mark.parametrize("name", RULES)
def test_alpha_blends_linearly(name: str) -> None:
    trajectories = settling(3, 6)
    ends = [spent(name, trajectories, window=2, alpha=alpha) for alpha in (0, 1)]
    torch.testing.assert_close(spent(name, trajectories, window=2, alpha=0.25), 0.75 * ends[0] + 0.25 * ends[1])


@pytest.mark.parametrize("name", RULES)
def test_the_result_is_linear_in_the_advantage(name: str) -> None:
    trajectories, advantage = settling(4, 5), advantages(4)
    torch.testing.assert_close(rule(name)(trajectories, advantage), advantage.unsqueeze(1) * spent(name, trajectories))


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_sum_to_one(name: str) -> None:
    one, trajectories = rule(name, window=2), settling(4, 7)
    assert isinstance(one, WeightRule)
    weights = one.weights(trajectories)
    assert weights.shape in [(1, 7), (4, 7)]
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_first_step_gets_the_whole_advantage(name: str) -> None:
    advantage = advantages(4)
    torch.testing.assert_close(rule(name, window=2)(settling(4, 7), advantage)[:, 0], advantage)


@pytest.mark.parametrize("name", RULES)
@given(order=st.permutations(range(5)))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_permuting_the_batch_permutes_the_rows(name: str, order: list[int]) -> None:
    trajectories, advantage = settling(5, 6), advantages(5)
    assert trajectories.x0 is not None
    permuted = trajectory(trajectories.x0[order], trajectories.final[order])
    one = rule(name, window=2)
    torch.testing.assert_close(one(permuted, advantage[order]), one(trajectories, advantage)[order])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize(
    "trajectories",
    [
        pytest.param(trajectory(torch.ones(2, 4, 3), torch.ones(2, 3)), id="constant"),
        pytest.param(trajectory(torch.zeros(2, 4, 3), torch.ones(2, 3)), id="zero predictions"),
        pytest.param(trajectory(torch.ones(2, 4, 3), torch.zeros(2, 3)), id="zero final"),
        pytest.param(similar([[0.9, 0.6, 0.3, 0.1]] * 2), id="moving away, then jumping to the final"),
        pytest.param(trajectory(torch.ones(2, 1, 3), torch.ones(2, 3)), id="one step"),
    ],
)
def test_degenerate_trajectories_stay_finite(name: str, clamp: bool, trajectories: Trajectory) -> None:
    options = {"options": {"k": 0}} if name == "drop-last" else {}
    one = rule(name, window=2, clamp=clamp, **options)
    assert one(trajectories, advantages(2)).isfinite().all()
    assert all(math.isfinite(value) for value in one.diagnostics(trajectories).values())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_asks_for_the_predictions_that_it_reads(name: str) -> None:
    trajectories = settling(2, 3)
    blind = Trajectory(**{**vars(trajectories), "x0": None})
    one = rule(name)
    assert isinstance(one, CreditAssigner)
    if one.needs_x0:
        with pytest.raises(InputError, match="keep_x0=True"):
            one(blind, advantages(2))
    else:
        assert one(blind, advantages(2)).shape == (2, 3)
        assert one.diagnostics(blind) == one.diagnostics(trajectories)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("count", [1, 3])
def test_one_advantage_per_trajectory(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="give one per trajectory"):
        rule(name)(settling(2, 3), torch.ones(count))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_described(name: str) -> None:
    doc = CREDIT.get(name).__doc__
    assert doc is not None and doc.splitlines()[0].endswith(".") and len(doc.splitlines()[0]) < 110


@pytest.mark.parametrize("name", RULES)
def test_figures_are_named_for_the_metrics_file(name: str) -> None:
    assert all(key.startswith("credit_") for key in rule(name).diagnostics(settling(2, 3)))


def test_uniform_is_bitwise_the_advantage() -> None:
    advantage = advantages(4)
    assert torch.equal(rule("uniform", alpha=0.3)(settling(4, 50), advantage), advantage.unsqueeze(1).expand(4, 50))


def test_linear_by_hand() -> None:
    expected = torch.tensor([[1.0, 0.75, 0.5, 0.25]]).expand(2, 4)
    torch.testing.assert_close(spent("linear", settling(2, 4)), expected)


@pytest.mark.parametrize("name", FACTORS)
def test_fixed_factors_have_mean_one_over_the_trained_steps(name: str) -> None:
    trajectories = moving(3, 6)
    torch.testing.assert_close(spent(name, trajectories).mean(1), torch.ones(3))
    trainable = torch.tensor([True, True, False, True, True, False])
    factors = spent(name, replace(trajectories, trainable=trainable))
    torch.testing.assert_close(factors[:, trainable].mean(1), torch.ones(3))
    assert not factors[:, ~trainable].any() and (factors >= 0).all()


@pytest.mark.parametrize("name", [name for name in FACTORS if name != "drop-last"])
def test_one_step_gets_the_whole_advantage(name: str) -> None:
    advantage = advantages(2)
    assert torch.equal(rule(name)(moving(2, 1), advantage), advantage.unsqueeze(1))


@pytest.mark.parametrize("name", FACTORS)
def test_steps_without_noise_are_skipped(name: str) -> None:
    trajectories = moving(2, 4)
    still = replace(trajectories.schedule, stds=torch.tensor([0.5, 0.5, 0.5, 0.0]))
    factors = spent(name, replace(trajectories, schedule=still, trainable=still.stds > 0))
    assert factors.isfinite().all() and not factors[:, 3].any() and factors[:, :3].any()


@pytest.mark.parametrize(
    ("name", "options", "factors"),
    [
        ("discount", {"gamma": 0.5}, [12 / 7, 6 / 7, 3 / 7]),  # of 1, 1/2, 1/4
        ("noise-weight", {}, [18 / 11, 9 / 11, 6 / 11]),  # of 1, 1/2, 1/3
        ("step-size", {}, [0.5, 1.0, 1.5]),  # of 1/1, 4/2, 9/3
        ("inverse-native-scale", {}, [18 / 11, 9 / 11, 6 / 11]),  # of 1, 1/2, 1/3
        ("linear-inverse-scale", {}, [27 / 13, 9 / 13, 3 / 13]),  # of 1, 2/3 * 1/2, 1/3 * 1/3
        ("drop-last", {"k": 1}, [1.5, 1.5, 0.0]),
        ("drop-last", {"k": 0}, [1.0, 1.0, 1.0]),
        ("discount", {"gamma": 1}, [1.0, 1.0, 1.0]),
    ],
)
def test_fixed_factors_by_hand(name: str, options: dict[str, Any], factors: list[float]) -> None:
    found = spent(name, settling(2, 3), options=options)
    torch.testing.assert_close(found, torch.tensor([factors]).expand(2, 3))


def test_relative_change_by_hand() -> None:
    # |x| 2, 4, 4 and changes 2, 4: 1 and 1; |x| 1, 1, 4 and changes 2, 3: 2 and 3.
    latents = torch.tensor([[[2.0, 0.0], [2.0, 2.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 4.0]]])
    trajectories = replace(settling(2, 2), latents=latents)
    expected = torch.tensor([[1.0, 1.0], [0.8, 1.2]])
    torch.testing.assert_close(spent("relative-change", trajectories), expected)
    mean = spent("relative-change", trajectories, options={"batch_mean": True})
    torch.testing.assert_close(mean, torch.tensor([[0.9, 1.1]]).expand(2, 2))


def test_a_trajectory_that_nothing_changed_gets_the_same_at_every_step_and_is_counted() -> None:
    trajectories = moving(3, 4)
    trajectories = replace(
        trajectories, latents=torch.cat([trajectories.latents[:2], torch.ones_like(trajectories.latents[:1])])
    )
    assert rule("relative-change").diagnostics(trajectories) == {"credit_fallbacks": 1.0}
    assert torch.equal(spent("relative-change", trajectories)[2], torch.ones(4))


def test_no_step_would_be_left_to_train() -> None:
    trajectories = replace(settling(2, 4), trainable=torch.tensor([True, True, True, False]))
    with pytest.raises(InputError, match=r"credit\.options\.k is 3 but only 3 steps are trained: leave at least one"):
        spent("drop-last", trajectories, options={"k": 3})
    assert spent("drop-last", trajectories, options={"k": 2})[0].tolist() == [3, 0, 0, 0]


def test_contribution_by_hand() -> None:
    # Gains per step .2 .4 .2 over a total of .8, and windows of two: means of (.4 .8) and (1), gains .4 and .4.
    trajectories = similar([[0.2, 0.4, 0.8]])
    torch.testing.assert_close(spent("contribution", trajectories, window=1), torch.tensor([[1.0, 0.75, 0.25]]))
    torch.testing.assert_close(spent("contribution", trajectories, window=2), torch.tensor([[1.0, 0.75, 0.5]]))


def test_contribution_clamped_by_hand() -> None:
    # Gains .4 -.2 .6 over .8: the second step took the image away from where it ended.
    trajectories = similar([[0.2, 0.6, 0.4]])
    torch.testing.assert_close(spent("contribution", trajectories, window=1), torch.tensor([[1.0, 0.5, 0.75]]))
    torch.testing.assert_close(
        spent("contribution", trajectories, window=1, clamp=True), torch.tensor([[1.0, 0.6, 0.6]])
    )


def test_batch_mean_by_hand() -> None:
    # Gains .2 .4 .4 and .6 .2 .2: on average .4 .3 .3 for both.
    trajectories = similar([[0.0, 0.2, 0.6], [0.0, 0.6, 0.8]])
    expected = torch.tensor([[1.0, 0.6, 0.3]]).expand(2, 3)
    torch.testing.assert_close(spent("contribution-batch-mean", trajectories, window=1), expected)


@pytest.mark.parametrize("steps", [1, 3, 20, 50])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("beyond", [0, 7])
def test_contribution_over_one_window_is_bitwise_linear(steps: int, alpha: float, beyond: int) -> None:
    trajectories, advantage = settling(4, steps), advantages(4)
    windowed = rule("contribution", window=steps + beyond, alpha=alpha)(trajectories, advantage)
    assert torch.equal(windowed, rule("linear", alpha=alpha)(trajectories, advantage))


def test_batch_mean_of_one_trajectory_is_contribution() -> None:
    trajectories = settling(1, 10)
    assert torch.equal(
        spent("contribution-batch-mean", trajectories, window=3), spent("contribution", trajectories, window=3)
    )


def test_batch_mean_gives_all_trajectories_one_schedule() -> None:
    rows = spent("contribution-batch-mean", settling(6, 10), window=2)
    assert torch.equal(rows, rows[:1].expand_as(rows))
    torch.testing.assert_close(rows[0], spent("contribution", settling(6, 10), window=2).mean(0))


def test_a_settling_image_spends_its_credit() -> None:
    left = spent("contribution", settling(6, 20), window=5)
    assert (left.diff(dim=1) <= 1e-6).all() and (left >= -1e-6).all() and (left <= 1 + 1e-6).all()


def grouped() -> Trajectory:
    """Two images each of two prompts; siblings end in (5, 4) and (5, 6), their prompt's mean is (5, 5)."""
    final = torch.tensor([[5.0, 4.0], [5.0, 6.0]]).repeat(2, 1)
    x0 = torch.tensor([[[6.0, 5.0], [6.0, 4.0]], [[4.0, 5.0], [5.0, 7.0]]]).repeat(2, 1, 1)
    return replace(trajectory(x0, final), prompts=["a cat", "a cat", "a dog", "a dog"])


def test_group_contrastive_by_hand() -> None:
    # Less (5, 5), predictions (1, 0) (1, -1) to (0, -1), and (-1, 0) (0, 2) to (0, 1): similarity 0 .71 1 and 0 1 1.
    half = 0.5**0.5
    expected = torch.tensor([[1.0, 1 - half], [1.0, 0.0]]).repeat(2, 1)
    torch.testing.assert_close(spent("group-contrastive", grouped(), window=1), expected)
    mean = spent("group-contrastive", grouped(), window=1, options={"batch_mean": True})
    torch.testing.assert_close(mean, torch.tensor([[1.0, (1 - half) / 2]]).expand(4, 2))
    assert rule("group-contrastive", window=1).diagnostics(grouped()) == {
        "credit_fallbacks": 0.0,
        "credit_similarity_start": pytest.approx(0, abs=1e-6),
    }


def laid_out(*shades: float) -> Trajectory:
    """One trajectory whose color is settled at once, and whose layout (left dark, right light) appears step by step.

    Args:
        shades: of the contrast at each step, of which the last picture has 1.
    """
    halves = torch.tensor([-1.0, -1.0, 1.0, 1.0]).expand(1, 4, 4)
    elsewhere = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 4, 1).expand(1, 4, 4).flip(1)
    pictures = [7 + shade * halves + (1 - shade**2) ** 0.5 * elsewhere for shade in shades]
    return trajectory(torch.stack(pictures).unsqueeze(0), 7 + halves.unsqueeze(0))


def test_layout_contribution_ignores_color() -> None:
    trajectories = laid_out(0.0, 0.6, 0.8)
    expected = torch.tensor([[1.0, 0.4, 0.2]])  # similarities 0, .6, .8, 1
    torch.testing.assert_close(spent("layout-contribution", trajectories, window=1), expected)
    figures = rule("layout-contribution", window=1).diagnostics(trajectories)
    assert figures == {"credit_fallbacks": 0, "credit_similarity_start": pytest.approx(0, abs=1e-6)}
    assert rule("contribution", window=1).diagnostics(trajectories)["credit_similarity_start"] > 0.95


def test_layout_contribution_may_share_the_mean_of_the_batch() -> None:
    trajectories = settling(4, 6)
    shared = rule("layout-contribution", options={"batch_mean": True})
    rows = spent("layout-contribution", trajectories, options={"batch_mean": True})
    torch.testing.assert_close(rows, spent("layout-contribution", trajectories).mean(0, keepdim=True).expand(4, 6))
    assert shared.compares_images and not rule("layout-contribution").compares_images


def test_one_cell_has_no_layout() -> None:
    with pytest.raises(InputError, match=r"credit\.options\.cells is 1, expected 2 or more"):
        rule("layout-contribution", options={"cells": 1})


def test_an_image_alone_in_its_group_gets_linear_credit_and_is_counted() -> None:
    trajectories = replace(settling(3, 5), prompts=["a cat", "a dog", "a fox"])
    assert torch.equal(spent("group-contrastive", trajectories), spent("linear", trajectories))
    assert rule("group-contrastive").diagnostics(trajectories)["credit_fallbacks"] == 3


@pytest.mark.parametrize("name", CONTRIBUTIONS)
def test_half_precision_latents_give_nearly_the_same_credit(name: str) -> None:
    exact, half = (settling(3, 10, dtype=dtype) for dtype in (torch.float32, torch.float16))
    torch.testing.assert_close(spent(name, half), spent(name, exact), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", CONTRIBUTIONS)
def test_figures_of_the_contribution_rules(name: str) -> None:
    trajectories = similar([[0.25, 0.5], [1.0, 1.0], [0.25, 0.5], [1.0, 0.5]])
    assert rule(name, window=1).diagnostics(trajectories) == {"credit_fallbacks": 2.0, "credit_similarity_start": 0.625}


def test_a_trajectory_without_gain_gets_linear_credit() -> None:
    trajectories = similar([[1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
    assert torch.equal(spent("contribution", trajectories, window=1)[0], spent("linear", trajectories)[0])
