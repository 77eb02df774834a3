"""What is trained: LoRA or every weight, the reference behind it, and what stock diffusers reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from tests.tiny import PROMPTS, SEEDS, log_prob, perturb, tiny_pixart, tiny_policy, tiny_sd, tiny_sdxl
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.policy.pipeline import PipelinePolicy

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def images(pipeline: Any) -> Tensor:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    drawn = pipeline(
        [prompt.text for prompt in PROMPTS],
        num_inference_steps=3,
        guidance_scale=5.0,
        eta=1.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    )
    return drawn.images


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def test_an_untrained_lora_leaves_the_pipeline_as_it_was() -> None:
    assert torch.equal(images(tiny_policy().pipeline), images(tiny_sd()))


def test_lora_takes_the_targets_and_rank_asked_for() -> None:
    policy = tiny_policy(lora_rank=3, lora_targets=["to_q"])
    layers = {name: part for name, part in policy.pipeline.unet.named_modules() if isinstance(part, Linear)}
    assert layers and all(name.endswith("to_q") for name in layers)
    assert {min(parameter.shape) for parameter in policy.parameters()} == {3}
    assert len(policy.parameters()) == 2 * len(layers)


def test_lora_starts_from_its_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = tiny_policy(tiny_sd(), seed=1).state_dict()
    assert torch.equal(torch.rand(1), expected)
    again, other = tiny_policy(seed=1).state_dict(), tiny_policy(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_lora_is_float32_on_half_precision_weights() -> None:
    policy = tiny_policy(tiny_sd().to(dtype=torch.bfloat16), dtype="bfloat16")
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_reference_is_the_base_and_ends_bit_for_bit(adapter: str) -> None:
    base = tiny_policy(adapter=adapter)
    walk = base.rollout(PROMPTS, SEEDS).trajectory
    policy = tiny_policy(adapter=adapter)
    perturb(policy, 0.05)
    before, trained = policy.parameters(), copied(policy.state_dict())
    with torch.no_grad():
        moved = log_prob(policy, walk, 1)
        with policy.reference():
            assert torch.equal(log_prob(policy, walk, 1), walk.log_probs[:, 1])
            assert len(policy.parameters()) == len(before)
        assert torch.equal(log_prob(policy, walk, 1), moved)
    assert not torch.equal(moved, walk.log_probs[:, 1])
    assert all(torch.equal(trained[name], value) for name, value in policy.state_dict().items())
    assert all(left is right and left.requires_grad for left, right in zip(policy.parameters(), before, strict=True))


def test_reference_ends_when_its_body_fails() -> None:
    policy = tiny_policy(adapter="full")
    perturb(policy)
    trained = copied(policy.state_dict())
    with pytest.raises(ZeroDivisionError), policy.reference():
        raise ZeroDivisionError
    assert all(torch.equal(trained[name], value) for name, value in policy.state_dict().items())


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_state_goes_round(adapter: str) -> None:
    policy, other = tiny_policy(adapter=adapter), tiny_policy(adapter=adapter, seed=9)
    perturb(policy)
    state = copied(policy.state_dict())
    other.load_state_dict(state)
    assert all(torch.equal(state[name], value) for name, value in other.state_dict().items())
    assert torch.equal(images(other.pipeline), images(policy.pipeline))
    assert not torch.equal(images(other.pipeline), images(tiny_sd()))


def test_weights_of_another_adapter_are_refused() -> None:
    state = tiny_policy(lora_targets=["to_q"]).state_dict()
    with pytest.raises(InputError, match="not of this adapter"):
        tiny_policy().load_state_dict(state)


@pytest.mark.parametrize("alpha", [None, 2.0, 16.0])
@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl])
def test_an_exported_lora_loads_into_the_stock_pipeline(build: Any, alpha: float | None, tmp_path: Path) -> None:
    policy = tiny_policy(build(), lora_rank=4, lora_alpha=alpha)
    perturb(policy)
    file = policy.export(tmp_path / "lora")
    assert file == tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    stock = build()
    plain = images(stock)
    stock.load_lora_weights(file.parent)
    trained = images(policy.pipeline)
    assert torch.equal(images(stock), trained)
    assert not torch.allclose(plain, trained, atol=1e-3)


def test_an_exported_lora_says_alpha_equals_rank_to_every_reader(tmp_path: Path) -> None:
    policy = tiny_policy(lora_rank=4, lora_alpha=8.0)
    perturb(policy)
    written = load_file(policy.export(tmp_path))
    assert not [name for name in written if name.endswith("alpha")]
    expected = {name: value * (2 if ".lora_B." in name else 1) for name, value in policy.state_dict().items()}
    assert {f"unet.{name}" for name in expected} == written.keys()
    assert all(torch.equal(written[f"unet.{name}"], value) for name, value in expected.items())


def test_an_exported_denoiser_loads_into_the_stock_pipeline(tmp_path: Path) -> None:
    policy = tiny_policy(adapter="full")
    perturb(policy, 0.05)
    stock: StableDiffusionPipeline = tiny_sd()
    stock.unet = UNet2DConditionModel.from_pretrained(policy.export(tmp_path / "unet"))
    assert torch.equal(images(stock), images(policy.pipeline))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_targets": ["no_such_layer"]}, r"LoRA targets \['no_such_layer'\] do not fit the unet"),
        ({"lora_targets": ["norm1"]}, r"LoRA targets \['norm1'\] do not fit the unet: .*not supported"),
        ({"adapter": "full", "dtype": "float16"}, "float16 weights cannot be trained"),
    ],
)
def test_what_cannot_be_attached_is_told_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        tiny_policy(**options)
    assert "\n" not in str(refused.value)


def test_lora_where_diffusers_has_none() -> None:
    with pytest.raises(InputError, match=r"no LoRA for PixArtSigmaPipeline: set model\.adapter=full"):
        tiny_policy(tiny_pixart())


def test_only_the_adapter_is_trainable() -> None:
    policy: PipelinePolicy = tiny_policy(tiny_sdxl())
    open_weights = {
        id(parameter)
        for part in policy.pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
        if parameter.requires_grad
    }
    assert open_weights == {id(parameter) for parameter in policy.parameters()}
    assert not any(part.training for part in policy.pipeline.unet.modules())
