"""The gradient of an update is the plain policy gradient, however it is computed."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.families.proof import moved
from tests.tiny import descending, experienced, log_prob, perturb, tiny_policy, tiny_sd
from tests.toy_policy import ToyPolicy
from torch import Tensor

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.minibatch import StepBatch, UpdatePart, image_groups, microbatch
from stepcredit.algorithms.ppo import PPO
from stepcredit.algorithms.step_sampling import sample_steps
from stepcredit.config import TrainSection
from stepcredit.credit.contribution import Contribution
from stepcredit.credit.linear import Linear
from stepcredit.credit.uniform import Uniform
from stepcredit.errors import InputError
from stepcredit.maths import gaussian, loss
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.training.update import update_policy
from stepcredit.types import Plan, Prompt, Trajectory, Transition

IMAGES, STEPS = 6, 4
ADVANTAGE = torch.tensor([1.5, -0.3, 0.8, -1.1, 0.4, -2.0])
STEP_ADVANTAGES = torch.randn(IMAGES, STEPS, generator=torch.Generator().manual_seed(3))
EVERY = torch.arange(IMAGES)
PLAN = Plan(STEPS, None)
CLIP_RANGE = 1e-2
SCALER = torch.amp.GradScaler(enabled=False)


def recorded(policy: PipelinePolicy) -> Trajectory:
    """A rollout of `policy` a little off its reference."""
    perturb(policy, 0.05)
    prompts = [Prompt(text) for text in ("a cat", "two dogs", "a red fox", "sea", "sky", "a cat")]
    return policy.rollout(prompts, range(IMAGES), PLAN, keep_x0=True).trajectory


@pytest.fixture(scope="module")
def rolled_out() -> tuple[PipelinePolicy, Trajectory]:
    """In float64, where two ways to add up one gradient differ by 1e-12, not by 1e-5."""
    policy = tiny_policy(tiny_sd().to(dtype=torch.float64))
    for parameter in policy.parameters():
        parameter.data = parameter.data.double()
    return policy, recorded(policy)


def section(**options: Any) -> TrainSection:
    return TrainSection(**{"updates_per_epoch": 2, "learning_rate": 1e-3, "clip_range": CLIP_RANGE, **options})


def gradient(
    policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, group: Tensor = EVERY, **options: Any
) -> Tensor:
    """The flat gradient that an update of `group` accumulates."""
    given = section(**options)
    size = microbatch(given, len(trajectory))
    accumulate_gradient(
        build_algorithm(given),
        policy,
        SCALER,
        experienced(trajectory, advantages),
        UpdatePart(group, len(group), first=True),
        size,
    )
    return taken(policy)


def taken(policy: PipelinePolicy) -> Tensor:
    flat = torch.cat([parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None])
    for parameter in policy.parameters():
        parameter.grad = None
    return flat


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def weighted_log_ratio(policy: PipelinePolicy, trajectory: Trajectory) -> float:
    """sum of M (log p - log p_old) over images and steps."""
    with torch.no_grad():
        new = torch.stack([log_prob(policy, trajectory, step) for step in range(trajectory.steps)], dim=1)
    return float((STEP_ADVANTAGES * (new - trajectory.log_probs)).sum())


def permuted(trajectory: Trajectory, order: Tensor) -> Trajectory:
    return replace(
        trajectory,
        latents=trajectory.latents[order],
        log_probs=trajectory.log_probs[order],
        prompts=[trajectory.prompts[index] for index in order],
        recording=trajectory.recording.rows(order),
    )


@pytest.mark.parametrize(("count", "updates"), [(6, 2), (7, 3), (5, 5), (4, 1)])
def test_groups_are_a_partition_of_nearly_equal_parts(count: int, updates: int) -> None:
    groups = list(image_groups(count, updates, np.random.default_rng(0)))
    assert len(groups) == updates
    assert sorted(torch.cat(groups).tolist()) == list(range(count))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert all(group.tolist() == sorted(group.tolist()) for group in groups)


def test_groups_are_drawn_by_the_generator() -> None:
    first, again, other = (
        [group.tolist() for group in image_groups(8, 2, np.random.default_rng(seed))] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_more_updates_than_images() -> None:
    with pytest.raises(InputError, match=r"train\.updates_per_epoch is 5 but the epoch has only 4 images"):
        list(image_groups(4, 5, np.random.default_rng(0)))


def test_whole_groups_micro_batches_and_single_forwards_have_one_gradient(
    rolled_out: tuple[PipelinePolicy, Trajectory],
) -> None:
    policy, trajectory = rolled_out
    whole = gradient(policy, trajectory, STEP_ADVANTAGES)
    assert whole.norm() > 0
    for size in (1, 4):
        assert relative(gradient(policy, trajectory, STEP_ADVANTAGES, microbatch=size), whole) < 1e-9

    for image in range(IMAGES):
        for step in range(STEPS):
            row = torch.tensor([image])
            new, old = log_prob(policy, trajectory, step, row), trajectory.log_probs[row, step]
            value = loss.clipped_surrogate(new, old, STEP_ADVANTAGES[row, step], CLIP_RANGE)
            (value.sum() / (IMAGES * STEPS)).backward()
    assert relative(taken(policy), whole) < 1e-9


def test_gradient_of_the_first_update_is_the_policy_gradient(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    group = torch.tensor([0, 2, 5])
    objective = sum(
        (STEP_ADVANTAGES[group, step] * log_prob(policy, trajectory, step, group)).sum() for step in range(STEPS)
    )
    (-objective / (len(group) * STEPS)).backward()
    expected = taken(policy)
    assert relative(gradient(policy, trajectory, STEP_ADVANTAGES, group), expected) < 1e-9


@pytest.mark.parametrize("step", range(STEPS))
def test_an_advantage_trains_the_step_it_belongs_to(rolled_out: tuple[PipelinePolicy, Trajectory], step: int) -> None:
    policy, trajectory = rolled_out
    single = torch.zeros(IMAGES, STEPS)
    single[:, step] = ADVANTAGE
    (-(ADVANTAGE * log_prob(policy, trajectory, step)).sum() / (IMAGES * STEPS)).backward()
    expected = taken(policy)
    assert relative(gradient(policy, trajectory, single), expected) < 1e-9


def test_order_of_the_images_leaves_the_gradient_as_it_is(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = gradient(policy, permuted(trajectory, order), STEP_ADVANTAGES[order], microbatch=4)
    assert relative(shuffled, gradient(policy, trajectory, STEP_ADVANTAGES)) < 1e-9


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_gradients_of_the_parts_of_an_update_add_up_to_its_gradient(
    rolled_out: tuple[PipelinePolicy, Trajectory], kl_weight: float
) -> None:
    """As several processes share it: parts of different size, each divided by the images of the whole update."""
    policy, given = rolled_out[0], section(kl_weight=kl_weight)
    whole = gradient(*rolled_out, STEP_ADVANTAGES.double(), kl_weight=kl_weight)
    parts, experience = [], experienced(rolled_out[1], STEP_ADVANTAGES.double())
    for part in (EVERY[1:3], EVERY[[0, 3, 4, 5]]):
        accumulate_gradient(build_algorithm(given), policy, SCALER, experience, UpdatePart(part, IMAGES), 3)
        parts.append(taken(policy))
    assert relative(parts[0] + parts[1], whole) < 1e-10


def test_contribution_at_alpha_1_trains_bitwise_as_uniform(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    uniform, contribution = Uniform()(trajectory, ADVANTAGE), Contribution(window=1, alpha=1.0)(trajectory, ADVANTAGE)
    assert torch.equal(gradient(policy, trajectory, contribution), gradient(policy, trajectory, uniform))
    credited = Contribution(window=1)(trajectory, ADVANTAGE)
    assert relative(gradient(policy, trajectory, credited), gradient(policy, trajectory, uniform)) > 1e-2


def test_contribution_in_one_window_trains_bitwise_as_linear(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    assert trajectory.x0 is not None
    seen = replace(trajectory, latents=trajectory.latents.float(), x0=trajectory.x0.float())
    linear, contribution = Linear()(seen, ADVANTAGE), Contribution(window=STEPS)(seen, ADVANTAGE)
    assert torch.equal(gradient(policy, trajectory, contribution), gradient(policy, trajectory, linear))


def test_clipped_ratios_have_no_gradient(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    beyond = replace(trajectory, log_probs=trajectory.log_probs - 0.5)
    gain = torch.ones(IMAGES, STEPS)
    assert torch.equal(gradient(policy, beyond, gain), torch.zeros_like(gradient(policy, trajectory, gain)))
    assert gradient(policy, beyond, -gain).norm() > 0


def test_kl_pulls_towards_the_reference_and_is_zero_at_it() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout([Prompt("a cat")] * IMAGES, range(IMAGES), PLAN).trajectory
    none = torch.zeros(IMAGES, STEPS)
    at_reference = gradient(policy, trajectory, none, kl_weight=0.5)
    assert torch.equal(at_reference, torch.zeros_like(at_reference))

    perturb(policy, 0.05)
    with torch.no_grad():
        means = [policy.replay(trajectory, step) for step in range(STEPS)]
        with policy.reference():
            base = [policy.replay(trajectory, step).mean for step in range(STEPS)]
    expected = sum(float(gaussian.kl(now.mean, was, now.std).mean()) for now, was in zip(means, base, strict=True))
    pulled = section(kl_weight=0.5)
    statistics = accumulate_gradient(
        build_algorithm(pulled), policy, SCALER, experienced(trajectory, none), UpdatePart(EVERY, IMAGES), 4
    )
    measured = [float(value) for value in statistics.means["reference_kl"]]
    assert min(measured) > 0
    total = sum(value * pairs for value, pairs in zip(measured, statistics.pairs, strict=True))
    assert total / IMAGES == pytest.approx(expected, rel=1e-4)

    pull = taken(policy)
    weights = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    descended = weights - 1e-3 * pull / pull.norm()
    torch.nn.utils.vector_to_parameters(descended, policy.parameters())
    statistics = accumulate_gradient(
        build_algorithm(pulled), policy, SCALER, experienced(trajectory, none), UpdatePart(EVERY, IMAGES), 4
    )
    pulled_back = [float(value) for value in statistics.means["reference_kl"]]
    assert sum(map(operator.mul, pulled_back, statistics.pairs)) < total


def test_kl_adds_to_the_gradient(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    none = torch.zeros(IMAGES, STEPS)
    apart = gradient(policy, trajectory, STEP_ADVANTAGES) + gradient(policy, trajectory, none, kl_weight=0.5)
    assert relative(gradient(policy, trajectory, STEP_ADVANTAGES, kl_weight=0.5), apart) < 1e-9


def test_the_reference_is_entered_once_per_update(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    trajectory = recorded(policy)
    entered, own = [], policy.reference
    monkeypatch.setattr(policy, "reference", lambda: entered.append(True) or own())
    gradient(policy, trajectory, STEP_ADVANTAGES, kl_weight=0.5, microbatch=3)
    assert len(entered) == 1


def test_steps_without_variance_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(tiny_sd(set_alpha_to_one=True))
    trajectory = recorded(policy)
    replayed: Counter[int] = Counter()
    own = policy.replay

    def counting(trajectory: Trajectory, step: Tensor, rows: Tensor | None = None) -> Any:
        replayed.update(step.tolist())
        return own(trajectory, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(policy, "replay", counting)
        whole = gradient(policy, trajectory, STEP_ADVANTAGES)
    assert replayed == dict.fromkeys(range(3), IMAGES)
    assert whole.isfinite().all() and whole.norm() > 0
    (
        -sum((STEP_ADVANTAGES[:, step] * log_prob(policy, trajectory, step)).sum() for step in range(3)) / (IMAGES * 3)
    ).backward()
    assert relative(taken(policy), whole) < 1e-4


def test_a_trajectory_with_nothing_to_train(rolled_out: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = rolled_out
    with pytest.raises(InputError, match="no step is trained"):
        gradient(policy, replace(trajectory, trainable=torch.zeros(STEPS, dtype=torch.bool)), STEP_ADVANTAGES)


def updated(policy: PipelinePolicy, trajectory: Trajectory, **options: Any) -> tuple[dict[str, float], list[Any]]:
    given = section(**options)
    ticks: list[Any] = []
    figures = update_policy(
        build_algorithm(given),
        policy,
        descending(policy, given),
        experienced(trajectory, STEP_ADVANTAGES),
        given,
        np.random.default_rng(0),
        lambda done, total: ticks.append((done, total)),
    )
    return figures, ticks


def test_the_first_update_of_the_whole_epoch_starts_at_ratio_1() -> None:
    policy = tiny_policy()
    figures, ticks = updated(policy, recorded(policy), updates_per_epoch=1)
    assert ticks == [(1, 1)]
    assert figures["ratio_max_deviation"] == 0.0
    assert figures["approx_kl"] == 0.0 and figures["clip_fraction"] == 0.0
    assert figures["loss"] == pytest.approx(-float(STEP_ADVANTAGES.mean()), abs=1e-6)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_later_updates_leave_the_first_ratio_alone() -> None:
    policy = tiny_policy()
    figures, ticks = updated(policy, recorded(policy), inner_epochs=3, learning_rate=1.0)
    assert ticks == [(done, 6) for done in range(1, 7)]
    assert figures["ratio_max_deviation"] <= 1e-6 < figures["approx_kl"]
    assert figures["clip_fraction"] > 0


def test_the_gradient_norm_is_clipped_after_it_is_measured() -> None:
    policy = tiny_policy()
    trajectory = recorded(policy)
    norm = gradient(policy, trajectory, STEP_ADVANTAGES).norm()
    before = torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()
    figures, _ = updated(policy, trajectory, updates_per_epoch=1, max_grad_norm=float(norm) / 4, learning_rate=1.0)
    moved = torch.nn.utils.parameters_to_vector(policy.parameters()).detach() - before
    assert figures["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert float(moved.norm()) == pytest.approx(float(norm) / 4, rel=1e-3)


def test_an_update_makes_rewarded_steps_more_likely() -> None:
    policy = tiny_policy()
    trajectory = recorded(policy)
    updated(policy, trajectory, updates_per_epoch=1, learning_rate=0.1)
    assert weighted_log_ratio(policy, trajectory) > 0


EIGHT = torch.arange(8)


class Watched(ToyPolicy):
    """Remembers the pairs of every replay as (rows, steps)."""

    def __init__(self) -> None:
        super().__init__(STEPS)
        self.replayed: list[tuple[list[int], list[int]]] = []

    def replay(self, trajectory: Trajectory, step: int | Tensor, rows: Tensor | None = None) -> Transition:
        assert isinstance(step, Tensor) and rows is not None
        self.replayed.append((rows.tolist(), step.tolist()))
        return super().replay(trajectory, step, rows)


def toy_trajectory(count: int = 8) -> tuple[Watched, Trajectory, Tensor]:
    """A toy, a trajectory of it that it has meanwhile moved away from, and step advantages."""
    policy = Watched()
    trajectory = policy.rollout([Prompt("a lake")] * count, range(count), PLAN).trajectory
    with torch.no_grad():
        policy.target += torch.tensor([[[0.03, -0.02], [0.01, 0.05]]])
    return policy, trajectory, torch.randn(count, STEPS, generator=torch.Generator().manual_seed(5))


def toy_gradient(group: Tensor = EIGHT, **options: Any) -> tuple[Tensor, Watched]:
    policy, trajectory, advantages = toy_trajectory()
    return gradient(policy, trajectory, advantages, group, **options), policy


@pytest.mark.parametrize(
    "kl",
    [{}, {"kl_weight": 0.5}, {"kl_weight": 0.5, "kl_space": "prediction"}, {"kl_weight": 0.5, "kl_space": "flow_grpo"}],
)
@pytest.mark.parametrize("group", [EIGHT, torch.tensor([1, 3, 4, 7])])
def test_copies_that_fill_a_micro_batch_add_nothing_to_the_gradient(group: Tensor, kl: dict[str, Any]) -> None:
    whole, _ = toy_gradient(group, **kl)
    for size in (3, 5, 8, 20):
        filled, _ = toy_gradient(group, microbatch=size, **kl)
        torch.testing.assert_close(filled, whole, rtol=1e-5, atol=1e-7)


class OneStep(Watched):
    mixes_steps = False


def pairs_of(replays: list[tuple[list[int], list[int]]]) -> list[tuple[int, int]]:
    return sorted({pair for rows, steps in replays for pair in zip(rows, steps, strict=True)})


@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_every_replay_has_as_many_pairs_as_a_micro_batch(kl_weight: float) -> None:
    group = torch.tensor([0, 2, 3, 5, 7])
    _, policy = toy_gradient(group, microbatch=3, kl_weight=kl_weight)
    once = -(-len(group) * STEPS // 3)
    assert len(policy.replayed) == once * (2 if kl_weight else 1)
    assert all(len(rows) == len(steps) == 3 for rows, steps in policy.replayed)
    assert policy.replayed[:2] == [([0, 2, 3], [0, 0, 0]), ([5, 7, 0], [0, 0, 1])]
    assert policy.replayed[:once] == policy.replayed[-once:]
    assert pairs_of(policy.replayed) == [(row, step) for row in group.tolist() for step in range(STEPS)]


@pytest.mark.parametrize("microbatch", [None, 3])
def test_a_short_batch_is_filled_up(microbatch: int | None) -> None:
    _, policy = toy_gradient(torch.tensor([1, 3]), updates_per_epoch=3, microbatch=microbatch)
    assert all(len(rows) == 3 for rows, _ in policy.replayed)
    last = policy.replayed[-1]
    assert last == (([3, 3, 3], [STEPS - 1] * 3) if 2 * STEPS % 3 == 1 else ([1, 3, 3], [STEPS - 1] * 3))


def test_a_policy_of_one_step_at_a_time_gets_one() -> None:
    policy = OneStep()
    recorded, (_, trajectory, advantages) = policy, toy_trajectory()
    with torch.no_grad():
        policy.target += torch.tensor([[[0.03, -0.02], [0.01, 0.05]]])
    group = torch.tensor([0, 2, 3, 5, 7])
    found = gradient(recorded, trajectory, advantages, group, microbatch=3)
    assert policy.replayed == [(rows, [step] * 3) for step in range(STEPS) for rows in ([0, 2, 3], [5, 7, 7])]
    torch.testing.assert_close(found, toy_gradient(group, microbatch=3)[0], rtol=1e-5, atol=1e-7)


def test_uneven_updates_replay_exactly() -> None:
    """Groups of 2, 2, 1 and 1 of 6 images: all are replayed two at a time, as they were sampled."""
    policy = tiny_policy()
    perturb(policy, 0.05)
    prompts = [Prompt(text) for text in ("a cat", "two dogs", "a red fox", "sea", "sky", "a cat")]
    trajectory = policy.rollout(prompts, range(IMAGES), replace(PLAN, batch=2)).trajectory
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for group in image_groups(IMAGES, 4, rng):
            given = section(updates_per_epoch=4)
            size = microbatch(given, IMAGES)
            assert size == 2
            experience, part = experienced(trajectory, STEP_ADVANTAGES), UpdatePart(group, len(group), first=True)
            statistics = accumulate_gradient(build_algorithm(given), policy, SCALER, experience, part, size)
            assert all(float(value) == 0.0 for value in statistics.maxima["ratio_max_deviation"])


@pytest.mark.parametrize("kl_space", ["log_prob", "flow_grpo", "prediction"])
def test_every_image_counts_once_in_the_figures(kl_space: str) -> None:
    figures = []
    for size in (3, 8):
        policy, trajectory, advantages = toy_trajectory()
        given = section(updates_per_epoch=1, kl_weight=0.5, kl_space=kl_space, microbatch=size)
        rng, optimizer = np.random.default_rng(0), descending(policy, given)
        figures.append(
            update_policy(build_algorithm(given), policy, optimizer, experienced(trajectory, advantages), given, rng)
        )
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert 0 < figures[0]["clip_fraction"] < 1
    assert all(figures[0][name] > 0 for name in ("approx_kl", "reference_kl", "ratio_max_deviation", "grad_norm"))


def test_kl_in_prediction_space_is_the_distance_of_the_outputs() -> None:
    """The toy's output differs from its reference's by its target; its mean by half of that."""
    policy, trajectory, _ = toy_trajectory()
    none = torch.zeros(8, STEPS)
    for kl_space, scale in (("prediction", 1.0), ("log_prob", 0.25 / (2 * 0.3**2))):
        given = section(kl_weight=0.5, kl_space=kl_space)
        statistics = accumulate_gradient(
            build_algorithm(given), policy, SCALER, experienced(trajectory, none), UpdatePart(EIGHT, 8), 3
        )
        expected = scale * float(policy.target.detach().square().mean())
        measured = [float(value) for value in statistics.means["reference_kl"]]
        assert measured == pytest.approx([expected] * len(statistics.pairs), rel=1e-4)
        pull = 0.5 * scale * 2 * policy.target.detach().flatten() / 4
        torch.testing.assert_close(taken(policy), pull, rtol=1e-4, atol=1e-8)


def test_an_unknown_kl_space_is_an_error() -> None:
    assert section().kl_space == "log_prob"
    with pytest.raises(ValueError, match="or 'prediction'"):
        section(kl_space="velocity")


def test_batches_of_one_size_replay_exactly() -> None:
    policy = tiny_policy()
    perturb(policy, 0.05)
    prompts = [Prompt(text) for text in ("a cat", "two dogs", "a red fox", "sea", "sky", "a cat")]
    trajectory = policy.rollout(prompts, range(IMAGES), replace(PLAN, batch=4)).trajectory
    figures, _ = updated(policy, trajectory, updates_per_epoch=1, microbatch=4)
    assert figures["ratio_max_deviation"] == 0.0


@pytest.mark.parametrize(
    ("sampler", "std_dev_t"),
    [
        ("flow-sde", lambda before, _: 0.7 * (before / (1 - before)).sqrt()),
        ("dance-sde", lambda before, _: torch.full_like(before, 0.7)),
        ("cps", lambda _, after: after * math.sin(0.35 * math.pi)),
        ("cps-gaussian", lambda _, after: after * math.sin(0.35 * math.pi)),
    ],
)
def test_the_kl_of_flow_grpo(sampler: str, std_dev_t: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Its code: ((mean - reference mean)^2).mean() / (2 std_dev_t^2), where only an SDE's lacks the step length."""
    policy = moved("sd3", sample={"sampler": sampler, "noise_level": 0.7})
    trajectory = policy.rollout([Prompt("a cat")] * 2, range(2), Plan(4, range(4))).trajectory
    batch = StepBatch(
        experienced(trajectory, torch.zeros(2, 4)), torch.tensor([0, 1]), torch.tensor([1, 2]), 2, None, True
    )
    transition, anchor = batch.replay(policy), torch.zeros_like(trajectory.final)
    found = PPO(kl_weight=1.0, kl_space="flow_grpo")._divergence(transition, anchor)
    levels = trajectory.schedule.sigmas
    deviations = std_dev_t(levels[1:3], levels[2:4])
    expected = (transition.mean**2).flatten(1).mean(1) / (2 * deviations**2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("drawn", [None, 2])
@pytest.mark.parametrize("mixed", [True, False])
def test_an_update_is_the_mean_over_the_images_that_are_kept(
    rolled_out: tuple[PipelinePolicy, Trajectory], mixed: bool, drawn: int | None
) -> None:
    policy, trajectory = rolled_out
    kept = torch.tensor([True, False, True, True, False, True])
    given = section(sampled_steps=drawn, step_sampling="uniform")
    sampled = sample_steps(given, trajectory.trainable, STEP_ADVANTAGES, 0, 0)
    whole = replace(experienced(trajectory, STEP_ADVANTAGES), sampled=sampled)
    gradients = []
    for experience, group in ((replace(whole, kept=kept), EVERY), (whole, EVERY[kept])):
        part = experience.part(group, mixed=mixed, first=True)
        assert part.images == 4 and part.rows.tolist() == [0, 2, 3, 5]
        accumulate_gradient(build_algorithm(given), policy, SCALER, experience, part, 4)
        gradients.append(taken(policy))
    assert gradients[0].any() and torch.equal(*gradients)
    assert replace(whole, kept=kept).part(EVERY[~kept], mixed=mixed, first=True).images == 0
