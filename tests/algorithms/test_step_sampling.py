"""Updates on drawn steps: their expected gradient is that of all steps, and what they report is consistent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.algorithms.test_ppo import SCALER, OneStep, Watched, section, taken, toy_trajectory
from tests.tiny import descending, experienced
from tests.toy_policy import ToyPolicy, toy_config
from tests.training.test_trainer import finish, resume, rows, start, state
from torch import Tensor

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.metrics import UpdateMetrics
from stepcredit.algorithms.minibatch import UpdatePart, microbatch, pair_batches
from stepcredit.algorithms.step_sampling import SampledSteps, sample_steps
from stepcredit.maths.step_sampling import inclusion_probabilities
from stepcredit.training.update import update_policy
from stepcredit.types import Trajectory

IMAGES, STEPS = 8, 4
GROUP = torch.tensor([1, 3, 4, 7])
KL = {"kl_weight": 0.5, "kl_space": "prediction"}


def sampled_trajectory(kind: type[Watched] = Watched) -> tuple[Watched, Trajectory, Tensor]:
    """As `toy_trajectory`, with steps of different native scales and an image of no advantage."""
    policy, trajectory, advantages = toy_trajectory(IMAGES)
    other = kind()
    other.load_state_dict(policy.state_dict())
    scales = replace(trajectory.schedule, output_scales=torch.tensor([0.5, 0.1, 3.0, 0.3]))
    advantages[4] = 0
    return other, replace(trajectory, schedule=scales), advantages


def scored(trajectory: Trajectory, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """What `sample_steps` takes: the trained steps, and how much each matters to ppo."""
    return trajectory.trainable, build_algorithm(section()).step_scores(trajectory, advantages)


def draw_of(trajectory: Trajectory, advantages: Tensor, epoch: int = 0, **options: Any) -> SampledSteps:
    found = sample_steps(section(**options), *scored(trajectory, advantages), 5, epoch)
    assert found is not None
    return found


def gradient(
    policy: Watched, trajectory: Trajectory, advantages: Tensor, weights: Tensor | None, **options: Any
) -> tuple[Tensor, UpdateMetrics]:
    given = section(**options)
    size = microbatch(given, len(trajectory))
    statistics = accumulate_gradient(
        build_algorithm(given),
        policy,
        SCALER,
        experienced(trajectory, advantages),
        UpdatePart(GROUP, len(GROUP), weights),
        size,
    )
    return taken(policy), statistics


@pytest.mark.parametrize("options", [{}, {"step_sampling": "uniform"}, KL])
@pytest.mark.parametrize("kind", [Watched, OneStep])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_expected_gradient_is_that_of_all_steps(kind: type[Watched], count: int, options: dict[str, Any]) -> None:
    """Every start in [0, 1) for all images alike: each image sees its own expectation, and it is these that add up."""
    policy, trajectory, advantages = sampled_trajectory(kind)
    whole, _ = gradient(policy, trajectory, advantages, None, **options)
    draw = draw_of(trajectory, advantages, sampled_steps=count, **options)
    shared = not policy.mixes_steps
    mean = mean_weights(draw, shared)
    torch.testing.assert_close(mean[GROUP], torch.ones(4, STEPS), atol=1e-5, rtol=0)

    some = [
        float(gradient(policy, trajectory, advantages, weights, **options)[0].norm()) for weights in weights_of(draw, 5)
    ]
    assert max(some) - min(some) > 1e-4, "single draws differ"
    # The gradient is linear in the weights, so that of the mean weights is the mean gradient.
    expected, _ = gradient(policy, trajectory, advantages, mean, **options)
    torch.testing.assert_close(expected, whole, rtol=1e-4, atol=1e-5 * float(whole.norm()))


def mean_weights(draw: SampledSteps, shared: bool) -> Tensor:
    """Over all starts, exactly: between the places where one of the probabilities ends nothing changes."""
    scores = draw.scores[GROUP].mean(0, keepdim=True) if shared else draw.scores[GROUP]
    probabilities = inclusion_probabilities(scores, draw.trainable, draw.count)
    ends = probabilities.masked_fill(probabilities >= 1, 0).cumsum(1).remainder(1).flatten()
    marks = torch.cat([torch.tensor([0.0, 1.0]).double(), ends]).unique()
    mean = torch.zeros(IMAGES, STEPS)
    for middle, length in zip((marks[1:] + marks[:-1]) / 2, marks.diff().tolist(), strict=True):
        mean += length * replace(draw, starts=middle.expand(IMAGES)).weights(GROUP, shared=shared)
    return mean


def weights_of(draw: SampledSteps, count: int) -> list[Tensor]:
    starts = torch.rand(count, IMAGES, generator=torch.Generator().manual_seed(1)).double()
    return [replace(draw, starts=start).weights(GROUP, shared=False) for start in starts]


def test_the_mean_over_many_draws_is_the_gradient_of_all_steps() -> None:
    policy, trajectory, advantages = sampled_trajectory()
    whole, _ = gradient(policy, trajectory, advantages, None)
    draw = draw_of(trajectory, advantages, sampled_steps=2)
    found = torch.stack([gradient(policy, trajectory, advantages, weights)[0] for weights in weights_of(draw, 400)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - whole).abs() < 4 * error).all()
    assert (error < 0.2 * whole.norm()).all(), "or nothing would be shown"


def test_the_gradient_is_linear_in_the_weights() -> None:
    policy, trajectory, advantages = sampled_trajectory()
    one, other = weights_of(draw_of(trajectory, advantages, sampled_steps=2), 2)
    apart = sum(gradient(policy, trajectory, advantages, weights, **KL)[0] for weights in (one, other))
    together, _ = gradient(policy, trajectory, advantages, one + other, **KL)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-8)


def test_credit_draws_vary_less_than_even_ones() -> None:
    _, trajectory, advantages = sampled_trajectory()
    native = trajectory.schedule.native_scales
    spread = {}
    for way in ("credit", "uniform"):
        draw = draw_of(trajectory, advantages, sampled_steps=2, step_sampling=way)
        sizes = advantages.abs() * native  # what the scores take a step's gradient to be
        found = torch.stack([(weights * sizes)[GROUP].sum() for weights in weights_of(draw, 500)])
        spread[way] = float(found.std())
    assert spread["credit"] < spread["uniform"] / 2


def test_every_image_has_as_many_steps_and_only_those_of_the_update() -> None:
    policy, trajectory, advantages = sampled_trajectory()
    weights = draw_of(trajectory, advantages, sampled_steps=2).weights(GROUP, shared=False)
    assert (weights > 0).sum(1).tolist() == [2 if image in GROUP else 0 for image in range(IMAGES)]
    assert len({tuple(row) for row in (weights[GROUP] > 0).tolist()}) > 1, "steps of their own"
    gradient(policy, trajectory, advantages, weights, microbatch=4)
    replayed = [pair for images, steps in policy.replayed for pair in zip(images, steps, strict=True)]
    assert sorted(replayed) == [tuple(pair) for pair in (weights > 0).nonzero().tolist()]
    assert len(policy.replayed) == 2 and len(set(policy.replayed[0][1])) > 1, "two full batches of mixed steps"


def test_a_policy_of_one_step_at_a_time_draws_for_all_images_of_an_update() -> None:
    policy, trajectory, advantages = sampled_trajectory(OneStep)
    draw = draw_of(trajectory, advantages, sampled_steps=2)
    weights = draw.weights(GROUP, shared=True)
    assert torch.equal(weights[GROUP], weights[GROUP][:1].expand(4, -1)) and (weights > 0).sum() == 8
    gradient(policy, trajectory, advantages, weights, microbatch=4)
    assert [(images, len(set(steps))) for images, steps in policy.replayed] == [(GROUP.tolist(), 1)] * 2
    drawn = {tuple(draw.weights(torch.tensor([row, 7]), shared=True)[7].tolist()) for row in range(7)}
    assert len(drawn) > 1, "updates differ"


def test_a_draw_depends_on_run_epoch_and_image_alone() -> None:
    _, trajectory, advantages = sampled_trajectory()
    first, again, later = (draw_of(trajectory, advantages, epoch, sampled_steps=2) for epoch in (3, 3, 4))
    assert torch.equal(first.starts, again.starts) and not torch.equal(first.starts, later.starts)
    whole, part = (first.weights(group, shared=False) for group in (torch.arange(IMAGES), GROUP))
    assert torch.equal(whole[GROUP], part[GROUP])
    other = sample_steps(section(sampled_steps=2), *scored(trajectory, advantages), 6, 3)
    assert other is not None and not torch.equal(other.starts, first.starts)


@pytest.mark.parametrize("count", [None, STEPS, STEPS + 1])
def test_sampling_all_trained_steps_is_no_sampling(count: int | None) -> None:
    _, trajectory, advantages = sampled_trajectory()
    assert sample_steps(section(sampled_steps=count), *scored(trajectory, advantages), 0, 0) is None
    untrained = replace(trajectory, trainable=torch.tensor([True, True, True, False]))
    assert (sample_steps(section(sampled_steps=3), *scored(untrained, advantages), 0, 0)) is None


@pytest.mark.parametrize("size", [3, 4, 8])
def test_figures_are_weighted_as_the_loss_is(size: int) -> None:
    def noisier() -> tuple[Watched, Trajectory, Tensor]:
        """The last step draws more noise, so that the KL is not alike at all steps."""
        policy, trajectory, advantages = sampled_trajectory()
        policy.last_std = 0.6
        return policy, trajectory, advantages

    kl = {"kl_weight": 0.5}
    policy, trajectory, advantages = noisier()
    weights = draw_of(trajectory, advantages, sampled_steps=2).weights(GROUP, shared=False)
    _, statistics = gradient(policy, trajectory, advantages, weights, microbatch=size, **kl)
    assert sum(statistics.pairs) == pytest.approx(float(weights.sum()))
    statistics.grad_norm, statistics.maxima["ratio_max_deviation"] = [torch.zeros(())], [torch.zeros(())]
    found = statistics.summary()

    policy, trajectory, advantages = noisier()
    pairs = (weights > 0).nonzero()
    singly = []
    for image, step in pairs.tolist():
        alone = torch.zeros_like(weights)
        alone[image, step] = 1
        _, one = gradient(policy, trajectory, advantages, alone, **kl)
        singly.append([float(one.means[name][0]) for name in ("loss", "approx_kl", "clip_fraction", "reference_kl")])
    expected = np.average(singly, axis=0, weights=weights[pairs[:, 0], pairs[:, 1]].tolist())
    measured = [found[name] for name in ("loss", "approx_kl", "clip_fraction", "reference_kl")]
    assert measured == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_first_ratio_is_1_at_every_drawn_step() -> None:
    policy, trajectory, advantages = sampled_trajectory()
    policy.load_state_dict({"target": torch.zeros(1, 2, 2)})  # as it was when it recorded
    given = section(updates_per_epoch=1, sampled_steps=2)
    draw = sample_steps(given, *scored(trajectory, advantages), 5, 0)
    rng = np.random.default_rng(0)
    figures = update_policy(
        build_algorithm(given), policy, descending(policy, given), experienced(trajectory, advantages, draw), given, rng
    )
    assert figures["ratio_max_deviation"] == 0.0 and figures["approx_kl"] == 0.0
    assert sum(len(images) for images, _ in policy.replayed) == IMAGES * 2


def test_an_update_of_one_step_at_a_time_has_full_batches() -> None:
    policy, trajectory, advantages = sampled_trajectory(OneStep)
    given = section(updates_per_epoch=2, sampled_steps=2)
    experience = experienced(trajectory, advantages, draw_of(trajectory, advantages, sampled_steps=2))
    update_policy(
        build_algorithm(given), policy, descending(policy, given), experience, given, np.random.default_rng(0)
    )
    assert [(len(set(images)), len(set(steps))) for images, steps in policy.replayed] == [(4, 1)] * 4


CHOSEN = torch.tensor([[True, False, True], [False, False, True], [True, False, False], [True, True, True]])


@pytest.mark.parametrize(
    ("mixed", "batches"),
    [
        (True, [([0, 2], [0, 0]), ([3, 3], [0, 1]), ([0, 3], [2, 2])]),
        (False, [([0, 2], [0, 0]), ([3], [0]), ([3], [1]), ([0, 3], [2, 2])]),
    ],
)
def test_chosen_pairs_in_batches(mixed: bool, batches: list[tuple[list[int], list[int]]]) -> None:
    found = pair_batches(torch.tensor([0, 2, 3]), [0, 1, 2], 2, mixed=mixed, chosen=CHOSEN)
    assert [(images.tolist(), steps.tolist()) for images, steps in found] == batches


def test_a_step_that_no_image_drew_is_left_out() -> None:
    found = pair_batches(torch.tensor([0, 2]), [0, 1, 2], 2, mixed=False, chosen=CHOSEN)
    assert [steps.tolist() for _, steps in found] == [[0, 0], [2]]


# Through the trainer


def test_the_reward_rises_on_drawn_steps(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 25, "sampled_steps": 2}, sample={"images_per_prompt": 8})
    found = finish(start(tmp_path, config)).metrics()
    assert sum(row["reward_mean"] for row in found[-5:]) / 5 > sum(row["reward_mean"] for row in found[:5]) / 5 + 0.2
    assert all(row["ratio_max_deviation"] == 0 for row in found)


def test_all_steps_drawn_is_the_run_without_drawing(tmp_path: Path) -> None:
    plain, drawn, some = (
        finish(start(tmp_path / str(count), toy_config(train={"sampled_steps": count}))) for count in (None, 4, 2)
    )
    assert rows(drawn) == rows(plain) and state(drawn)[1] == state(plain)[1]
    assert rows(some)[-1]["reward_mean"] != rows(plain)[-1]["reward_mean"]


def test_a_run_with_sampled_steps_resumes_exactly(tmp_path: Path) -> None:
    def config(epochs: int) -> Any:
        return toy_config(train={"epochs": epochs, "sampled_steps": 2}, credit={"name": "tdpo-r"})

    whole = finish(start(tmp_path / "whole", config(4)))
    finish(start(tmp_path / "parts", config(2)))
    parts = finish(resume(tmp_path / "parts", config(4), ToyPolicy()))
    assert rows(parts) == rows(whole) and state(parts) == state(whole)


@pytest.mark.parametrize("options", [{"sampled_steps": 0}, {"step_sampling": "even"}])
def test_invalid_settings_of_sampled_steps_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        section(**options)
