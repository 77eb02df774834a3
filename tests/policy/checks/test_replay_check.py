"""The check before training passes what replays and refuses, saying where, what does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.families.proof import moved
from tests.tiny import PROMPTS, SEEDS, perturb, tiny_policy, tiny_sd

from stepcredit.errors import InputError
from stepcredit.policy.checks.replay_check import ReplayCheck, replay_check
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.policy.replay.prompt_cache import PromptCache
from stepcredit.types import Plan, Trajectory


@pytest.fixture
def recorded() -> tuple[PipelinePolicy, Trajectory]:
    policy = tiny_policy()
    return policy, policy.rollout(PROMPTS, SEEDS).trajectory


def test_a_sound_pipeline_passes_exactly(recorded: tuple[PipelinePolicy, Trajectory]) -> None:
    check = replay_check(*recorded)
    assert check == ReplayCheck(0.0, (0, 1, 2, 3), steps=4, samples=4, mode="mixed-steps", shares=check.shares)
    assert sum(check.shares) == pytest.approx(1)
    assert str(check) == "4 steps of 4 images replay exact (mixed-steps)"
    assert all(parameter.grad is None for parameter in recorded[0].parameters())


def test_split_rollouts_are_exact_in_their_own_batches() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), batch=3)).trajectory
    assert replay_check(policy, trajectory, batch=3).max_deviation == 0.0
    assert replay_check(policy, trajectory).max_deviation <= 1e-6
    assert replay_check(policy, trajectory, batch=3, microbatch=2).max_deviation <= 1e-6


def test_microbatches_that_round_differently_are_refused(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded
    own = policy.replay

    def by_size(trajectory: Trajectory, step: int, rows: Any = None) -> Any:
        transition = own(trajectory, step, rows)
        return replace(transition, mean=transition.mean + 1e-3) if rows is not None and len(rows) == 2 else transition

    monkeypatch.setattr(policy, "replay", by_size)
    with pytest.raises(InputError, match=r"2 images at a time.* 4 at a time .*sample\.batch"):
        replay_check(policy, trajectory, batch=4, microbatch=2)
    assert replay_check(policy, trajectory, batch=4, microbatch=4).max_deviation == 0.0


def test_the_first_exact_mode_is_chosen(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded
    own, tried = policy.replay, []

    def off_in_one_step(trajectory: Trajectory, step: int, rows: Any = None) -> Any:
        tried.append(policy.replay_mode)
        transition = own(trajectory, step, rows)
        return replace(transition, mean=transition.mean + (policy.replay_mode != "full-loop"))

    monkeypatch.setattr(policy, "replay", off_in_one_step)
    check = replay_check(policy, trajectory)
    assert list(dict.fromkeys(tried)) == ["mixed-steps", "one-step", "full-loop"]
    assert check.mode == policy.replay_mode == "full-loop" and check.max_deviation == 0.0


def test_steps_without_variance_are_skipped() -> None:
    policy = tiny_policy(tiny_sd(set_alpha_to_one=True))
    check = replay_check(policy, policy.rollout(PROMPTS, SEEDS).trajectory)
    assert check.trained == (0, 1, 2)
    assert str(check).endswith("; not trained: step 4 of 4")


DETERMINISTIC = Plan(4, range(0), batch=2, needs_density=False)


@pytest.mark.parametrize("name", ["sd", "sd3"])
@pytest.mark.parametrize("mode", ["mixed-steps", "one-step", "full-loop"])
def test_deterministic_rollouts_are_compared_by_their_latents(name: str, mode: str) -> None:
    policy = moved(name)
    policy.replay_modes = (mode,)
    trajectory = policy.rollout(PROMPTS, SEEDS, DETERMINISTIC).trajectory
    check = replay_check(policy, trajectory, batch=2)
    assert (check.max_deviation, check.trained, check.mode) == (0.0, (0, 1, 2, 3), mode)
    latents = trajectory.latents.clone()
    latents[2, 3] *= 1 + 1e-3
    with pytest.raises(InputError, match=r"latents differ by 9\.99e-04 at step 3 of 4 \(allowed 1e-05\)"):
        replay_check(policy, replace(trajectory, latents=latents, trainable=torch.arange(4) == 2), batch=2)


def test_steps_with_and_without_noise_are_compared_together() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(1, 3), needs_density=False)).trajectory
    assert trajectory.trainable.all() and trajectory.log_probs.any(0).tolist() == [False, True, True, False]
    assert replay_check(policy, trajectory).max_deviation == 0.0


def test_steps_with_too_little_noise_for_a_density_cannot_be_checked() -> None:
    policy = tiny_policy(min_std=10.0)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), needs_density=False)).trajectory
    with pytest.raises(InputError, match=r"sample\.min_std"):
        replay_check(policy, trajectory)


def test_weights_that_changed_since_the_rollout(recorded: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = recorded
    perturb(policy)
    with pytest.raises(InputError, match=r"log-probabilities differ .* at step \d of 4 \(allowed 1e-06\)"):
        replay_check(policy, trajectory)


@pytest.mark.parametrize("untrainable", [0, 3])
def test_the_step_that_differs_is_named(recorded: tuple[PipelinePolicy, Trajectory], untrainable: int) -> None:
    policy, trajectory = recorded
    log_probs, trainable = trajectory.log_probs.clone(), trajectory.trainable.clone()
    log_probs[1, 2] += 0.5
    trainable[untrainable] = False
    with pytest.raises(InputError, match=r"differ by 5\.00e-01 at step 3 of 4.*caches and dropout"):
        replay_check(policy, replace(trajectory, log_probs=log_probs, trainable=trainable))


def test_a_replay_with_nan(recorded: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = recorded
    log_probs = trajectory.log_probs.clone()
    log_probs[0, 1] = torch.nan
    with pytest.raises(InputError, match="differ by nan at step 2 of 4"):
        replay_check(policy, replace(trajectory, log_probs=log_probs))


def test_frozen_weights(recorded: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = recorded
    policy.pipeline.unet.requires_grad_(False)
    with pytest.raises(InputError, match="no gradient reaches the trained weights"):
        replay_check(policy, trajectory)


def test_microbatches_with_wrong_rows(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded
    own = policy.replay

    def other_row(trajectory: Trajectory, step: int, rows: Any = None) -> Any:
        return own(trajectory, step, rows + 1 if len(rows) == 1 else rows)

    monkeypatch.setattr(policy, "replay", other_row)
    with pytest.raises(InputError, match="one image replayed alone"):
        replay_check(policy, trajectory)


def test_a_trajectory_with_nothing_to_train(recorded: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = recorded
    with pytest.raises(
        InputError, match=r"no step of the trajectory has enough noise to be trained: raise sample\.eta"
    ):
        replay_check(policy, replace(trajectory, trainable=torch.zeros(4, dtype=torch.bool)))


def test_a_pipeline_that_fails_with_mixed_steps_is_replayed_step_by_step(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded
    own = policy.replay

    def failing(trajectory: Trajectory, step: Any, rows: Any = None) -> Any:
        if policy.mixes_steps:
            raise RuntimeError("The expanded size of the tensor (8) must match the existing size (4)")
        return own(trajectory, step, rows)

    monkeypatch.setattr(policy, "replay", failing)
    check = replay_check(policy, trajectory)
    assert check.mode == "one-step" and check.max_deviation == 0.0


def test_an_error_outside_mixed_steps_propagates(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded

    def failing(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy, "replay", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        replay_check(policy, trajectory)


def test_the_check_mixes_as_many_steps_as_possible(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded
    own, kinds = policy.replay, []

    def counting(trajectory: Trajectory, step: Any, rows: Any = None) -> Any:
        kinds.append(len(set(step.tolist())))
        return own(trajectory, step, rows)

    monkeypatch.setattr(policy, "replay", counting)
    replay_check(policy, trajectory, batch=4)
    assert kinds[:4] == [4, 4, 4, 4]


def test_images_that_get_the_prompts_of_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in the order of the rollout replays exactly, whatever its rows are; another order does not."""
    policy = tiny_policy()
    own = PromptCache.batch

    def in_the_order_of_the_epoch(self: PromptCache, prompts: Sequence[str]) -> list[Any]:
        return own(self, list(self.prompts[: len(prompts)]))

    monkeypatch.setattr(PromptCache, "batch", in_the_order_of_the_epoch)
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    with pytest.raises(InputError, match="encodings of other prompts"):
        replay_check(policy, trajectory)


def test_the_tolerance_of_the_algorithm_is_kept(
    recorded: tuple[PipelinePolicy, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, trajectory = recorded
    shifted = replace(trajectory, log_probs=trajectory.log_probs + 5e-7)
    assert replay_check(policy, shifted).max_deviation > 0
    with pytest.raises(InputError, match=r"allowed 1e-07.*raise train\.clip_range to 5e-06 or more"):
        replay_check(policy, shifted, tolerance=1e-7)


def test_one_step_with_most_of_the_gradient_is_a_warning(recorded: tuple[PipelinePolicy, Trajectory]) -> None:
    check = replay_check(*recorded)
    assert replace(check, shares=(0.1, 0.2, 0.3, 0.4)).warnings == []
    (line,) = replace(check, shares=(0.1, 0.1, 0.7, 0.1)).warnings
    assert line.startswith("step 3 of 4 has 70% of the squared gradient")
