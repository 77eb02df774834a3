"""AdamW with the settings of a run: when it is fused, and that fusing does not change it."""

from __future__ import annotations

import warnings

import pytest
import torch
from tests.toy_policy import ToyPolicy, toy_config

from stepcredit.config import TrainSection
from stepcredit.distributed.optimizer import build_optimizer
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.training.state import build_training_optimizer

SECTION = TrainSection(learning_rate=3e-3, betas=(0.8, 0.99), adam_epsilon=1e-7, weight_decay=0.02)


class CudaParameter(torch.nn.Parameter):
    """Claims to be on a CUDA device."""

    device = torch.device("cuda")


class CudaPolicy(ToyPolicy):
    def parameters(self) -> list[torch.nn.Parameter]:
        return [CudaParameter(torch.zeros(2))]


@pytest.mark.parametrize("kind", [torch.nn.Parameter, CudaParameter])
@pytest.mark.parametrize("allow_fused", [True, False])
def test_adamw_is_fused_on_cuda_if_allowed(kind: type[torch.nn.Parameter], allow_fused: bool) -> None:
    settings = build_optimizer([kind(torch.zeros(2))], SECTION, allow_fused=allow_fused).defaults
    assert settings["fused"] is (allow_fused and kind is CudaParameter)
    assert (settings["lr"], settings["betas"], settings["eps"]) == (3e-3, (0.8, 0.99), 1e-7)
    assert settings["weight_decay"] == 0.02


@pytest.mark.parametrize(("dtype", "fused"), [("float32", True), ("bfloat16", True), ("float16", False)])
def test_adamw_is_not_fused_with_a_loss_scaler(dtype: str, fused: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GradScaler misses a CUDA device
        optimizer = build_training_optimizer(toy_config(model={"dtype": dtype}), CudaPolicy(), ProcessGroup())
    assert optimizer.optimizer.defaults["fused"] is fused


def test_fused_and_unfused_steps_agree() -> None:
    """Twenty float32 steps, which round differently."""
    weights_after = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in ((8, 16), (4, 8), (3,))]
        optimizer = build_optimizer(weights, SECTION)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(20):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        weights_after.append(torch.cat([weight.detach().flatten() for weight in weights]))
    difference = float((weights_after[1] - weights_after[0]).norm() / weights_after[0].norm())
    assert difference < 1e-8  # measured: 2.4e-9
