"""Forward matching on the toy policy: what it asks for, where its gradient points, and that a reward rises."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.loop import training_loop
from tests.tiny import experienced
from tests.toy_policy import ToyPolicy, toy_config
from torch import Tensor

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.matching import ANCHORS, OBJECTIVES, Matching
from stepcredit.algorithms.metrics import UpdateMetrics
from stepcredit.algorithms.minibatch import Experience, UpdatePart
from stepcredit.algorithms.old_weights import OldWeights
from stepcredit.algorithms.sampling_plan import training_plan
from stepcredit.config import TrainSection
from stepcredit.credit import build_credit
from stepcredit.errors import InputError
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Plan, Prompt, Trajectory

IMAGES, STEPS = 6, 4
EVERY = torch.arange(IMAGES)
SCALER = torch.amp.GradScaler(enabled=False)
ADVANTAGE = torch.tensor([1.5, -0.3, 0.8, -1.1, 0.4, -2.0])


def rolled_out(policy: ToyPolicy) -> Trajectory:
    plan = Plan(STEPS, range(0), needs_density=False)
    return policy.rollout([Prompt("a lake")] * IMAGES, range(IMAGES), plan).trajectory


def experience(policy: ToyPolicy, advantage: Tensor = ADVANTAGE, **fields: Any) -> Experience:
    trajectory = rolled_out(policy)
    everywhere = advantage[:, None].expand(-1, STEPS)
    return replace(
        experienced(trajectory, everywhere),
        advantages=advantage,
        seeds=list(range(IMAGES)),
        old_weights=OldWeights(policy),
        **fields,
    )


def gradient(policy: ToyPolicy, given: Experience, algorithm: Matching = Matching(), size: int = 4) -> Tensor:  # noqa: B008
    accumulate(policy, given, algorithm, size)
    assert policy.target.grad is not None
    found, policy.target.grad = policy.target.grad.flatten().clone(), None
    return found


def accumulate(policy: ToyPolicy, given: Experience, algorithm: Matching, size: int = 4) -> UpdateMetrics:
    return accumulate_gradient(algorithm, policy, SCALER, given, UpdatePart(EVERY, IMAGES, first=True), size)


def test_the_first_gradient_moves_the_prediction_towards_rewarded_images() -> None:
    """The toy predicts target + x / 4, so its gradient is that of the clean latent, summed over pairs."""
    policy = ToyPolicy(STEPS)
    given = experience(policy)
    trajectory, expected = given.trajectory, torch.zeros(4)
    for image in range(IMAGES):
        for step in range(STEPS):
            batch = given.batch(UpdatePart(EVERY, IMAGES), torch.tensor([image]), torch.tensor([step]), 1)
            residual = (policy.predict(trajectory, batch.noised_latents, step).x0 - batch.final_latents).detach()
            scale = residual.abs().mean() * residual.numel()
            expected += (2 * ADVANTAGE[image] * residual / scale).flatten() / (IMAGES * STEPS)
    torch.testing.assert_close(gradient(policy, given), expected)


def test_batches_do_not_change_the_gradient() -> None:
    policy = ToyPolicy(STEPS)
    given = experience(policy)
    for size in (1, 5, 30):
        torch.testing.assert_close(gradient(policy, given, size=size), gradient(policy, given))


def test_images_without_advantage_have_no_gradient_at_the_old_weights() -> None:
    policy = ToyPolicy(STEPS)
    assert torch.equal(gradient(policy, experience(policy, torch.zeros(IMAGES))), torch.zeros(4))


def test_the_policy_keeps_its_weights_while_the_old_ones_are_asked() -> None:
    policy = ToyPolicy(STEPS)
    given = experience(policy)
    with torch.no_grad():
        policy.target += 0.3
    metrics = accumulate(policy, given, Matching())
    assert torch.equal(policy.target.detach(), torch.full((1, 2, 2), 0.3))
    assert float(metrics.means["policy_distance"][0]) == pytest.approx(0.09)


def test_credit_weighs_the_noise_levels() -> None:
    policy = ToyPolicy(STEPS)
    only_last = torch.tensor([0.0, 0.0, 0.0, 4.0])
    credited = gradient(policy, experience(policy, credit_profile=only_last))
    alone = torch.zeros(IMAGES, STEPS)
    alone[:, 3] = 4
    given = experience(policy)
    accumulate_gradient(Matching(), policy, SCALER, given, UpdatePart(EVERY, IMAGES, alone, first=True), 4)
    assert policy.target.grad is not None
    torch.testing.assert_close(credited, policy.target.grad.flatten())


def test_the_penalty_pulls_towards_the_reference() -> None:
    policy = ToyPolicy(STEPS)
    given = experience(policy, torch.zeros(IMAGES))
    with torch.no_grad():
        policy.target += 0.5
    given = replace(given, old_weights=OldWeights(policy))
    metrics = accumulate(policy, given, Matching(kl_weight=0.1))
    assert policy.target.grad is not None and (policy.target.grad > 0).all()
    assert float(metrics.means["reference_kl"][0]) == pytest.approx(0.25)


def test_noise_is_a_function_of_the_image_and_the_step() -> None:
    given = experience(ToyPolicy(STEPS))
    part = UpdatePart(EVERY, IMAGES)
    whole = given.batch(part, torch.tensor([0, 1, 1]), torch.tensor([2, 2, 3]), 3).noised_latents
    alone = given.batch(part, torch.tensor([1]), torch.tensor([2]), 1).noised_latents
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(whole[1] - given.trajectory.final[1], whole[2] - given.trajectory.final[1])


def loop(tmp_path: Path, steps: int = 4, **sections: dict[str, Any]) -> Any:
    config = toy_config(**sections)
    run = RunDirectory.create(tmp_path, config, [])
    prompts = [Prompt("a lake"), Prompt("a hill")]
    return training_loop(config, ToyPolicy(steps), Warmth(), build_credit(config.credit), prompts, run)


@pytest.mark.parametrize("credit", ["uniform", "contribution", "contribution-batch-mean"])
def test_the_reward_rises(tmp_path: Path, credit: str) -> None:
    train = {"algorithm": "matching", "epochs": 15, "learning_rate": 0.05}
    trained = loop(tmp_path, train=train, credit={"name": credit}, sample={"images_per_prompt": 8})
    trained.train()
    rows = trained.run.metrics()
    rewards = [row["reward_mean"] for row in rows]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1
    assert "policy_distance" in rows[0] and "clip_fraction" not in rows[0] and "ratio_max_deviation" not in rows[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"inner_epochs": 2},
        {"options": {"replay_epochs": 2}},
        {"options": {"replay_epochs": 1}, "sampled_steps": 2, "skip_constant_groups": True},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    train = {"algorithm": "matching", **changes}
    whole = loop(tmp_path / "whole", train={**train, "epochs": 4})
    whole.train()
    loop(tmp_path / "parts", train={**train, "epochs": 2}).train()
    config = toy_config(train={**train, "epochs": 4})
    parts = training_loop(
        config,
        ToyPolicy(4),
        Warmth(),
        build_credit(config.credit),
        [Prompt("a lake"), Prompt("a hill")],
        RunDirectory.open(tmp_path / "parts"),
    )
    parts.resume()
    parts.train()
    assert torch.equal(parts.policy.target, whole.policy.target)
    assert [row["loss"] for row in parts.run.metrics()] == [row["loss"] for row in whole.run.metrics()]


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"options": {"beta": 0.0}}, "beta"),
        ({"options": {"bta": 1.0}}, "beta"),
        ({"options": {"kl_weight": 1.0}}, r"train\.kl_weight"),
        ({"kl_weight": 0.1, "kl_space": "log_prob"}, "kl_space"),
        ({"algorithm": "machting"}, "matching"),
    ],
)
def test_invalid_options_are_errors(section: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        build_algorithm(TrainSection(**{"algorithm": "matching", **section}))


@pytest.mark.parametrize("sample", [{"stochastic": False}, {"eta": 0.0}])
def test_ppo_needs_noise(tmp_path: Path, sample: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="algorithm ppo needs noise"):
        loop(tmp_path, sample=sample)


def test_credit_that_reads_the_noise_needs_some(tmp_path: Path) -> None:
    train, credit = {"algorithm": "matching", "epochs": 1}, {"name": "inverse-native-scale"}
    with pytest.raises(InputError, match=r"sample\.stochastic=true"):
        loop(tmp_path / "without", train=train, credit=credit)
    loop(tmp_path / "with", train=train, credit=credit, sample={"stochastic": True})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_reward_rises_with_every_objective(objective: str, tmp_path: Path) -> None:
    options = {"objective": objective, "scale": 0.3, "beta": 0.5}
    train = {"algorithm": "matching", "options": options, "epochs": 12, "learning_rate": 0.05}
    trained = loop(tmp_path, train=train, credit={"name": "uniform"}, sample={"images_per_prompt": 8})
    trained.train()
    rewards = [row["reward_mean"] for row in trained.run.metrics()]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


@pytest.mark.parametrize("objective", ["ram", "rvm"])
def test_the_reference_as_anchor_holds_the_policy_back(objective: str) -> None:
    """Without advantages, an anchor at the old weights holds them, and one at the reference draws back to it."""
    policy = ToyPolicy(STEPS)
    with torch.no_grad():
        policy.target += 0.5
    given = experience(policy, torch.zeros(IMAGES))
    gradients = {anchor: gradient(policy, given, Matching(objective=objective, anchor=anchor)) for anchor in ANCHORS}
    assert torch.equal(gradients["old"], torch.zeros(4)) and (gradients["reference"] > 0).all()


def test_a_clipped_ratio_has_no_gradient_beyond_the_range() -> None:
    policy = ToyPolicy(STEPS)
    given = experience(policy, torch.ones(IMAGES))
    direction = gradient(policy, given, Matching(objective="awm", ratio_clip=0.1))
    with torch.no_grad():
        policy.target -= 0.05 * (direction / direction.norm()).view_as(policy.target)
    unclipped = gradient(policy, given, Matching(objective="awm"))
    clipped = gradient(policy, given, Matching(objective="awm", ratio_clip=1e-6))
    assert clipped.norm() < unclipped.norm()


@pytest.mark.parametrize(
    "options",
    [
        *({"objective": "nftt"}, {"objective": 3}, {"anchor": "base"}, {"anchor": None}),
        *({"beta": 0.0}, {"beta": 2.0}, {"beta": "x"}, {"scale": -1.0}, {"scale": math.inf}, {"scale": True}),
        *({"ratio_clip": 0.0}, {"ratio_clip": math.nan}, {"replay_epochs": -1}, {"replay_epochs": 1.5}),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        build_algorithm(TrainSection(algorithm="matching", options=options))


@pytest.mark.parametrize(("fraction", "trained"), [(1.0, 4), (0.6, 2), (0.1, 1), (0.75, 3)])
def test_only_the_noisiest_steps_are_trained(fraction: float, trained: int, tmp_path: Path) -> None:
    train = {"algorithm": "matching", "epochs": 1, "timestep_fraction": fraction}
    loop_ = loop(tmp_path, train=train, credit={"name": "uniform"})
    seen: list[Tensor] = []
    own = loop_.update

    def recording(given: Experience, epoch: int) -> Any:
        seen.append(given.trajectory.trainable)
        return own(given, epoch)

    loop_.update = recording
    loop_.train()
    assert seen[0].tolist() == [step < trained for step in range(4)]


@pytest.mark.parametrize(("steps", "fraction", "trained"), [(100, 0.29, 29), (10, 0.7, 7), (20, 0.99, 19), (3, 0.1, 1)])
def test_a_fraction_of_the_steps_is_rounded_down(steps: int, fraction: float, trained: int) -> None:
    config = toy_config(sample={"steps": steps}, train={"algorithm": "matching", "timestep_fraction": fraction})
    assert training_plan(config, build_algorithm(config.train).needs, images=4).trained_steps == trained
