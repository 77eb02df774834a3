"""Whatever a user may switch on, the first ratios are 1: what is trained is what was sampled."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from tests.families import FAMILIES, sd3
from tests.families.proof import configuration
from tests.loop import training_loop
from tests.tiny import PROMPTS, SEEDS, log_prob, perturb
from torch import Tensor

from stepcredit.algorithms.base import Needs
from stepcredit.algorithms.minibatch import pair_batches
from stepcredit.algorithms.sampling_plan import evaluation_plan, training_plan
from stepcredit.config import RewardSection
from stepcredit.credit import build_credit
from stepcredit.maths import gaussian, loss
from stepcredit.maths.indexing import filled
from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.policy.loading import make_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.rewards import build_reward
from stepcredit.runs.directory import RunDirectory
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Plan, Trajectory

EXACT = 0.0
"""In batches of one size and layout a replay runs the very kernels of its rollout on the very same numbers, in any
dtype; recomputing activations, another memory of the decoder and the train mode of a model without dropout change
neither."""

COMPILED = 0.0
"""A compiled block is compiled twice, without gradients for rollouts and with them for replays. Both are made of the
same operations in the same order, which aot_eager runs one by one."""

INDUCTOR = 1e-6
"""Inductor may fuse the two differently, and so round differently: that of float32 in a mean over the elements."""

COMPILED_GRADIENT = 0.0
INDUCTOR_GRADIENT = 2e-5
"""Relative errors of a gradient: 0 was measured, and 4.4e-6 and 6.2e-6 by pipeline."""

OTHER_BATCH = {"float32": 1e-6, "bfloat16": 2e-2, "float16": 3e-3}
"""Another batch size may take other kernels, which round each mean by 2^-24, 2^-9 or 2^-12 of itself; the last, small
standard deviation magnifies it."""

UNET_AND_TRANSFORMERS = ["sd", "sd3", "flux"]
STOCK = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""Stock Euler schedulers of diffusers convert a tensor the way that numpy is about to drop."""

Prepare = Callable[[PipelinePolicy], Any]


def untouched(policy: PipelinePolicy) -> None:
    return None


def moved(
    name: str, prepare: Prepare = untouched, dtype: str = "float32", build: Any = None, **sections: Any
) -> PipelinePolicy:
    """A policy of a tiny family that is not its reference, made ready by `prepare`."""
    pipeline = (build or FAMILIES[name].build)(0).to(dtype=getattr(torch, dtype))
    model = {"dtype": dtype, **sections.pop("model", {})}
    policy = make_policy(pipeline, configuration(name, model=model, **sections))
    perturb(policy)
    prepare(policy)
    return policy


def trajectory_of(policy: PipelinePolicy, batch: int | None = None, noisy: range = range(4)) -> Trajectory:
    return policy.rollout(PROMPTS, SEEDS, Plan(4, noisy, batch)).trajectory


def first_ratio(policy: PipelinePolicy, trajectory: Trajectory, size: int = 4) -> float:
    """Largest |ratio - 1| of an update that replays `size` pairs at a time, steps mixed and not, with gradients."""
    steps = trajectory.trainable.nonzero().flatten().tolist()
    mixed = pair_batches(torch.arange(len(trajectory)), list(reversed(steps)), size, mixed=policy.mixes_steps)
    every_image = (
        (rows, at)
        for row in range(len(trajectory))
        for rows, at in pair_batches(torch.tensor([row]), steps, size, mixed=policy.mixes_steps)
    )
    return float(torch.stack([_deviation(policy, trajectory, *batch, size) for batch in [*mixed, *every_image]]).amax())


def _deviation(policy: PipelinePolicy, trajectory: Trajectory, rows: Tensor, steps: Tensor, size: int) -> Tensor:
    transition = policy.replay(trajectory, filled(steps, size), filled(rows, size)).head(len(rows))
    assert transition.mean.requires_grad
    value = gaussian.step_log_prob(transition, trajectory.latents[rows, steps + 1])
    return loss.ratio_max_deviation(value.detach(), trajectory.log_probs[rows, steps])


