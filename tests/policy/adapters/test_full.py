"""Every weight trained: in float32 whatever the pipeline came in, with the initial weights behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families import FAMILIES
from tests.policy.adapted import attached, copied, images, latents_with_gradient, same, shift
from tests.tiny import tiny_sd, tiny_unet

from stepcredit.errors import InputError
from stepcredit.policy.adapters import denoiser_name


def half(pipeline: Any) -> Any:
    return pipeline.to(dtype=torch.bfloat16)


def test_every_weight_of_the_denoiser_and_no_other_is_trained() -> None:
    pipeline = tiny_sd()
    adapter = attached(pipeline, adapter="full")
    assert {id(weight) for weight in adapter.parameters()} == {id(weight) for weight in pipeline.unet.parameters()}
    assert all(weight.requires_grad for weight in adapter.parameters())
    assert not any(
        weight.requires_grad for part in (pipeline.vae, pipeline.text_encoder) for weight in part.parameters()
    )


def test_reference_restores_the_base_model_and_then_the_weights_exactly() -> None:
    pipeline = tiny_sd()
    adapter = attached(pipeline, adapter="full")
    shift(adapter, 0.05)
    before, trained, moved = adapter.parameters(), copied(adapter.state_dict()), images(pipeline)
    with adapter.reference():
        assert torch.equal(images(pipeline), images(tiny_sd()))
    assert torch.equal(images(pipeline), moved) and not torch.equal(moved, images(tiny_sd()))
    assert same(adapter.state_dict(), trained)
    assert all(left is right for left, right in zip(adapter.parameters(), before, strict=True))


def test_reference_restores_the_weights_after_an_exception() -> None:
    adapter = attached(tiny_sd(), adapter="full")
    shift(adapter)
    trained = copied(adapter.state_dict())
    with pytest.raises(ZeroDivisionError), adapter.reference():
        raise ZeroDivisionError
    assert same(adapter.state_dict(), trained)


def test_the_state_can_be_saved_and_loaded() -> None:
    pipeline, other = tiny_sd(), tiny_sd(seed=1)
    adapter, restored = attached(pipeline, adapter="full"), attached(other, adapter="full")
    shift(adapter, 0.05)
    restored.load_state_dict(copied(adapter.state_dict()))
    assert same(restored.state_dict(), adapter.state_dict())


def test_the_weights_of_another_denoiser_are_refused() -> None:
    state = tiny_unet(layers_per_block=2).state_dict()
    with pytest.raises(InputError, match=r"not of this unet: it has \d+ tensors"):
        attached(tiny_sd(), adapter="full").load_state_dict(state)


def test_float16_is_refused() -> None:
    with pytest.raises(InputError, match=r"float16 weights cannot be trained: set model\.dtype=bfloat16 or float32"):
        attached(tiny_sd().to(dtype=torch.float16), adapter="full", dtype="float16")


def test_bfloat16_weights_are_trained_in_float32() -> None:
    pipeline = half(tiny_sd())
    adapter = attached(pipeline, adapter="full", dtype="bfloat16")
    assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}
    assert pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.bfloat16
    before = images(pipeline)
    with torch.no_grad():
        pipeline.unet.conv_in.weight += 2**-12
    adapter.stepped()
    moved = pipeline.unet.conv_in.weight - half(tiny_sd()).unet.conv_in.weight.float()
    assert torch.allclose(moved, torch.full_like(moved, 2**-12), atol=1e-7), "an update far below bfloat16 is kept"
    with adapter.reference():
        assert torch.equal(images(pipeline), before)


def test_bfloat16_weights_compute_in_bfloat16() -> None:
    pipeline = half(tiny_sd())
    attached(pipeline, adapter="full", dtype="bfloat16")
    seen: list[torch.dtype] = []
    layer = pipeline.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    pipeline_images = images(pipeline)
    assert set(seen) == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")
    assert (pipeline_images.float() - images(half(tiny_sd())).float()).abs().max() < 0.05


@pytest.mark.filterwarnings(
    "ignore:Mismatch dtype between input and weight"
)  # RMSNorm under autocast: slower, not wrong
@pytest.mark.parametrize("name", [name for name in FAMILIES if "-" not in name])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_family_has_gradients_for_the_weights_it_uses(name: str, dtype: str) -> None:
    """Some weights have no gradient: those of layers whose output the pipeline does not use."""
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0).to(dtype=getattr(torch, dtype))
    adapter = attached(pipeline, adapter="full", dtype=dtype)
    latents_with_gradient(pipeline, tiny).float().square().sum().backward()
    with_gradient = [weight.grad is not None and bool(weight.grad.any()) for weight in adapter.parameters()]
    assert sum(with_gradient) / len(with_gradient) > 0.8
    assert {weight.grad.dtype for weight in adapter.parameters() if weight.grad is not None} == {torch.float32}
    assert getattr(pipeline, denoiser_name(pipeline)).dtype == torch.float32
