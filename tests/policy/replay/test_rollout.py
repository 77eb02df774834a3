"""A rollout is the stock pipeline's own sampling, recorded."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from tests.tiny import PROMPTS, SEEDS, log_prob, perturb, tiny_policy, tiny_sd, tiny_sdxl
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.policy.replay.schedulers import recording_scheduler
from stepcredit.types import Plan, Rollout


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return tiny_policy().rollout(PROMPTS, SEEDS, keep_x0=True)


def stock_trajectory(prediction_type: str, guidance: float) -> tuple[Tensor, Tensor]:
    """Latents (B, T+1, *L) and images of diffusers alone."""
    latents: list[Tensor] = []

    def remember(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(tensors["latents"])
        return tensors

    images = tiny_sd(prediction_type=prediction_type)(
        [prompt.text for prompt in PROMPTS],
        num_inference_steps=4,
        guidance_scale=guidance,
        eta=1.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        callback_on_step_end=remember,
    ).images
    return torch.stack(latents, dim=1), images


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_rollout_is_the_stock_pipeline_at_eta_1(prediction_type: str, guidance: float) -> None:
    policy = tiny_policy(tiny_sd(prediction_type=prediction_type), guidance=guidance)
    trajectory = policy.rollout(PROMPTS, SEEDS)
    latents, images = stock_trajectory(prediction_type, guidance)
    assert torch.equal(trajectory.trajectory.latents[:, 1:], latents)
    assert torch.equal(trajectory.images, images)


def test_shapes_and_ranges_of_a_trajectory(rollout: Rollout) -> None:
    trajectory, images = rollout.trajectory, rollout.images
    assert trajectory.latents.shape == (4, 5, 4, 8, 8)
    assert trajectory.x0 is not None and trajectory.x0.shape == (4, 4, 4, 8, 8)
    assert trajectory.log_probs.shape == (4, 4) and trajectory.log_probs.dtype == torch.float32
    assert trajectory.timesteps.tolist() == [751, 501, 251, 1]
    assert trajectory.trainable.tolist() == [True] * 4
    assert images.shape == (4, 3, 16, 16) and images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert list(trajectory.prompts) == [prompt.text for prompt in PROMPTS]
    assert list(trajectory.metadata) == [prompt.metadata for prompt in PROMPTS]
    assert not trajectory.latents.requires_grad and not trajectory.log_probs.requires_grad


def test_x0_is_recorded_only_on_request() -> None:
    assert tiny_policy(steps=1).rollout(PROMPTS[:1], SEEDS[:1]).trajectory.x0 is None


def test_recorded_log_prob_is_the_normal_density(rollout: Rollout) -> None:
    trajectory = rollout.trajectory
    for step in range(trajectory.steps):
        transition = tiny_policy().replay(trajectory, step)
        normal = torch.distributions.Normal(transition.mean, transition.std)
        expected = normal.log_prob(trajectory.latents[:, step + 1]).flatten(1).mean(1)
        torch.testing.assert_close(trajectory.log_probs[:, step], expected)


def test_noise_of_a_sample_depends_on_its_seed_alone(rollout: Rollout) -> None:
    order = [2, 0]
    trajectory = tiny_policy().rollout([PROMPTS[i] for i in order], [SEEDS[i] for i in order]).trajectory
    assert torch.equal(trajectory.latents[:, 0], rollout.trajectory.latents[order, 0])
    assert not torch.equal(trajectory.latents[0, 0], trajectory.latents[1, 0])


def test_the_batch_size_does_not_change_the_images(rollout: Rollout) -> None:
    split = tiny_policy().rollout(PROMPTS, SEEDS, Plan(4, range(4), batch=3), keep_x0=True)
    assert torch.equal(split.trajectory.latents[:, 0], rollout.trajectory.latents[:, 0])
    assert split.trajectory.prompts == rollout.trajectory.prompts
    for name in ("latents", "log_probs", "x0"):
        got, expected = getattr(split.trajectory, name), getattr(rollout.trajectory, name)
        torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(split.images, rollout.images, atol=1e-5, rtol=0)


def test_a_batch_is_passed_on_before_the_next_starts() -> None:
    policy, seen = tiny_policy(), []
    policy.pipeline.unet.register_forward_pre_hook(lambda *_: seen.append("step"))
    plan = Plan(4, range(4), batch=3)
    policy.rollout(PROMPTS, SEEDS, plan, on_batch=lambda images, rows: seen.append((len(images), rows)))
    assert seen == [*["step"] * 4, (3, slice(0, 3)), *["step"] * 4, (1, slice(3, 4))]


@pytest.mark.parametrize("method", ["set_timesteps", "step"])
@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_pipelines_see_the_parents_signature(kind: type, method: str) -> None:
    ours = recording_scheduler(kind(), SampleSection())
    assert inspect.signature(getattr(ours, method)) == inspect.signature(getattr(kind(), method))


def test_a_rollout_does_not_change_the_pipeline() -> None:
    pipeline = tiny_sdxl()
    before = dict(pipeline.__dict__)
    policy = tiny_policy(pipeline, steps=2)
    policy.replay(policy.rollout(PROMPTS, SEEDS).trajectory, 1)
    changed = {name for name in policy.pipeline.__dict__ if policy.pipeline.__dict__[name] is not before.get(name)}
    assert "encode_prompt" not in policy.pipeline.__dict__ and "prepare_latents" not in policy.pipeline.__dict__
    assert not changed


def test_the_pipeline_of_a_policy_can_be_saved(tmp_path: Path) -> None:
    policy = tiny_policy(adapter="full", steps=1)
    policy.rollout(PROMPTS, SEEDS)
    perturb(policy)
    policy.pipeline.save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock.scheduler) is DDIMScheduler
    weights = policy.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in stock.unet.state_dict().items())


def test_a_custom_encode_prompt_is_used_and_kept() -> None:
    policy = tiny_policy(steps=1)
    original, called = policy.pipeline.encode_prompt, []

    def own(*arguments: Any, **named: Any) -> Any:
        called.append(True)
        return original(*arguments, **named)

    policy.pipeline.encode_prompt = own
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    assert len(called) == 2  # once for the prompts, once for one more, to see what belongs to a prompt
    policy.replay(trajectory, 0)
    policy.rollout(PROMPTS, SEEDS)
    assert len(called) == 2  # the same prompts
    policy.rollout(PROMPTS[:2], SEEDS[:2])
    assert len(called) == 3
    assert policy.pipeline.encode_prompt is own


def test_a_trajectory_of_one_step() -> None:
    policy = tiny_policy(steps=1)
    trajectory = policy.rollout(PROMPTS, SEEDS, keep_x0=True).trajectory
    assert trajectory.latents.shape[1] == 2 and trajectory.log_probs.shape == (4, 1)
    assert torch.equal(log_prob(policy, trajectory, 0), trajectory.log_probs[:, 0])


def test_a_last_step_without_variance_is_not_trainable() -> None:
    policy = tiny_policy(tiny_sd(set_alpha_to_one=True))
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    assert trajectory.trainable.tolist() == [True, True, True, False]
    assert torch.equal(trajectory.log_probs[:, 3], torch.zeros(4))
    log_prob(policy, trajectory, 3).sum().backward()
    for parameter in policy.parameters():
        assert parameter.grad is not None and torch.equal(parameter.grad, torch.zeros_like(parameter))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": "x"}, r"sample\.call\.prompt cannot be set: prompts come from prompts\.source"),
        ({"num_images_per_prompt": 2}, r"it is sample\.images_per_prompt"),
        ({"hight": 32}, r"unknown argument of StableDiffusionPipeline in sample\.call 'hight' \(did you mean 'height'"),
    ],
)
def test_arguments_that_cannot_be_set(call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_policy(call=call)


def test_a_value_that_the_pipeline_refuses() -> None:
    policy = tiny_policy(call={"height": 17, "width": 16})
    with pytest.raises(InputError, match=r"^StableDiffusionPipeline failed .*sample\.call.*divisible by") as refused:
        policy.rollout(PROMPTS, SEEDS)
    assert "\n" not in str(refused.value)
    assert policy.scheduler.hook is None and type(policy.pipeline.scheduler) is DDIMScheduler


def test_arguments_reach_the_pipeline() -> None:
    images = tiny_policy(steps=1, call={"height": 32, "width": 8}).rollout(PROMPTS[:1], SEEDS[:1]).images
    assert images.shape == (1, 3, 32, 8)


def test_more_steps_than_noise_levels() -> None:
    with pytest.raises(InputError, match=r"sample\.steps is 1001 but the model has only 1000 noise levels"):
        tiny_policy(steps=1001)


class Short(StableDiffusionPipeline):
    @torch.no_grad()
    def __call__(self, **given: Any) -> Any:
        """Makes a step less than it is asked for."""
        return super().__call__(**{**given, "num_inference_steps": given["num_inference_steps"] - 1})


def test_a_pipeline_that_takes_too_few_steps() -> None:
    policy = tiny_policy()
    policy.pipeline.__class__ = Short
    with pytest.raises(InputError, match="Short took 3 steps, expected 4"):
        policy.rollout(PROMPTS, SEEDS)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_batches_are_recorded_in_their_rows(batch: int) -> None:
    policy = tiny_policy(guidance=1.0)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), batch), keep_x0=True).trajectory
    assert trajectory.x0 is not None and trajectory.latents.is_contiguous()
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = policy.rollout([prompt] * batch, [seed] * batch, keep_x0=True).trajectory
        assert torch.equal(trajectory.latents[row], alone.latents[0])
        assert torch.equal(trajectory.log_probs[row], alone.log_probs[0])
        assert alone.x0 is not None and torch.equal(trajectory.x0[row], alone.x0[0])


@pytest.mark.parametrize("error", [KeyError("height"), RuntimeError("shapes do not match"), AttributeError("no sigma")])
def test_whatever_the_pipeline_raises_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(policy.pipeline.unet, "forward", fail)
    monkeypatch.setattr(policy.pipeline.vae, "decode", fail)
    for work in (
        lambda: policy.rollout(PROMPTS, SEEDS),
        lambda: policy.replay(trajectory, 1),
        lambda: policy.decode(trajectory.latents[:, -1]),
    ):
        with pytest.raises(InputError) as caught:
            work()
        message = str(caught.value)
        assert message.startswith("StableDiffusionPipeline failed in its own __call__: ") and "\n" not in message
        assert type(error).__name__ in message and str(error).strip("'") in message
        assert "test_rollout.py, line" in message
        assert "in fail\n    raise error" in caught.value.traceback