def gradients(policy: PipelinePolicy, trajectory: Trajectory, step: int = 1) -> list[Tensor]:
    log_prob(policy, trajectory, step).sum().backward()
    return [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [*UNET_AND_TRANSFORMERS, "qwen_image"])
def test_every_dtype(name: str, dtype: str) -> None:
    policy = moved(name, dtype=dtype)
    whole, halves = trajectory_of(policy), trajectory_of(policy, batch=2)
    assert first_ratio(policy, whole) <= EXACT
    assert first_ratio(policy, halves, size=2) <= EXACT
    assert first_ratio(policy, whole, size=3) <= OTHER_BATCH[dtype]


@pytest.mark.parametrize("name", UNET_AND_TRANSFORMERS)
def test_gradient_checkpointing_changes_neither_ratio_nor_gradient(name: str) -> None:
    plain, recomputing = moved(name), moved(name, model={"gradient_checkpointing": True})
    trajectory = trajectory_of(recomputing)
    assert torch.equal(trajectory.latents, trajectory_of(plain).latents)
    assert first_ratio(recomputing, trajectory) <= EXACT
    expected, found = gradients(plain, trajectory_of(plain)), gradients(recomputing, trajectory)
    assert expected and len(expected) == len(found)
    assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", UNET_AND_TRANSFORMERS)
def test_train_mode_changes_nothing(name: str) -> None:
    policy = moved(name)
    trajectory = trajectory_of(policy)
    getattr(policy.pipeline, policy.denoiser).train()
    assert first_ratio(policy, trajectory) <= EXACT
    assert torch.equal(trajectory_of(policy).latents, trajectory.latents)


@pytest.mark.parametrize("name", UNET_AND_TRANSFORMERS)
def test_attention_slicing_can_be_switched_on_and_off(name: str) -> None:
    def on_and_off(policy: PipelinePolicy) -> None:
        policy.pipeline.enable_attention_slicing()
        policy.pipeline.disable_attention_slicing()

    policy = moved(name, on_and_off)
    assert first_ratio(policy, trajectory_of(policy)) <= EXACT
    assert torch.equal(trajectory_of(policy).latents, trajectory_of(moved(name)).latents)


@pytest.mark.parametrize("name", UNET_AND_TRANSFORMERS)
def test_vae_tiling_changes_images_but_not_latents(name: str) -> None:
    plain, tiled = moved(name), moved(name, model={"vae_tiling": True})
    tiled.pipeline.vae.tile_latent_min_size, tiled.pipeline.vae.tile_sample_min_size = 4, 8
    trajectory = trajectory_of(tiled)
    assert first_ratio(tiled, trajectory) <= EXACT
    rollouts = [policy.rollout(PROMPTS, SEEDS, Plan(4, range(4))) for policy in (plain, tiled)]
    assert torch.equal(rollouts[0].trajectory.latents, rollouts[1].trajectory.latents)
    assert rollouts[0].images.shape == rollouts[1].images.shape
    assert not torch.equal(rollouts[0].images, rollouts[1].images)


@pytest.fixture
def aot_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile as ever, but without a C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()


def small(name: str, **model: Any) -> PipelinePolicy:
    """As `moved`, with fewer blocks to compile."""
    return moved(name, model=model, build=partial(sd3.build, layers=1) if name == "sd3" else None)


def compiled(name: str) -> PipelinePolicy:
    policy = small(name, compile=True)
    denoiser = getattr(policy.pipeline, policy.denoiser)
    assert any(part._compiled_call_impl is not None for part in denoiser.modules())
    return policy


