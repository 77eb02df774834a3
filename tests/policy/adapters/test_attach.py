"""What `attach` reads from the model section beside the adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.policy.adapted import attached, latents_with_gradient, shift
from tests.tiny import tiny_sd
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.policy.adapters import AveragedAdapter, FullAdapter, LoraAdapter, denoiser_name


def test_the_configuration_selects_the_adapter() -> None:
    assert isinstance(attached(tiny_sd()), LoraAdapter)
    assert isinstance(attached(tiny_sd(), adapter="full"), FullAdapter)
    assert isinstance(attached(tiny_sd(), adapter="full", ema=0.0), AveragedAdapter)


def test_a_pipeline_without_a_denoiser() -> None:
    pipeline = tiny_sd()
    pipeline.unet = None
    with pytest.raises(InputError, match="StableDiffusionPipeline has neither a unet nor a transformer"):
        denoiser_name(pipeline)


def gradients(**options: Any) -> list[Tensor]:
    pipeline = tiny_sd()
    adapter = attached(pipeline, **options)
    shift(adapter)
    latents_with_gradient(pipeline).square().sum().backward()
    return [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    pipeline = tiny_sd()
    attached(pipeline, gradient_checkpointing=True)
    assert pipeline.unet.is_gradient_checkpointing
    plain, recomputed = gradients(), gradients(gradient_checkpointing=True)
    assert plain and all(torch.equal(left, right) for left, right in zip(plain, recomputed, strict=True))


def test_a_denoiser_without_gradient_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_sd()
    monkeypatch.setattr(type(pipeline.unet), "_supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match=r"UNet2DConditionModel .*model\.gradient_checkpointing=false"):
        attached(pipeline, gradient_checkpointing=True)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile marks a module as it always does, and takes no time."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def compiled(denoiser: torch.nn.Module) -> set[str]:
    return {type(part).__name__ for part in denoiser.modules() if part._compiled_call_impl is not None}


@pytest.mark.usefixtures("uncompiled")
def test_only_repeated_blocks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, whole, plain = tiny_sd(), tiny_sd(), tiny_sd()
    attached(plain)
    attached(blocks, compile=True)
    monkeypatch.setattr(type(whole.unet), "_repeated_blocks", [])
    attached(whole, compile=True)
    assert compiled(plain.unet) == set()
    assert compiled(blocks.unet) == {"BasicTransformerBlock"}
    assert compiled(whole.unet) == {"UNet2DConditionModel"}


@pytest.mark.usefixtures("uncompiled")
def test_a_model_without_repeated_blocks_is_compiled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_sd()
    monkeypatch.setattr(type(pipeline.unet), "_repeated_blocks", ["NoSuchBlock"])
    attached(pipeline, compile=True)
    assert compiled(pipeline.unet) == {"UNet2DConditionModel"}
