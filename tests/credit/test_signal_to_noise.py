"""Steps weighted by how far their gradients agree between images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.loop import training_loop
from tests.tiny import experienced
from tests.toy_policy import ToyPolicy, toy_config
from tests.training.test_trainer import PROMPTS, finish, resume, rows, start
from torch import Tensor

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient, step_gradient
from stepcredit.algorithms.minibatch import UpdatePart
from stepcredit.config import CreditSection, TrainSection
from stepcredit.credit import build_credit
from stepcredit.credit.signal_to_noise import SignalToNoise
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError
from stepcredit.maths.gradient_signal import agreement, reliability_factors
from stepcredit.rewards.warmth import Warmth
from stepcredit.types import MeasuringCredit, Prompt, Trajectory

IMAGES, STEPS = 8, 4
UNSCALED = torch.amp.GradScaler(enabled=False)
ADVANTAGE = torch.linspace(-1.5, 1.5, IMAGES)


def trajectories(policy: ToyPolicy, count: int = IMAGES) -> Trajectory:
    return policy.rollout([Prompt("a lake")] * count, range(count)).trajectory


def told(estimates: dict[int, list[float]]) -> Any:
    """A gradient of one number: the next of `estimates` for its step."""
    left = {step: iter(values) for step, values in estimates.items()}
    return lambda rows, step: torch.tensor([next(left[step])])


def test_the_gradients_of_all_steps_make_that_of_an_update() -> None:
    policy = ToyPolicy(STEPS, last_std=0.0)
    trajectory, section = trajectories(policy), TrainSection(kl_weight=0.5)
    experience = experienced(trajectory, ADVANTAGE.unsqueeze(1).expand(-1, STEPS))
    each = [
        step_gradient(build_algorithm(section), policy, UNSCALED, experience, 3, torch.arange(IMAGES), step)
        for step in range(STEPS - 1)
    ]
    assert policy.target.grad is None
    plain = section.model_copy(update={"kl_weight": 0.0})
    accumulate_gradient(
        build_algorithm(plain), policy, UNSCALED, experience, UpdatePart(torch.arange(IMAGES), IMAGES), 4
    )
    assert policy.target.grad is not None and float(policy.target.grad.norm()) > 0
    torch.testing.assert_close(torch.stack(each).mean(0), policy.target.grad.flatten())


def test_a_loss_scaler_leaves_the_gradient_as_it_is() -> None:
    policy = ToyPolicy(STEPS)
    experience = experienced(trajectories(policy), ADVANTAGE.unsqueeze(1).expand(-1, STEPS))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = [
        step_gradient(build_algorithm(TrainSection()), policy, chosen, experience, 4, torch.arange(IMAGES), 1)
        for chosen in (UNSCALED, scaler)
    ]
    torch.testing.assert_close(*found)


def test_the_first_epoch_is_uniform_and_the_next_is_made_of_what_was_measured() -> None:
    rule, trajectory = SignalToNoise(groups=2, decay=0.5), trajectories(ToyPolicy(2))
    uniform = ADVANTAGE.unsqueeze(1).expand(-1, 2)
    assert torch.equal(rule(trajectory, ADVANTAGE), uniform) and rule.diagnostics(trajectory) == {}
    rule.measure(trajectory, told({0: [2.0, 2.0], 1: [3.0, -1.0]}))  # signals 4 and -3, powers 4 and 5
    factors = reliability_factors(torch.tensor([4.0, -3.0]), torch.tensor([4.0, 5.0]), 1.0)
    torch.testing.assert_close(rule(trajectory, ADVANTAGE), uniform * factors / factors.mean())
    assert rule.diagnostics(trajectory) == {"credit_gradient_agreement": pytest.approx(1 / 9)}
    rule.measure(trajectory, told({0: [0.0, 2.0], 1: [1.0, 1.0]}))  # signals 0 and 1, powers 2 and 1
    assert rule.state_dict()["sums"].tolist() == [[2.0, -0.5], [4.0, 3.5], [1.5, 1.5]]


def test_what_is_measured_is_the_agreement_of_disjoint_groups() -> None:
    policy, rule = ToyPolicy(STEPS), SignalToNoise(groups=4)
    trajectory = trajectories(policy)
    experience = experienced(trajectory, ADVANTAGE.unsqueeze(1).expand(-1, STEPS))
    asked: list[tuple[list[int], int]] = []

    def gradient(rows: Tensor, step: int) -> Tensor:
        asked.append((rows.tolist(), step))
        return step_gradient(build_algorithm(TrainSection()), policy, UNSCALED, experience, 4, rows, step)

    rule.measure(trajectory, gradient)
    assert asked == [(pair, step) for step in range(STEPS) for pair in ([0, 1], [2, 3], [4, 5], [6, 7])]
    pairs = [torch.arange(IMAGES)[start : start + 2] for start in range(0, IMAGES, 2)]
    signal, power = agreement([gradient(rows, 2) for rows in pairs])
    assert rule.state_dict()["sums"][:, 2].tolist() == [signal, power, 1]


def test_fewer_images_than_groups_and_gradients_that_are_not_finite_leave_it_as_it_was() -> None:
    rule = SignalToNoise(groups=2)
    rule.measure(trajectories(ToyPolicy(1), count=1), told({}))
    rule.measure(trajectories(ToyPolicy(1)), told({0: [float("inf"), 1.0]}))
    assert rule.state_dict() == {}


def test_it_begins_anew_where_a_trajectory_has_another_number_of_steps() -> None:
    rule, longer = SignalToNoise(groups=2), trajectories(ToyPolicy(3))
    rule.measure(trajectories(ToyPolicy(1)), told({0: [1.0, 1.0]}))
    assert torch.equal(rule(longer, ADVANTAGE), ADVANTAGE.unsqueeze(1).expand(-1, 3))


def test_a_step_without_noise_is_neither_asked_about_nor_trained() -> None:
    rule, trajectory = SignalToNoise(groups=2), trajectories(ToyPolicy(2, last_std=0.0))
    rule.measure(trajectory, told({0: [1.0, 1.0]}))
    assert rule(trajectory, ADVANTAGE).tolist() == [[value, 0.0] for value in ADVANTAGE.tolist()]


def test_steps_that_a_moving_window_enters_or_leaves_are_worth_what_they_were(tmp_path: Path) -> None:
    """All gradients alike: every step that is trained is worth the same, whenever it was last measured."""
    rule, trajectory = SignalToNoise(groups=2), trajectories(ToyPolicy(STEPS))
    for window in ([0, 1], [1, 2], [2, 3], [0, 1], [0, 3]):
        seen = replace(trajectory, trainable=torch.tensor([step in window for step in range(STEPS)]))
        expected = [float(step in window) for step in range(STEPS)]
        assert rule(seen, torch.ones(IMAGES))[0].tolist() == pytest.approx(expected)
        rule.measure(seen, told({step: [2.0, 2.0] for step in window}))


def test_it_costs_one_more_pass_over_the_measured_images() -> None:
    policy, replayed = ToyPolicy(STEPS), []
    trajectory = trajectories(policy)
    experience = experienced(trajectory, ADVANTAGE.unsqueeze(1).expand(-1, STEPS))
    replay = policy.replay
    policy.replay = lambda *given: replayed.append(len(given[1])) or replay(*given)  # type: ignore[method-assign]
    for images, micro in ((0, 4), (0, 64), (4, 64)):
        replayed.clear()
        SignalToNoise(groups=4, images=images).measure(
            trajectory,
            lambda rows, step, size=micro: step_gradient(
                build_algorithm(TrainSection()), policy, UNSCALED, experience, size, rows, step
            ),
        )
        assert sum(replayed) == (images or IMAGES) * STEPS


def test_only_so_many_images_are_looked_at() -> None:
    rule, seen = SignalToNoise(groups=2, images=4), []
    rule.measure(trajectories(ToyPolicy(1)), lambda rows, step: seen.append(rows.tolist()) or torch.ones(1))
    assert seen == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"groups": 1}, r"credit\.options\.groups is 1, expected 2 or more"),
        ({"images": -1}, "images is -1, expected 0 or more"),
        ({"decay": 1.0}, r"decay is 1\.0, expected a number in \[0, 1\)"),
        ({"prior": -0.5}, r"prior is -0\.5, expected a number of 0 or more"),
    ],
)
def test_bad_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        build_credit(CreditSection(name="signal-to-noise", options=options))


def test_a_run_measures_every_epoch_and_is_the_same_when_it_is_resumed(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 3}, credit={"name": "signal-to-noise", "options": {"groups": 2}})
    trainer = start(tmp_path / "whole", config)
    assert isinstance(trainer.parts.credit, MeasuringCredit)
    whole = rows(finish(trainer))
    assert "credit_gradient_agreement" not in whole[0] and -1 < whole[2]["credit_gradient_agreement"] <= 1
    finish(
        start(tmp_path / "stopped", config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})}))
    )
    assert rows(finish(resume(tmp_path / "stopped", config))) == whole


class Two(ProcessGroup):
    world_size = 2


def test_several_processes_are_refused(tmp_path: Path) -> None:
    config = toy_config(credit={"name": "signal-to-noise"})
    run = start(tmp_path / "run", config).run
    credit = build_credit(config.credit)
    with pytest.raises(InputError, match="credit signal-to-noise measures gradients on one process, but there are 2"):
        training_loop(config, ToyPolicy(), Warmth(), credit, PROMPTS, run, processes=Two())