def off_the_plain_gradient(policy: PipelinePolicy, plain: PipelinePolicy, trajectory: Trajectory) -> float:
    """The relative error of the gradient of a step, next to that of another policy with the same weights."""
    expected, found = gradients(plain, trajectory), gradients(policy, trajectory)
    assert len(expected) == len(found) and all(gradient.any() for gradient in expected)
    difference = [(left - right).flatten() for left, right in zip(expected, found, strict=True)]
    return float(torch.cat(difference).norm() / torch.cat([part.flatten() for part in expected]).norm())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.usefixtures("aot_eager")
@pytest.mark.parametrize(
    "name", [pytest.param("sd", marks=pytest.mark.slow), pytest.param("sd3", marks=pytest.mark.slow)]
)
def test_a_compiled_denoiser(name: str) -> None:
    policy = compiled(name)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(2, range(2))).trajectory
    assert first_ratio(policy, trajectory) <= COMPILED
    assert off_the_plain_gradient(policy, small(name), trajectory) <= COMPILED_GRADIENT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.usefixtures("aot_eager")
def test_a_denoiser_compiled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is that names no repeated blocks."""
    monkeypatch.setattr(SD3Transformer2DModel, "_repeated_blocks", None)
    policy = small("sd3", compile=True)
    assert policy.pipeline.transformer._compiled_call_impl is not None
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(2, range(2))).trajectory
    assert first_ratio(policy, trajectory) <= COMPILED
    assert off_the_plain_gradient(policy, small("sd3"), trajectory) <= COMPILED_GRADIENT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_denoiser_compiled_by_inductor(name: str) -> None:
    torch._dynamo.reset()
    policy = compiled(name)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(2, range(2))).trajectory
    assert first_ratio(policy, trajectory) <= INDUCTOR
    assert off_the_plain_gradient(policy, small(name), trajectory) <= INDUCTOR_GRADIENT


def trainer(folder: Path, name: str, dtype: str = "float32", **sections: Any) -> TrainingLoop:
    """Of 2 prompts with 2 images each, all in one update."""
    sample = {"prompts_per_epoch": 2, "images_per_prompt": 2, **sections.pop("sample", {})}
    train = {"epochs": 1, "updates_per_epoch": 1, **sections.pop("train", {})}
    config = configuration(
        name, model={"dtype": dtype}, sample=sample, train=train, credit={"window": 2}, run={"grid_every": 100}
    )
    pipeline = FAMILIES[name].build(0).to(dtype=getattr(torch, dtype))
    run = RunDirectory.create(folder / "run", config, ["stepcredit"])
    reward = build_reward(RewardSection(name="warmth"))
    return training_loop(config, make_policy(pipeline, config), reward, build_credit(config.credit), PROMPTS[:2], run)


def rows(run: TrainingLoop) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_loss_is_scaled_in_float16_only(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler, asked = torch.amp.GradScaler, []

    def on_the_cpu(*_: Any, enabled: bool) -> torch.amp.GradScaler:
        asked.append(enabled)
        return scaler("cpu", init_scale=2.0**10, enabled=enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", on_the_cpu)
    run = trainer(tmp_path, "sd", dtype)
    before = [parameter.detach().clone() for parameter in run.policy.parameters()]
    run.train()
    assert asked == [dtype == "float16"]
    assert [row["ratio_max_deviation"] for row in rows(run)] == [EXACT]
    after = run.policy.parameters()
    assert all(parameter.isfinite().all() and parameter.dtype == torch.float32 for parameter in after)
    assert any(not torch.equal(left, right) for left, right in zip(before, after, strict=True))


@pytest.mark.parametrize("sampler", ["flow-sde", "dance-sde", "cps", "cps-gaussian"])
@pytest.mark.parametrize("name", ["sd3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flux", "z_image"))])
def test_every_sampler_of_flow_models(name: str, sampler: str) -> None:
    policy = moved(name, sample={"sampler": sampler, "noise_level": 0.4, "train_last_step": True})
    trajectory = trajectory_of(policy, batch=2)
    check = replay_check(policy, trajectory, batch=2)
    assert check.max_deviation <= EXACT
    assert first_ratio(policy, trajectory, size=2) <= EXACT
    last = "cps" not in sampler
    assert trajectory.trainable.tolist() == [True, True, True, last]
    assert trajectory.log_probs[:, 3].any() == last
    assert str(check).endswith("; not trained: step 4 of 4") != last


def test_samplers_draw_different_trajectories() -> None:
    trajectories = [
        trajectory_of(moved("sd3", sample={"sampler": name, "noise_level": 0.4}))
        for name in ("flow-sde", "dance-sde", "cps")
    ]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert torch.equal(trajectories[left].latents[:, 0], trajectories[right].latents[:, 0])
        assert not torch.equal(trajectories[left].latents[:, 1], trajectories[right].latents[:, 1])


@pytest.mark.parametrize(("name", "sampler"), [("sd", "flow-sde"), ("sd3", "cps")])
def test_steps_with_too_little_noise_are_not_trained(name: str, sampler: str) -> None:
    sample = {"sampler": sampler, "noise_level": 0.4}
    usual = moved(name, sample=sample | {"min_std": 0.0})
    everything = trajectory_of(usual)
    stds = [float(usual.replay(everything, step).std[0]) for step in range(4)]
    assert stds[0] > stds[1] > stds[2] > stds[3]
    policy = moved(name, sample=sample | {"min_std": (stds[1] + stds[2]) / 2})
    trajectory = trajectory_of(policy)
    assert trajectory.trainable.tolist() == [True, True, False, False]
    assert torch.equal(trajectory.log_probs[:, 2:], torch.zeros(4, 2))
    assert torch.equal(trajectory.log_probs[:, :2], everything.log_probs[:, :2])
    assert torch.equal(trajectory.latents, everything.latents)
    check = replay_check(policy, trajectory)
    assert check.trained == (0, 1) and check.max_deviation <= EXACT
    assert str(check).endswith("; not trained: step 3, 4 of 4")


def euler_on_levels_of(solver: Any) -> FlowMatchEulerDiscreteScheduler:
    """The stock Euler scheduler, on the noise levels of another stock scheduler."""
    euler = FlowMatchEulerDiscreteScheduler()

    def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
        solver.set_timesteps(num_inference_steps, device)
        euler.timesteps, euler.sigmas = solver.timesteps, solver.sigmas
        euler._step_index, euler._begin_index = None, 0

    own = euler.step
    euler.set_timesteps = set_timesteps
    euler.step = lambda output, timestep, *args, **kwargs: own(output, timestep.float(), *args, **kwargs)
    return euler


def stock_trajectory(name: str) -> tuple[Tensor, Tensor]:
    """Latents after each of four steps and images, of diffusers alone, with deterministic steps."""
    pipeline, latents = FAMILIES[name].build(0), []
    if "FlowMatch" not in type(pipeline.scheduler).__name__ and name != "sd":
        pipeline.scheduler = euler_on_levels_of(pipeline.scheduler)

    def remember(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(tensors["latents"])
        return tensors

    images = pipeline(
        prompt=[prompt.text for prompt in PROMPTS],
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        guidance_scale=FAMILIES[name].guidance,
        output_type="pt",
        callback_on_step_end=remember,
        **FAMILIES[name].call,
    ).images
    return torch.stack(latents, dim=1), images


@STOCK
@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "z_image", "sana"])
def test_a_trajectory_without_noise_equals_the_stock_pipeline(name: str) -> None:
    config = configuration(name, sample={"evaluation_noise": False, "batch": 4})
    policy = make_policy(FAMILIES[name].build(0), config)
    rollout = policy.rollout(PROMPTS, SEEDS, evaluation_plan(config, 4))
    latents, images = stock_trajectory(name)
    assert torch.equal(rollout.trajectory.latents[:, 1:], latents)
    assert torch.equal(rollout.images, images)
    assert not rollout.trajectory.trainable.any() and not rollout.trajectory.log_probs.any()


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_rollout_that_needs_no_density_trains_its_deterministic_steps(name: str) -> None:
    policy = moved(name)
    plain = trajectory_of(policy, noisy=range(0))
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(0), needs_density=False)).trajectory
    assert torch.equal(trajectory.latents, plain.latents)
    assert trajectory.trainable.tolist() == [True] * 4 and not trajectory.log_probs.any()
    for step in range(4):
        replayed = policy.replay(trajectory, step)
        assert torch.equal(replayed.mean, trajectory.latents[:, step + 1]) and not replayed.std.any()
        assert replayed.mean.requires_grad


def test_grids_of_flow_models_are_deterministic_by_default() -> None:
    trajectories = {}
    for noise in (None, False, True):
        config = configuration("sd3", sample={"evaluation_noise": noise})
        policy = make_policy(FAMILIES["sd3"].build(0), config)
        trajectories[noise] = policy.rollout(PROMPTS, SEEDS, evaluation_plan(config, 4)).trajectory.final
    assert torch.equal(trajectories[None], trajectories[False]) and not torch.equal(
        trajectories[None], trajectories[True]
    )


@STOCK
@pytest.mark.parametrize("name", ["sd3", "flux", "z_image"])
def test_steps_outside_a_window_equal_the_stock_scheduler(name: str) -> None:
    config = configuration(name, sample={"sde_window_size": 2, "sde_window_start": 1, "batch": 4})
    policy = make_policy(FAMILIES[name].build(0), config)
    plan = training_plan(config, Needs(density=True), 4)
    assert plan.noisy == range(1, 3)
    trajectory = policy.rollout(PROMPTS, SEEDS, plan).trajectory
    assert trajectory.trainable.tolist() == [False, True, True, False]
    assert torch.equal(trajectory.latents[:, 1], stock_trajectory(name)[0][:, 0])
    last, scheduler = policy.replay(trajectory, 3), policy.scheduler
    change = scheduler.current.values[4] - scheduler.current.values[3]
    assert not last.std.any()
    assert torch.equal(trajectory.latents[:, 4], last.mean.detach())
    assert torch.equal(trajectory.latents[:, 4], (trajectory.latents[:, 3] + change * last.output).detach())
    assert not torch.equal(trajectory.latents[:, 2], stock_trajectory(name)[0][:, 1])
    assert replay_check(policy, trajectory).trained == (1, 2)
    assert first_ratio(policy, trajectory) <= EXACT


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were replayed so far."""
    own, steps = PipelinePolicy.replay, []

    def remembering(self: PipelinePolicy, trajectory: Trajectory, step: Tensor, rows: Tensor | None = None) -> Any:
        steps.extend(step.tolist())
        return own(self, trajectory, step, rows)

    monkeypatch.setattr(PipelinePolicy, "replay", remembering)
    return steps


def test_only_the_window_is_trained(tmp_path: Path, replayed: list[int]) -> None:
    run = trainer(tmp_path, "sd3", sample={"sde_window_size": 2, "sde_window_start": 1})
    before = [parameter.detach().clone() for parameter in run.policy.parameters()]
    run.train()
    assert set(replayed) == {1, 2}
    assert [row["ratio_max_deviation"] for row in rows(run)] == [EXACT]
    after = run.policy.parameters()
    assert any(not torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_a_moving_window_is_trained(tmp_path: Path, replayed: list[int]) -> None:
    sample = {"sde_window_size": 1, "sde_window_every": 1, "evaluation_steps": 2}
    run = trainer(tmp_path, "sd3", sample=sample, train={"epochs": 2})
    run.train()
    assert list(dict.fromkeys(replayed)) == [0, 1]
    assert [row["ratio_max_deviation"] for row in rows(run)] == [EXACT] * 2
