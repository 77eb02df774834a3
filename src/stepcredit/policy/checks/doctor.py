"""Whether a model can be trained on this machine, and with what batch size: `stepcredit doctor` prints the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.maths import gaussian
from stepcredit.policy.checks.replay_check import ReplayCheck, replay_check
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Plan, Prompt, Trajectory
from stepcredit.utils.memory import available_memory_bytes

PROMPTS = (Prompt("a photo of a cat"), Prompt("two red apples on a wooden table, morning light"))
HEADROOM = 0.8
"""The fraction of the free memory that a suggested batch may use."""

CPU_MAX_MICROBATCH = 64
"""On a CPU, none of the models tried trained faster with more pairs than this."""


@dataclass(frozen=True)
class Examination:
    """The result of `examine`.

    Attributes:
        pipeline: class of the pipeline.
        family: name of its family; "generic" if the family table has no entry for it.
        defaults_source: where the default settings of the family come from.
        scheduler: description of the sampling steps.
        replaces: class of the pipeline's own scheduler.
        device: the device it ran on.
        latents: shape of one image's latents.
        check: replay check of a rollout of two images.
        trained: number of trained weights.
        weights: number of weights of the denoiser, including the trained ones.
        idle: number of trained tensors that no gradient reaches.
        fixed_bytes: memory of the pipeline, gradients and optimizer state.
        sample_bytes: memory of one more image in a training forward.
        free_bytes: free memory of the device.
        microbatch: images per training forward that fit, a power of two; 0 if not even one fits.
    """

    pipeline: str
    family: str
    defaults_source: str
    scheduler: str
    replaces: str
    device: str
    latents: tuple[int, ...]
    check: ReplayCheck
    trained: int
    weights: int
    idle: int
    fixed_bytes: int
    sample_bytes: int
    free_bytes: int
    microbatch: int


def examine(policy: PipelinePolicy, config: TrainConfig) -> Examination:
    """Sample two images, replay them, and measure a training forward. This changes the policy's weights.

    Raises:
        InputError: the model does not replay.
    """
    trajectory = policy.rollout(PROMPTS, range(len(PROMPTS))).trajectory
    check = replay_check(policy, trajectory)
    idle = _idle(policy, trajectory, check.trained[0])
    pipeline, device = policy.pipeline, trajectory.latents.device
    trained = sum(parameter.numel() for parameter in policy.parameters())
    sample_bytes = _sample_bytes(policy, trajectory, check.trained[0])
    modules = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    stored = sum(tensor.numel() * tensor.element_size() for part in modules for tensor in part.state_dict().values())
    free = available_memory_bytes(device)
    return Examination(
        pipeline=type(pipeline).__name__,
        family=policy.family.name,
        defaults_source=policy.family.defaults.source,
        scheduler=policy.scheduler.description,
        replaces=type(pipeline.scheduler).__name__,
        device=str(device),
        latents=tuple(trajectory.latents.shape[2:]),
        check=check,
        trained=trained,
        weights=sum(parameter.numel() for parameter in getattr(pipeline, policy.denoiser).parameters()),
        idle=idle,
        fixed_bytes=stored + 3 * 4 * trained,  # a gradient and two moments, float32
        sample_bytes=sample_bytes,
        free_bytes=free,
        microbatch=_microbatch(free - 3 * 4 * trained, sample_bytes),
    )


def fitting_microbatch(policy: PipelinePolicy, images: int, update: int) -> int:
    """(image, step) pairs per training forward that fit into the free memory: a power of two.

    It is measured on two images and at most two steps, and leaves the weights unchanged. The result is at most
    CPU_MAX_MICROBATCH on a CPU.

    Args:
        images: an upper bound: images of an epoch.
        update: an upper bound if steps cannot be mixed: images of an update.

    Raises:
        InputError: the pipeline does not replay, or not even one pair fits.
    """
    trajectory = policy.rollout(PROMPTS, range(len(PROMPTS)), Plan(2, range(2))).trajectory
    replay_check(policy, trajectory)
    trained = sum(parameter.numel() for parameter in policy.parameters())
    device = trajectory.latents.device
    needed = max(_sample_bytes(policy, trajectory, 0), _rollout_bytes(policy, device))
    for parameter in policy.parameters():
        parameter.grad = None
    free = available_memory_bytes(device)
    fits = _microbatch(free - 3 * 4 * trained, needed)
    if fits < 1:
        raise InputError(
            f"training on one image needs {needed >> 20} MiB, but {device} has only {free >> 20} MiB free: set "
            "model.gradient_checkpointing=true, a smaller model.dtype or smaller images"
        )
    return min(fits, images if policy.mixes_steps else update, CPU_MAX_MICROBATCH if device.type == "cpu" else fits)


def _rollout_bytes(policy: PipelinePolicy, device: torch.device) -> int:
    """Memory of one more image in a rollout, including decoding; 0 on a CPU, where it is not measured."""
    if device.type != "cuda":
        return 0
    plan = Plan(1, range(1))
    one = _peak_bytes(lambda: policy.rollout(PROMPTS[:1], range(1), plan))
    two = _peak_bytes(lambda: policy.rollout(PROMPTS[:2], range(2), plan))
    return max(two - one, 1)


def _idle(policy: PipelinePolicy, trajectory: Trajectory, step: int) -> int:
    """Number of trained tensors without gradient. The weights are moved first: initially half of a LoRA has none."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=1e-2)
    _log_prob(policy, trajectory, step, torch.arange(len(trajectory))).sum().backward()
    idle = sum(parameter.grad is None or not bool(parameter.grad.any()) for parameter in policy.parameters())
    for parameter in policy.parameters():
        parameter.grad = None
    return idle


def _sample_bytes(policy: PipelinePolicy, trajectory: Trajectory, step: int) -> int:
    """Memory of one image in a training forward: the difference between two images and one.

    On CUDA it is the peak of forward and backward. A CPU has no peak counter, so there it is the size of the tensors
    saved for the backward pass.
    """
    measure = _training_bytes if trajectory.latents.device.type == "cuda" else _saved_bytes
    one = measure(lambda: _log_prob(policy, trajectory, step, torch.arange(1)).sum())
    two = measure(lambda: _log_prob(policy, trajectory, step, torch.arange(2)).sum())
    return max(two - one, 1)


def _saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct tensors that a forward saves for its backward pass, including weights."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = forward()  # keep it until all is counted, so that no address is reused
    del value
    return sum(saved.values())


def _training_bytes(forward: Callable[[], Tensor]) -> int:
    """Peak CUDA memory of forward and backward."""
    return _peak_bytes(lambda: forward().backward())


def _peak_bytes(work: Callable[[], object]) -> int:
    """Peak CUDA memory while `work` runs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _microbatch(free: int, sample_bytes: int) -> int:
    fits = int(HEADROOM * free) // sample_bytes
    return 0 if fits < 1 else 1 << (fits.bit_length() - 1)


def _log_prob(policy: PipelinePolicy, trajectory: Trajectory, step: int, rows: Tensor) -> Tensor:
    transition = policy.replay(trajectory, step, rows)
    return gaussian.step_log_prob(transition, trajectory.latents[rows, step + 1])
