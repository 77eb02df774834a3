"""A replay gives back what the rollout recorded, with gradients to whatever is trained."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tests.tiny import PROMPTS, SEEDS, log_prob, perturb, tiny_pixart, tiny_policy, tiny_sd, tiny_sdxl

from stepcredit.errors import InputError
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Plan, Trajectory

PIPELINES = {
    "sd": tiny_sd,
    "sd v-prediction": lambda: tiny_sd(prediction_type="v_prediction"),
    "sd trailing": lambda: tiny_sd(timestep_spacing="trailing"),
    "sdxl": tiny_sdxl,
    "pixart": tiny_pixart,
}
HALF_TOLERANCE = 2e-2
"""bfloat16 has 8 bits: another batch shape may round each mean by 2^-8, which the last, small std magnifies."""


def recorded(policy: PipelinePolicy) -> tuple[PipelinePolicy, Trajectory]:
    """A policy that is not its reference, and a rollout of it."""
    perturb(policy)
    return policy, policy.rollout(PROMPTS, SEEDS).trajectory


def deviations(policy: PipelinePolicy, trajectory: Trajectory, rows: torch.Tensor | None = None) -> list[float]:
    """Largest |log ratio| of each step."""
    with torch.no_grad():
        recorded = trajectory.log_probs if rows is None else trajectory.log_probs[rows]
        return [
            float((log_prob(policy, trajectory, step, rows) - recorded[:, step]).abs().max())
            for step in range(trajectory.steps)
        ]


@pytest.fixture(scope="module", params=[1.0, 5.0], ids=["guidance 1", "guidance 5"])
def lora_trajectory(request: pytest.FixtureRequest) -> tuple[PipelinePolicy, Trajectory]:
    return recorded(tiny_policy(guidance=request.param))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("build", PIPELINES.values(), ids=PIPELINES)
def test_a_replay_of_the_whole_batch_is_exact(build, guidance: float) -> None:  # type: ignore[no-untyped-def]
    call = {"use_resolution_binning": False} if build is tiny_pixart else {}
    policy, trajectory = recorded(tiny_policy(build(), guidance=guidance, adapter="full", call=call))
    assert deviations(policy, trajectory) == [0.0] * 4


def test_a_replay_of_a_bfloat16_batch_is_exact() -> None:
    pipeline = tiny_sd().to(dtype=torch.bfloat16)
    policy, trajectory = recorded(tiny_policy(pipeline, dtype="bfloat16"))
    assert trajectory.latents.dtype == torch.bfloat16 and trajectory.log_probs.dtype == torch.float32
    assert deviations(policy, trajectory) == [0.0] * 4
    assert max(deviations(policy, trajectory, torch.tensor([1, 3]))) < HALF_TOLERANCE


def test_steps_replay_in_any_order(lora_trajectory: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = lora_trajectory
    for step in (3, 0, 2, 0):
        assert torch.equal(log_prob(policy, trajectory, step), trajectory.log_probs[:, step])


@pytest.mark.parametrize("rows", [[0], [2], [1, 3], [3, 1, 0]])
def test_rows_can_be_replayed_without_the_rest_of_the_batch(
    lora_trajectory: tuple[PipelinePolicy, Trajectory], rows: list[int]
) -> None:
    policy, trajectory = lora_trajectory
    assert max(deviations(policy, trajectory, torch.tensor(rows))) <= 1e-6


def test_batches_of_a_rollout_replay_together() -> None:
    policy = tiny_policy()
    perturb(policy)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), batch=3)).trajectory
    assert max(deviations(policy, trajectory)) <= 1e-6
    assert deviations(policy, trajectory, torch.tensor([3, 3, 3])) == [0.0] * 4
    assert deviations(policy, trajectory, torch.arange(3)) == [0.0] * 4
    assert max(deviations(policy, trajectory, torch.tensor([0, 3]))) <= 1e-6


def test_a_replay_uses_the_current_weights(lora_trajectory: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = recorded(tiny_policy())
    perturb(policy, seed=1)
    assert min(deviations(policy, trajectory)) > 1e-4


def test_a_replay_uses_the_prompts_of_its_rows() -> None:
    policy, trajectory = recorded(tiny_policy())
    alone = policy.replay(trajectory, 0, torch.tensor([2])).mean
    torch.testing.assert_close(policy.replay(trajectory, 0).mean[2:3], alone, atol=1e-5, rtol=1e-5)
    other = policy.rollout([PROMPTS[1]], [SEEDS[2]]).trajectory
    assert torch.equal(other.latents[:, 0], trajectory.latents[2:3, 0])
    assert (policy.replay(other, 0).mean - alone).abs().max() > 1e-3


def test_gradient_reaches_every_lora_matrix() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    log_prob(policy, trajectory, 1).sum().backward()
    names = [name for name, parameter in policy.pipeline.unet.named_parameters() if parameter.requires_grad]
    assert names and len(names) == len(policy.parameters())
    for name, parameter in zip(names, policy.parameters(), strict=True):
        assert parameter.grad is not None, name
        # B starts at zero and A's gradient passes through it.
        assert bool(parameter.grad.any()) == ("lora_B" in name), name

    perturb(policy)
    log_prob(policy, trajectory, 1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in policy.parameters())


def test_gradient_reaches_every_weight_of_the_denoiser() -> None:
    policy = tiny_policy(adapter="full")
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    log_prob(policy, trajectory, 1).sum().backward()
    missed = [name for name, parameter in policy.pipeline.unet.named_parameters() if parameter.grad is None]
    assert missed == []
    others = (policy.pipeline.vae, policy.pipeline.text_encoder)
    assert all(parameter.grad is None for part in others for parameter in part.parameters())


def test_gradients_by_weights_equal_finite_differences() -> None:
    policy, trajectory = recorded(tiny_policy(tiny_sd().to(dtype=torch.float64)))
    for parameter in policy.parameters():
        parameter.data = parameter.data.double()
    value = log_prob(policy, trajectory, 2).sum()
    value.backward()
    weight = max(policy.parameters(), key=lambda parameter: float(parameter.grad.abs().max()))
    index = int(weight.grad.abs().argmax())
    expected = float(weight.grad.flatten()[index])
    ends = []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            weight.view(-1)[index] += shift
            ends.append(float(log_prob(policy, trajectory, 2).sum()))
            weight.view(-1)[index] -= shift
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, rel=1e-3)


def test_without_gradients_a_replay_builds_no_graph(lora_trajectory: tuple[PipelinePolicy, Trajectory]) -> None:
    policy, trajectory = lora_trajectory
    with torch.no_grad():
        assert not policy.replay(trajectory, 0).mean.requires_grad
    assert policy.replay(trajectory, 0).mean.requires_grad


def test_a_replays_graph_is_freed_at_once() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    gc.collect()
    gc.disable()
    try:
        transition = policy.replay(trajectory, 0)
        mean = weakref.ref(transition.mean)
        del transition
        assert mean() is None
    finally:
        gc.enable()


class Silent(StableDiffusionPipeline):
    @torch.no_grad()
    def __call__(self, **_: Any) -> None:
        """Returns before any step."""


def test_a_pipeline_that_never_steps() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    policy.pipeline.__class__ = Silent
    with pytest.raises(InputError, match=r"Silent finished without calling scheduler\.step at step 2"):
        policy.replay(trajectory, 2)


def test_a_step_that_the_trajectory_does_not_have() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    with pytest.raises(InputError, match="the trajectory has 4 steps; there is no step 4"):
        policy.replay(trajectory, trajectory.steps)


@pytest.mark.parametrize("noisy", [range(4), range(2)])
def test_rows_at_different_steps_equal_those_of_one_step(noisy: range) -> None:
    policy = tiny_policy()
    perturb(policy)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, noisy)).trajectory
    rows, steps = torch.tensor([2, 0, 2, 3]), torch.tensor([1, 3, 0, 3])
    mixed = policy.replay(trajectory, steps, rows)
    for number, (row, step) in enumerate(zip(rows, steps.tolist(), strict=True)):
        alone = policy.replay(trajectory, step, row.expand(4))
        for name in ("mean", "std", "x0", "output"):
            assert torch.equal(getattr(mixed, name)[number], getattr(alone, name)[0]), name
    policy.replay_mode = "one-step"
    with pytest.raises(InputError, match=r"cannot replay several steps at a time \(one-step\)"):
        policy.replay(trajectory, steps, rows)
