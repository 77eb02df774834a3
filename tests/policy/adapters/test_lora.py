"""LoRA: which layers, how it starts, the base behind it, its state."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from tests.families import FAMILIES
from tests.policy.adapted import attached, copied, images, latents_with_gradient, same, shift
from tests.tiny import tiny_sd, tiny_sdxl

from stepcredit.errors import InputError
from stepcredit.policy import adapters
from stepcredit.policy.adapters import denoiser_name


def adapted_layers(denoiser: Any) -> dict[str, LoraLayer]:
    return {name: part for name, part in denoiser.named_modules() if isinstance(part, LoraLayer)}


def test_an_untrained_lora_does_not_change_images() -> None:
    pipeline = tiny_sd()
    attached(pipeline)
    assert torch.equal(images(pipeline), images(tiny_sd()))


def test_lora_has_the_configured_targets_and_rank() -> None:
    pipeline = tiny_sd()
    adapter = attached(pipeline, lora_rank=3, lora_targets=["to_q"])
    layers = adapted_layers(pipeline.unet)
    assert layers and all(name.endswith("to_q") for name in layers)
    assert {min(parameter.shape) for parameter in adapter.parameters()} == {3}
    assert len(adapter.parameters()) == 2 * len(layers)


def test_lora_scales_by_alpha_over_rank_without_dropout() -> None:
    pipeline = tiny_sd()
    attached(pipeline, lora_rank=4, lora_alpha=6.0)
    layers = adapted_layers(pipeline.unet).values()
    assert {layer.scaling["default"] for layer in layers} == {1.5}
    assert {type(layer.lora_dropout["default"]) for layer in layers} == {torch.nn.Identity}


def test_lora_is_initialized_from_its_seed_only() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    pipeline = tiny_sd()
    torch.manual_seed(5)
    first = attached(pipeline, seed=1).state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert same(first, attached(tiny_sd(), seed=1).state_dict())
    assert not same(first, attached(tiny_sd(), seed=2).state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_trained_matrix_of_every_family_has_a_gradient(name: str) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    adapter = attached(pipeline)
    shift(adapter)
    latents_with_gradient(pipeline, tiny).float().square().sum().backward()
    assert adapter.parameters()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in adapter.parameters())


def test_excluded_layers_get_no_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = tiny_sd()
    attached(everywhere)
    first, *others = adapted_layers(everywhere.unet)
    monkeypatch.setattr(adapters, "lora_excluded", lambda denoiser: [first, "no.such.layer"])
    pipeline = tiny_sd()
    attached(pipeline)
    assert list(adapted_layers(pipeline.unet)) == others


def test_targets_that_are_all_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, _ in tiny_sd().unet.named_modules() if name.endswith("to_q")]
    monkeypatch.setattr(adapters, "lora_excluded", lambda denoiser: names)
    with pytest.raises(InputError, match="match only layers without influence on the output of the unet"):
        attached(tiny_sd(), lora_targets=["to_q"])


def test_targets_without_a_match_list_the_layers() -> None:
    with pytest.raises(InputError) as refused:
        attached(tiny_sd(), lora_targets=["no_such_layer", "o_q"])
    told = re.fullmatch(
        r"LoRA targets \['no_such_layer', 'o_q'\] match no layer of the unet; its linear layers end in (.+)",
        str(refused.value),
    )
    assert told is not None
    endings = told.group(1).split(", ")
    assert {"to_q", "to_k", "to_v", "to_out.0"} <= set(endings) and len(endings) <= 8
    for ending in endings:
        attached(tiny_sd(), lora_targets=[ending])


def test_layers_that_cannot_hold_a_lora() -> None:
    with pytest.raises(InputError, match=r"LoRA targets \['norm1'\] do not fit the unet: .*not supported") as refused:
        attached(tiny_sd(), lora_targets=["norm1"])
    assert "\n" not in str(refused.value)


def test_lora_is_float32_on_half_precision_weights() -> None:
    pipeline = tiny_sd().to(dtype=torch.bfloat16)
    adapter = attached(pipeline, dtype="bfloat16")
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert pipeline.unet.conv_in.weight.dtype == torch.bfloat16


def test_only_the_adapter_is_trainable() -> None:
    pipeline = tiny_sdxl()
    adapter = attached(pipeline)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    trainable = {id(weight) for part in parts for weight in part.parameters() if weight.requires_grad}
    assert trainable == {id(weight) for weight in adapter.parameters()}
    assert not any(module.training for module in getattr(pipeline, denoiser_name(pipeline)).modules())


@pytest.mark.parametrize("name", ["sd", "pixart_sigma"])
def test_reference_restores_the_base_model_and_then_the_weights_exactly(name: str) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    adapter = attached(pipeline)
    shift(adapter)
    before, trained, moved = adapter.parameters(), copied(adapter.state_dict()), images(pipeline, tiny)
    untrained = images(tiny.build(0), tiny)
    with adapter.reference():
        assert torch.equal(images(pipeline, tiny), untrained)
    assert torch.equal(images(pipeline, tiny), moved) and not torch.equal(moved, untrained)
    assert same(adapter.state_dict(), trained)
    assert all(left is right and left.requires_grad for left, right in zip(adapter.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["sd", "pixart_sigma"])
def test_the_state_can_be_saved_and_loaded(name: str) -> None:
    tiny = FAMILIES[name]
    pipeline, other = tiny.build(0), tiny.build(0)
    adapter, restored = attached(pipeline), attached(other, seed=9)
    shift(adapter)
    restored.load_state_dict(copied(adapter.state_dict()))
    assert same(restored.state_dict(), adapter.state_dict())
    assert torch.equal(images(other, tiny), images(pipeline, tiny))


@pytest.mark.parametrize("options", [{"lora_targets": ["to_q"]}, {"lora_rank": 2}, {"ema": 0.5}])
def test_the_state_of_another_adapter_is_refused(options: dict[str, Any]) -> None:
    state = attached(tiny_sd(), **options).state_dict()
    with pytest.raises(InputError, match=r"not of this adapter: it has \d+ LoRA matrices"):
        attached(tiny_sd()).load_state_dict(state)


def test_there_is_no_moving_average_by_default() -> None:
    adapter = attached(tiny_sd())
    before = copied(adapter.state_dict())
    shift(adapter)
    adapter.stepped()
    with adapter.averaged():
        assert not same(adapter.state_dict(), before)


def test_a_unet_without_attention_has_no_default_targets() -> None:
    pipeline = tiny_sd()
    pipeline.unet = UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=4,
    )
    with pytest.raises(
        InputError, match="match no layer of the unet; its linear layers end in time_emb_proj, linear_1"
    ):
        attached(pipeline)
