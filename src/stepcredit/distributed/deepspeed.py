"""Optimizer steps by DeepSpeed with ZeRO stages 0, 1 and 2, for processes that `accelerate launch` started for it.

Stage 3, which shards the weights, is replaced by FSDP2 under the same launch configuration.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stepcredit.config import TrainConfig, TrainSection
from stepcredit.distributed.launcher import launched_processes
from stepcredit.distributed.optimizer import Step, all_finite, build_optimizer, clear_gradients
from stepcredit.distributed.process_group import DEEPSPEED, ProcessGroup
from stepcredit.errors import InputError, shortened
from stepcredit.types import Policy
from stepcredit.utils.optimizer_state import optimizer_tensors, restore_optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BATCH_KEY = "train_micro_batch_size_per_gpu"


class DeepSpeedOptimizer:
    """A TrainingOptimizer whose state DeepSpeed shards as the DeepSpeed configuration of accelerate says.

    DeepSpeed reduces gradients during the backward pass, for which all processes must run the same number of forwards.
    Ours need not. DeepSpeed is therefore given other parameters, which share the memory of the policy's. The gradients
    of an update accumulate on the policy's parameters and are passed on in one backward of `zero_with_gradients`.

    Raises:
        InputError: the DeepSpeed configuration is invalid or contradicts `section`.
    """

    def __init__(self, policy: Policy, section: TrainSection, processes: ProcessGroup) -> None:
        self.scaler = torch.amp.GradScaler(enabled=False)
        self._policy = policy
        self._processes = processes
        self._weights = [nn.Parameter(parameter.detach()) for parameter in policy.parameters()]
        self._engine = _build_engine(nn.ParameterList(self._weights), section)
        self._sharded = bool(self._engine.zero_optimization())
        self.optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        for parameter, weight in zip(policy.parameters(), self._weights, strict=True):
            parameter.data = weight.data  # DeepSpeed has moved it into a buffer of its own

    def step(self, losses: Sequence[Tensor]) -> Step:
        if not self._processes.all_true(all_finite(*losses)):
            return Step(False, torch.tensor(torch.nan))
        parameters = self._policy.parameters()
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        self.clear()
        self._backward(gradients)
        step = self._sharded_step() if self._sharded else self._unsharded_step()
        if step.made:
            self._policy.stepped()
        return step

    def clear(self) -> None:
        clear_gradients(self._policy.parameters())

    def tensors(self) -> dict[str, Tensor]:
        if not self._sharded:
            return optimizer_tensors(self.optimizer)
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        for state in self.optimizer.state.values():  # one for all weights; none before the first step
            steps = torch.as_tensor(state["step"], dtype=torch.float32)
            for index, weight in enumerate(self._weights):
                tensors[f"{index}.step"] = steps
                for name in _MOMENTS:
                    tensors[f"{index}.{name}"] = safe_get_full_optimizer_state(weight, name)
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if not self._sharded:
            return restore_optimizer(self.optimizer, tensors)
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for weight in self._weights:
            safe_set_full_fp32_param(weight, weight.data)
        if not tensors:
            return None
        self._allocate_state()
        for index, weight in enumerate(self._weights):
            for name in _MOMENTS:
                value = tensors.get(f"{index}.{name}", torch.zeros_like(weight))
                safe_set_full_optimizer_state(weight, value.to(weight.device), name)
        steps = max(float(value) for name, value in tensors.items() if name.endswith(".step"))
        for state in self.optimizer.state.values():
            state["step"] = torch.full_like(state["step"], steps) if isinstance(state["step"], Tensor) else int(steps)
        return None

    def _backward(self, gradients: Sequence[Tensor]) -> None:
        """Pass this process's gradients to DeepSpeed, which averages over processes where we want the sum."""
        self._engine.set_gradient_accumulation_boundary(True)
        loss = zero_with_gradients(gradients, self._weights) * self._processes.world_size
        self._engine.backward(loss, scale_wrt_gas=False)

    def _sharded_step(self) -> Step:
        self._engine.step()
        return Step(self._engine.was_step_applied(), torch.as_tensor(self._engine.get_global_grad_norm()).detach())

    def _unsharded_step(self) -> Step:
        """Without ZeRO, DeepSpeed neither reports the gradient norm nor checks whether it is finite."""
        norm = nn.utils.get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        if all_finite(norm):
            self._engine.step()
        clear_gradients(self._weights)
        return Step(all_finite(norm), norm)

    def _allocate_state(self) -> None:
        """Make the optimizer allocate its moments, which it does in its first step: one that changes nothing."""
        if self.optimizer.state:
            return
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self._backward([torch.zeros_like(weight) for weight in self._weights])
        self._engine.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def stage_three_as_fsdp(config: TrainConfig) -> TrainConfig:
    """`config` with `model.shard=true` if the launcher asks DeepSpeed for ZeRO stage 3 on several processes.

    FSDP2 then shards weights, gradients and optimizer state. DeepSpeed is disabled for this process.

    Raises:
        InputError: the DeepSpeed configuration contradicts the run's, or offloads weights or optimizer state.
    """
    if os.environ.get(DEEPSPEED, "").lower() != "true" or "LOCAL_RANK" not in os.environ:
        return config
    zero = _read_plugin(config.train.max_grad_norm).deepspeed_config["zero_optimization"]
    if zero.get("stage") != 3:
        return config
    for name in ("offload_param", "offload_optimizer"):
        device = (zero.get(name) or {}).get("device") or "none"
        if device != "none":
            raise InputError(
                f"the DeepSpeed configuration has {name} to {device!r}, but ZeRO stage 3 is replaced by FSDP2, which "
                "does not offload: set it to 'none'"
            )
    del os.environ[DEEPSPEED]
    shard = launched_processes() > 1
    return config.model_copy(update={"model": config.model.model_copy(update={"shard": shard})})


