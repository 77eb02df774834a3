"""The ends of floating point: whatever a run may meet there, losses, gradients and figures stay finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_sd
from tests.toy_policy import toy_config
from tests.training.test_trainer import start
from torch import Tensor

from stepcredit.maths import Transition, credit, gaussian, loss
from stepcredit.maths.advantage import group_advantages, standardize
from stepcredit.maths.running_statistics import PromptStatistics, StepStatistics
from stepcredit.types import Prompt

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LARGEST = torch.finfo(torch.float32).max
TINY = torch.finfo(torch.float32).tiny


# Half precision: the density is that of the latents that the pipeline consumes


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probs_are_of_the_rounded_latents(dtype: str) -> None:
    policy = tiny_policy(tiny_sd().to(dtype=DTYPES[dtype]), dtype=dtype)
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    assert trajectory.latents.dtype == DTYPES[dtype] and trajectory.log_probs.dtype == torch.float32
    for step in range(trajectory.steps):
        with torch.no_grad():
            transition = policy.replay(trajectory, step)
        rounded = gaussian.log_prob(trajectory.latents[:, step + 1], transition.mean, transition.std)
        assert torch.equal(trajectory.log_probs[:, step], rounded), "a replay finds the very number"
        before = drawn(transition, step, DTYPES[dtype])
        assert torch.equal(before.to(DTYPES[dtype]), trajectory.latents[:, step + 1])
        exact = gaussian.log_prob(before, transition.mean, transition.std)
        assert not torch.equal(rounded, exact), "before rounding it was another"
    assert trajectory.log_probs.isfinite().all()


def drawn(transition: Transition, step: int, dtype: torch.dtype) -> Tensor:
    """What the step drew, before it was rounded: the first latents are drawn in `dtype`, the noise of steps is not."""
    noises = []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        kinds = [dtype, *[torch.float32] * (step + 1)]
        draws = [torch.randn(transition.mean[:1].shape, generator=generator, dtype=kind) for kind in kinds]
        noises.append(draws[-1])
    return gaussian.sample(transition, torch.cat(noises))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_densities_of_half_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4, 3, 8, 8, generator=generator).to(dtype)
    x = (mean.float() + 0.01 * torch.randn(4, 3, 8, 8, generator=generator)).to(dtype)
    expected = gaussian.log_prob(x.double(), mean.double(), torch.tensor(0.01, dtype=torch.float64))
    found = gaussian.log_prob(x, mean, torch.tensor(0.01))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


# Tiny variances


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_std_whose_square_vanishes_is_a_deterministic_step(dtype: torch.dtype) -> None:
    edge = math.sqrt(torch.finfo(dtype).tiny)
    mean, x = torch.zeros(2, 3, dtype=dtype, requires_grad=True), torch.full((2, 3), 1e-3, dtype=dtype)
    for std in (
        edge * 0.99,
        edge * 1e-3,
        torch.finfo(dtype).smallest_normal,
        5e-324 if dtype == torch.float64 else 1e-45,
    ):
        log_prob = gaussian.log_prob(x, mean, torch.tensor(std, dtype=dtype))
        divergence = gaussian.kl(mean, x, torch.tensor(std, dtype=dtype))
        (gradient,) = torch.autograd.grad((log_prob + divergence).sum(), mean)
        assert not log_prob.any() and not divergence.any() and not gradient.any()
    above = gaussian.log_prob(x, mean, torch.tensor(edge * 1.01, dtype=dtype))
    assert above.isfinite().all() and (above < -1e30).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-19, 6), st.floats(-30, 18.5), st.floats(-1, 1))
def test_densities_are_finite_as_documented(std: float, distance: float, sign: float) -> None:
    """|x - mean| < 1e19 and |x - mean| / std < 1e19."""
    std, distance = 10.0**std, math.copysign(10.0**distance, sign)
    if abs(distance) / std > 9e18:
        distance = math.copysign(9e18 * std, sign)
    mean = torch.zeros(1, 4, requires_grad=True)
    x = torch.full((1, 4), distance)
    log_prob = gaussian.log_prob(x, mean, torch.tensor(std))
    divergence = gaussian.kl(mean, x, torch.tensor(std))
    gradients = torch.autograd.grad(log_prob.sum(), mean)[0], torch.autograd.grad(divergence.sum(), mean)[0]
    for value in (log_prob, divergence, *gradients):
        assert value.isfinite().all()


@pytest.mark.parametrize("std", [-1e-30, -0.5, math.nan])
def test_a_std_that_is_a_bug_does_not_pass_as_deterministic(std: float) -> None:
    assert gaussian.log_prob(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor(std)).isnan().all()


# Extreme advantages and ratios


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(-1e19, 1e19), st.floats(-1e19, 1e19), st.floats(-1e29, 1e29), st.floats(1e-6, 10))
def test_loss_and_gradient_are_finite_for_any_ratio_and_advantage(
    new: float, old: float, advantage: float, clip_range: float
) -> None:
    log_prob = torch.tensor([new], requires_grad=True)
    value = loss.clipped_surrogate(log_prob, torch.tensor([old]), torch.tensor([advantage]), clip_range)
    (gradient,) = torch.autograd.grad(value.sum(), log_prob)
    assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("advantage", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("log_ratio", [20.5, 89.0, 1e6])
def test_a_runaway_entry_has_no_gradient(advantage: float, log_ratio: float) -> None:
    log_prob = torch.tensor([log_ratio], requires_grad=True)
    value = loss.clipped_surrogate(log_prob, torch.zeros(1), torch.tensor([advantage]), 0.01)
    (gradient,) = torch.autograd.grad(value.sum(), log_prob)
    assert value.isfinite().all() and not gradient.any()


@pytest.mark.parametrize("log_ratio", [-3.0, -0.004, 0.0, 0.004, 19.9])
def test_below_the_cut_the_surrogate_is_that_of_ppo_to_the_bit(log_ratio: float) -> None:
    log_prob, advantage = torch.tensor([log_ratio]), torch.tensor([-1.5])
    ratio = log_prob.exp()
    expected = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 0.01, 1 + 0.01))
    assert torch.equal(loss.clipped_surrogate(log_prob, torch.zeros(1), advantage, 0.01), expected)


REWARDS = st.floats(-float(LARGEST), float(LARGEST), width=32)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(REWARDS, min_size=1, max_size=6), st.sampled_from([1, 2, 3]))
def test_advantages_of_any_float32_rewards_are_finite_and_bounded(rewards: list[float], groups: int) -> None:
    values = torch.tensor(rewards)
    names = [str(row % groups) for row in range(len(rewards))]
    bound = math.sqrt(len(rewards)) * (1 + 1e-6)
    for advantage in (
        standardize(values),
        group_advantages(values, names),
        PromptStatistics(8, 2).update(names, values),
        StepStatistics(8, 2).update(names, values.unsqueeze(1).expand(-1, 3)),
    ):
        assert advantage.isfinite().all() and advantage.abs().max() <= max(bound, 2.0)


def test_a_buffer_shorter_than_the_batch_is_finite_and_left_to_the_clip() -> None:
    """The first reward has left the buffer, whose equal ones have no spread."""
    advantage = PromptStatistics(buffer_size=2, min_count=1).update(["a"] * 3, torch.tensor([1.0, 0.0, 0.0]))
    assert advantage.tolist() == [pytest.approx(1e6), 0.0, 0.0]


@pytest.mark.parametrize("spread", [0.0, 1e-45, 1e-12, 1e-7])
def test_rewards_that_differ_by_rounding_give_small_advantages(spread: float) -> None:
    rewards = torch.tensor([0.0, spread, 0.0, spread])
    most = float(rewards.max()) / 2e-6 * (1 + 1e-6)
    assert standardize(rewards).abs().max() <= most < 0.051
    assert group_advantages(rewards, ["a"] * 4).abs().max() <= most


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5", None, True, [1.0]])
def test_statistics_refuse_values_that_are_not_finite(value: object) -> None:
    statistics = PromptStatistics()
    statistics.update(["a"], torch.tensor([1.0]))
    with pytest.raises((TypeError, ValueError)):
        statistics.load_state_dict({"b": [value]})  # type: ignore[list-item]
    assert statistics.state_dict() == {"a": [1.0]}


# Identical images, and credit at its limits


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_identical_images_have_no_gain_and_linear_credit(scale: float, clamp: bool) -> None:
    final = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(0)) * scale
    x0 = final.unsqueeze(1).expand(2, 6, 1, 4)
    similarity = credit.cosine_to_final(x0, final.expand(2, 1, 4))
    assert similarity.isfinite().all()
    assert credit.degenerate_rows(similarity, 2).all()
    weights = credit.contribution_weights(similarity, 2, clamp)
    assert torch.equal(weights, credit.linear_weights(6).expand(2, 6))


def test_identical_siblings_do_not_contrast() -> None:
    final = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(0)).expand(3, 1, 4)
    x0 = torch.randn(3, 5, 1, 4, generator=torch.Generator().manual_seed(1))
    contrast = credit.contrast_to_group(x0, final, ["a", "a", "a"])
    assert not contrast.any()
    assert torch.equal(credit.contribution_weights(contrast, 2), credit.linear_weights(5).expand(3, 5))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=9), st.integers(1, 9), st.booleans())
def test_weights_of_any_similarity_are_finite_and_sum_to_one(curve: list[float], window: int, clamp: bool) -> None:
    weights = credit.contribution_weights(torch.tensor([curve]), window, clamp)
    largest = weights.abs().max()
    assert weights.isfinite().all() and largest <= 2.1e6
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0), rtol=0, atol=1e-5 * max(1.0, float(largest)))
    advantages = credit.step_advantages(torch.tensor([5.0]), weights, 0.0).clamp(-5, 5)
    assert advantages.isfinite().all()


# The smallest batch


@pytest.mark.parametrize("advantage", ["group", "running", "batch"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("rule", ["contribution", "uniform"])
def test_one_prompt_one_image_trains_finitely_and_learns_nothing(
    advantage: str, steps: int, rule: str, tmp_path: Path
) -> None:
    config = toy_config(
        sample={"prompts_per_epoch": 1, "images_per_prompt": 1, "steps": steps},
        train={"epochs": 2, "updates_per_epoch": 1, "advantage": advantage, "weight_decay": 0.0},
        credit={"name": rule, "window": 2},
        run={"grid_images": 1},
    )
    trainer = start(tmp_path / "run", config, prompts=[Prompt("a lake")])
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    trainer.train()
    rows = trainer.run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert not [name for row in rows for name, value in row.items() if value is None and name != "peak_memory_bytes"]
    assert all(row["reward_std"] == 0 for row in rows)
    if advantage != "running":  # whose buffer compares the image with those of earlier epochs
        assert all(torch.equal(value, before[name]) for name, value in trainer.policy.state_dict().items())
