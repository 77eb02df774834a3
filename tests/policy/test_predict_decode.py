"""`predict` and `decode` of every family, compared with rollouts and replays of the same pipeline."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.families import FAMILIES
from tests.families.proof import moved
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_sd, tiny_sdxl
from torch import Tensor

from stepcredit.families import family_of
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Plan, Rollout

STEP = 1


def rollout(policy: PipelinePolicy, steps: int = 3) -> Rollout:
    return policy.rollout(PROMPTS[:2], SEEDS[:2], Plan(steps, range(steps)))


@pytest.fixture(scope="module", params=FAMILIES)
def recorded(request: pytest.FixtureRequest) -> tuple[str, PipelinePolicy, Rollout]:
    """A family, a policy of it and a rollout of two images."""
    policy = moved(request.param)
    return request.param, policy, rollout(policy)


def test_a_prediction_at_the_recorded_latents_equals_the_replay(recorded: tuple[str, PipelinePolicy, Rollout]) -> None:
    _, policy, result = recorded
    trajectory = result.trajectory
    with torch.no_grad():
        replayed = policy.replay(trajectory, STEP)
        predicted = policy.predict(trajectory, trajectory.latents[:, STEP], STEP)
        elsewhere = policy.predict(trajectory, trajectory.latents[:, 0], STEP)
    for field in ("mean", "std", "x0", "output"):
        assert torch.equal(getattr(predicted, field), getattr(replayed, field)), field
    assert not torch.equal(elsewhere.output, replayed.output)


def without_guidance(name: str, policy: PipelinePolicy) -> PipelinePolicy:
    """A policy of the same pipeline whose rollouts have no guidance."""
    scale = family_of(policy.pipeline).unguided
    call = {key: value for key, value in policy.sample.call.items() if key not in ("true_cfg_scale", "negative_prompt")}
    guidance = policy.sample.guidance if scale is None else scale
    sample = policy.sample.model_copy(update={"guidance": guidance, "call": call})
    return PipelinePolicy(policy.pipeline, policy.adapter, sample)


def test_an_unguided_prediction_equals_the_replay_of_a_rollout_without_guidance(
    recorded: tuple[str, PipelinePolicy, Rollout],
) -> None:
    name, policy, result = recorded
    unguided = without_guidance(name, policy)
    trajectory = rollout(unguided).trajectory
    latents = trajectory.latents[:, STEP]
    for mode in ("mixed-steps", "full-loop"):
        policy.replay_mode = unguided.replay_mode = mode
        with torch.no_grad():
            found = policy.predict(result.trajectory, latents, STEP, guided=False)
            expected = unguided.replay(trajectory, STEP)
            guided = policy.predict(result.trajectory, latents, STEP)
        assert torch.equal(found.output, expected.output) and torch.equal(found.mean, expected.mean)
        assert torch.equal(found.output, guided.output) == (name == "flux")


def test_the_decoded_final_latents_equal_the_images_of_the_rollout(
    recorded: tuple[str, PipelinePolicy, Rollout],
) -> None:
    _, policy, result = recorded
    final = result.trajectory.final.requires_grad_()
    images = policy.decode(final)
    assert torch.equal(images, result.images)
    (gradient,) = torch.autograd.grad(images.sum(), final)
    assert gradient.isfinite().all() and gradient.any()


def test_an_unguided_prediction_halves_the_denoiser_batch() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    rows: list[int] = []
    policy.pipeline.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    for guided in (True, False):
        policy.predict(trajectory, trajectory.latents[2:, 1], 1, torch.tensor([2, 3]), guided=guided)
    assert rows == [4, 2]


def test_an_unguided_prediction_uses_the_prompts_of_its_rows() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    latents = trajectory.latents[[0], 1].expand(3, -1, -1, -1)
    with torch.no_grad():
        outputs = policy.predict(trajectory, latents, 1, torch.tensor([0, 2, 0]), guided=False).output
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])


def test_the_numbers_of_latents_and_rows_must_agree() -> None:
    policy = tiny_policy()
    trajectory = rollout(policy).trajectory
    with pytest.raises(ValueError, match="3 latents, 2 rows and 2 steps"):
        policy.predict(trajectory, trajectory.latents[[0, 0, 0], 1], 1)


@pytest.mark.filterwarnings("ignore:`upcast_vae`:FutureWarning")
@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decodes_with_gradients(build: Callable[[], object], dtype: torch.dtype) -> None:
    """The VAE of SDXL is cast to float32 for decoding and back afterwards."""
    policy = tiny_policy(build().to(dtype=dtype), dtype=str(dtype).removeprefix("torch."))  # type: ignore[attr-defined]
    result = rollout(policy)
    final = result.trajectory.final.requires_grad_()
    images = policy.decode(final)
    assert torch.equal(images, result.images) and images.dtype == torch.float32
    (gradient,) = torch.autograd.grad(images.sum(), final)
    assert gradient.isfinite().all() and gradient.any()


def test_decoding_needs_no_rollout() -> None:
    latents = rollout(tiny_policy()).trajectory.final
    assert torch.equal(tiny_policy().decode(latents), rollout(tiny_policy()).images)


def test_tiled_decoding_equals_that_of_the_rollout() -> None:
    policy = tiny_policy()
    plain = rollout(policy)
    policy.pipeline.vae.enable_tiling()
    policy.pipeline.vae.tile_latent_min_size, policy.pipeline.vae.tile_sample_min_size = 4, 8
    tiled = rollout(policy)
    assert torch.equal(policy.decode(plain.trajectory.final), tiled.images)
    assert not torch.equal(tiled.images, plain.images)


def in_double(name: str) -> PipelinePolicy:
    policy = moved(name)
    for part in policy.pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    return policy


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[float, float]:
    """(derivative by autograd, by central differences) of a scalar function, in a random direction."""
    at = at.detach().clone().requires_grad_()
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(0), dtype=at.dtype)
    (gradient,) = torch.autograd.grad(function(at), at)
    with torch.no_grad():
        ends = [float(function(at + shift * direction)) for shift in (1e-5, -1e-5)]
    return float((gradient * direction).sum()), (ends[0] - ends[1]) / 2e-5


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_gradients_by_latents_equal_finite_differences(name: str) -> None:
    policy = in_double(name)
    trajectory = rollout(policy).trajectory
    assert trajectory.latents.dtype == torch.float64
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda latents: policy.predict(trajectory, latents, STEP).mean.square().mean(),
        lambda latents: policy.predict(trajectory, latents, STEP, guided=False).x0.square().mean(),
        lambda latents: policy.decode(latents).square().mean(),
    ]
    for function in functions:
        ours, expected = finite_difference(function, trajectory.latents[:, STEP])
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-9) and ours != 0


@pytest.mark.parametrize("guided", [True, False])
def test_gradients_reach_all_trained_weights(guided: bool) -> None:
    policy = moved("sd")
    trajectory = rollout(policy).trajectory
    policy.predict(trajectory, trajectory.latents[:, 0], STEP, guided=guided).output.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in policy.parameters())