def zero_with_gradients(gradients: Sequence[Tensor], weights: Sequence[nn.Parameter]) -> Tensor:
    """A 0-d tensor of value 0 whose gradient with respect to `weights[i]` is `gradients[i]`."""
    zero: Tensor = _ZeroWithGradients.apply(gradients, *weights)
    return zero


class _ZeroWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        return (None, *(gradient * scale for gradient in ctx.gradients))


def complete_config(config: dict[str, Any], max_grad_norm: float) -> None:
    """Fill in the `auto` values of a DeepSpeed configuration, in place.

    Args:
        max_grad_norm: `train.max_grad_norm`.

    Raises:
        InputError: it contradicts the run's configuration.
    """
    for name, keys in (("optimizer", "train.learning_rate and related keys"), ("scheduler", "train.learning_rate")):
        if name in config:
            raise InputError(f"the DeepSpeed configuration has {name!r}: remove it and use {keys}")
    for name in ("fp16", "bf16", "torch_autocast"):
        if config.get(name, {}).get("enabled") is True:
            raise InputError(f"the DeepSpeed configuration enables {name!r}: remove it and use model.dtype")
    clipping = config.get("gradient_clipping", "auto")
    if clipping not in ("auto", max_grad_norm):
        raise InputError(
            f"the DeepSpeed configuration has gradient_clipping {clipping}, but train.max_grad_norm is "
            f"{max_grad_norm}: set gradient_clipping to 'auto'"
        )
    config["gradient_clipping"] = max_grad_norm
    if config.get(_BATCH_KEY, "auto") == "auto":  # DeepSpeed reads no data here, but requires a consistent number
        config[_BATCH_KEY] = 1
        if isinstance(config.get("train_batch_size"), int):
            del config[_BATCH_KEY]


def _read_plugin(max_grad_norm: float) -> Any:
    """The launcher's DeepSpeed configuration, which accelerate reads from environment variables and files."""
    from accelerate.utils import DeepSpeedPlugin  # type: ignore[import-untyped]

    try:
        plugin = DeepSpeedPlugin()
    except (AssertionError, OSError, ValueError) as error:
        raise InputError(f"the DeepSpeed configuration cannot be used: {shortened(str(error))}") from error
    complete_config(plugin.deepspeed_config, max_grad_norm)
    return plugin


def _build_engine(weights: nn.Module, section: TrainSection) -> Any:
    from accelerate import Accelerator  # type: ignore[import-untyped]

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # the run reports skipped updates itself
    plugin = _read_plugin(section.max_grad_norm)
    if plugin.deepspeed_config["zero_optimization"].get("stage") == 3:
        raise InputError("ZeRO stage 3 is not supported: launch without DeepSpeed and set model.shard=true")
    try:
        accelerator = Accelerator(deepspeed_plugin=plugin, mixed_precision="no")
        engine, _ = accelerator.prepare(weights, build_optimizer(weights.parameters(), section, allow_fused=False))
    except (AssertionError, ValueError) as error:  # raised for inconsistent configurations
        raise InputError(f"the DeepSpeed configuration cannot be used: {shortened(str(error))}") from error
    return engine
