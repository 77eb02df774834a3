"""Steps of the optimizer by DeepSpeed, where `accelerate launch` asks for it: ZeRO stages 0, 1 and 2.

What stage 3 is for, weights in parts, is done by FSDP2 under the same configuration.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stepcredit.config import TrainConfig, TrainSection
from stepcredit.distributed.adamw import build_optimizer
from stepcredit.distributed.optimizer import Step, finite, forget_gradients
from stepcredit.distributed.process_group import DEEPSPEED, ProcessGroup
from stepcredit.errors import InputError, shortened
from stepcredit.runs.checkpoint import optimizer_tensors, restore_optimizer
from stepcredit.types import Policy

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BATCH = "train_micro_batch_size_per_gpu"


class DeepSpeedOptimizer:
    """The optimizer is shared out over the processes, as accelerate and its DeepSpeed configuration have it.

    DeepSpeed brings gradients together while they are backpropagated, for which all processes have to make the same
    forwards. Here they need not: DeepSpeed is not given the policy's parameters but others that lie in the same memory.
    The gradients of an update are added up on the policy's, and handed to the others in one backward of `handed`.

    Raises:
        InputError: the configuration is not one that can be trained with as `section` says.
    """

    def __init__(self, policy: Policy, section: TrainSection, processes: ProcessGroup) -> None:
        self.scaler = torch.amp.GradScaler(enabled=False)
        self._policy = policy
        self._processes = processes
        self._weights = [nn.Parameter(parameter.detach()) for parameter in policy.parameters()]
        self._engine = _engine(nn.ParameterList(self._weights), section)
        self._shared_out = bool(self._engine.zero_optimization())
        self.optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        for parameter, weight in zip(policy.parameters(), self._weights, strict=True):
            parameter.data = weight.data  # DeepSpeed has moved it into a buffer of its own

    def step(self, losses: Sequence[Tensor]) -> Step:
        if not self._processes.all_true(finite(*losses)):
            return Step(False, torch.tensor(torch.nan))
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in self._policy.parameters()]
        self.clear()
        self._backward(own)
        step = self._step_shared_out() if self._shared_out else self._step_whole()
        if step.made:
            self._policy.stepped()
        return step

    def clear(self) -> None:
        forget_gradients(self._policy.parameters())

    def tensors(self) -> dict[str, Tensor]:
        if not self._shared_out:
            return optimizer_tensors(self.optimizer)
        from deepspeed.utils import safe_get_full_optimizer_state

        found: dict[str, Tensor] = {}
        for state in self.optimizer.state.values():  # one for all weights, none before the first step
            steps = torch.as_tensor(state["step"], dtype=torch.float32)
            for index, weight in enumerate(self._weights):
                found[f"optimizer.{index}.step"] = steps
                for name in _MOMENTS:
                    found[f"optimizer.{index}.{name}"] = safe_get_full_optimizer_state(weight, name)
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if not self._shared_out:
            return restore_optimizer(self.optimizer, tensors)
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for weight in self._weights:
            safe_set_full_fp32_param(weight, weight.data)
        if not tensors:
            return None
        self._remember()
        for index, weight in enumerate(self._weights):
            for name in _MOMENTS:
                value = tensors.get(f"optimizer.{index}.{name}", torch.zeros_like(weight))
                safe_set_full_optimizer_state(weight, value.to(weight.device), name)
        steps = max(float(value) for name, value in tensors.items() if name.endswith(".step"))
        for state in self.optimizer.state.values():
            state["step"] = torch.full_like(state["step"], steps) if isinstance(state["step"], Tensor) else int(steps)
        return None

    def _backward(self, gradients: Sequence[Tensor]) -> None:
        """Give DeepSpeed the gradients of this process; it divides their sum by the number of processes."""
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.backward(handed(gradients, self._weights) * self._processes.world_size, scale_wrt_gas=False)

    def _step_shared_out(self) -> Step:
        self._engine.step()
        return Step(self._engine.was_step_applied(), torch.as_tensor(self._engine.get_global_grad_norm()).detach())

    def _step_whole(self) -> Step:
        """Without ZeRO DeepSpeed neither tells the norm nor looks whether it is finite."""
        norm = nn.utils.get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        if finite(norm):
            self._engine.step()
        forget_gradients(self._weights)
        return Step(finite(norm), norm)

    def _remember(self) -> None:
        """Let the optimizer lay out its moments, which it does in its first step: one that changes nothing."""
        if self.optimizer.state:
            return
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self._backward([torch.zeros_like(weight) for weight in self._weights])
        self._engine.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def stage_three_as_shards(config: TrainConfig) -> TrainConfig:
    """`config`, with `model.shard` where the launcher asks DeepSpeed for ZeRO stage 3 on several processes.

    Weights, gradients and moments are then in parts on all of them, by torch's FSDP2, and this process is no longer
    under DeepSpeed.

    Raises:
        InputError: the DeepSpeed configuration asks for what the run's says otherwise, or for weights or moments that
            are not on the device.
    """
    if os.environ.get(DEEPSPEED, "").lower() != "true" or "LOCAL_RANK" not in os.environ:
        return config
    asked = _plugin(config.train.max_grad_norm).deepspeed_config["zero_optimization"]
    if asked.get("stage") != 3:
        return config
    for name in ("offload_param", "offload_optimizer"):
        place = (asked.get(name) or {}).get("device") or "none"
        if place != "none":
            raise InputError(
                f"the DeepSpeed configuration has {name} to {place!r} at ZeRO stage 3, which is done by FSDP2 here and "
                "on the device: set it to 'none'"
            )
    del os.environ[DEEPSPEED]
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return config.model_copy(update={"model": config.model.model_copy(update={"shard": several})})


def handed(gradients: Sequence[Tensor], weights: Sequence[nn.Parameter]) -> Tensor:
    """0, whose gradient by each of `weights` is the one given for it."""
    zero: Tensor = _Handed.apply(gradients, *weights)
    return zero


class _Handed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        return (None, *(gradient * scale for gradient in ctx.gradients))


def fitted(config: dict[str, Any], largest: float) -> None:
    """Fill in what a DeepSpeed configuration leaves to us, in place.

    Args:
        largest: `train.max_grad_norm`.

    Raises:
        InputError: it asks for what the run's configuration says otherwise.
    """
    for name, ours in (("optimizer", "train.learning_rate and the like"), ("scheduler", "train.learning_rate")):
        if name in config:
            raise InputError(f"the DeepSpeed configuration has its own {name}: leave it out, it is {ours}")
    for name in ("fp16", "bf16", "torch_autocast"):
        if config.get(name, {}).get("enabled") is True:
            raise InputError(
                f"the DeepSpeed configuration enables {name!r}: leave it out or to 'auto', it is model.dtype"
            )
    clipping = config.get("gradient_clipping", "auto")
    if clipping not in ("auto", largest):
        raise InputError(
            f"the DeepSpeed configuration has gradient_clipping {clipping}, but train.max_grad_norm is {largest}: "
            "set it to 'auto'"
        )
    config["gradient_clipping"] = largest
    if config.get(_BATCH, "auto") == "auto":  # DeepSpeed reads no data here, but asks for a number that fits
        config[_BATCH] = 1
        if isinstance(config.get("train_batch_size"), int):
            del config[_BATCH]


def _plugin(largest: float) -> Any:
    """The launcher's configuration, read by accelerate from its variables and files, and `fitted`."""
    from accelerate.utils import DeepSpeedPlugin  # type: ignore[import-untyped]

    try:
        plugin = DeepSpeedPlugin()
    except (AssertionError, OSError, ValueError) as error:
        raise InputError(f"the DeepSpeed configuration cannot be used: {shortened(str(error))}") from error
    fitted(plugin.deepspeed_config, largest)
    return plugin


def _engine(weights: nn.Module, section: TrainSection) -> Any:
    from accelerate import Accelerator  # type: ignore[import-untyped]

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # skipped updates are told by the run
    plugin = _plugin(section.max_grad_norm)
    if plugin.deepspeed_config["zero_optimization"].get("stage") == 3:
        raise InputError("ZeRO stage 3 is FSDP2's work here: model.shard=true, without DeepSpeed")
    try:
        accelerator = Accelerator(deepspeed_plugin=plugin, mixed_precision="no")
        engine, _ = accelerator.prepare(weights, build_optimizer(weights.parameters(), section, unfused=True))
    except (AssertionError, ValueError) as error:  # what they raise for configurations that do not fit together
        raise InputError(f"the DeepSpeed configuration cannot be used: {shortened(str(error))}") from error
    return engine
