"""The table of families, against tiny pipelines of the genuine classes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from tests import families as tiny
from tests.families import flux, flux2_klein, qwen_image, sana, sd3, z_image
from torch import Tensor, nn

from stepcredit.families import FAMILIES, GENERIC, Family, family_of
from stepcredit.policy.adapters import denoiser_name
from stepcredit.policy.adapters.lora_layers import lora_excluded

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # EulerDiscreteScheduler

NAMES = list(tiny.FAMILIES)
WITH_LORA = ["sd", "sdxl", "sd3", "flux", "flux2_klein", "qwen_image", "z_image", "sana"]
DEPTHS: dict[str, Callable[[int, int], DiffusionPipeline]] = {
    "sd3": sd3.build,
    "flux": flux.build,
    "flux2_klein": flux2_klein.build,
    "qwen_image": qwen_image.build,
    "z_image": z_image.build,
    "sana": sana.build,
}
PROMPTS = ["a cat", "a red fox", "sea"]


@functools.cache
def built(name: str) -> DiffusionPipeline:
    return tiny.FAMILIES[name].build(0)


def denoiser(pipeline: DiffusionPipeline) -> Any:
    return getattr(pipeline, denoiser_name(pipeline))


def sampled(pipeline: DiffusionPipeline, name: str, prompts: list[str], seed: int = 0, **call: Any) -> Tensor:
    """Images (B,3,H,W) of 4 steps."""
    family, entry = family_of(pipeline), tiny.FAMILIES[name]
    call = {**family.call, **entry.call, family.guidance: entry.guidance, **call}
    negative = call.get("negative_prompt")
    if isinstance(negative, str):
        call["negative_prompt"] = [negative] * len(prompts)
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    images: Tensor = pipeline(
        prompt=list(prompts), num_inference_steps=4, output_type="pt", generator=generators, **call
    ).images
    return images


@functools.cache
def plain(name: str) -> Tensor:
    return sampled(built(name), name, PROMPTS)


def far(first: Tensor, second: Tensor) -> bool:
    """Every image differs by more than rounding could make it."""
    return bool(((first - second).abs().flatten(1).amax(dim=1) > 2e-3).all())


@dataclass
class Forwards:
    """What a denoiser was called with: images per call, and the last call's arguments."""

    images: list[int]
    last: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})


def observed(pipeline: DiffusionPipeline, name: str, prompts: list[str], **call: Any) -> Forwards:
    seen = Forwards([])

    def look(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        latents = arguments[0] if arguments else named["hidden_states"]
        seen.images.append(len(latents))
        seen.last = (arguments, named)

    handle = denoiser(pipeline).register_forward_pre_hook(look, with_kwargs=True)
    sampled(pipeline, name, prompts, **call)
    handle.remove()
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_images_are_finite_and_follow_prompt_seed_and_guidance(name: str) -> None:
    pipeline, images = built(name), plain(name)
    channels = 4 if name == "qwen_image_2.1" else 3
    assert images.shape[:2] == (3, channels) and images.isfinite().all() and images.std() > 0.02
    assert torch.equal(sampled(pipeline, name, PROMPTS), images)
    assert far(sampled(pipeline, name, ["two dogs", "tree", "a big cat"]), images)
    assert far(sampled(pipeline, name, PROMPTS, seed=10), images)
    assert far(sampled(pipeline, name, PROMPTS, **{family_of(pipeline).guidance: 1.5}), images)


@pytest.mark.parametrize("name", ["sd", "sdxl", *DEPTHS, "pixart_sigma"])
def test_a_build_depends_on_its_seed_only(name: str) -> None:
    state = torch.get_rng_state()
    again, other = tiny.FAMILIES[name].build(0), tiny.FAMILIES[name].build(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sampled(again, name, PROMPTS), plain(name))
    assert far(sampled(other, name, PROMPTS), plain(name))
    assert not any(part.training for part in again.components.values() if isinstance(part, nn.Module))


@pytest.mark.parametrize("name", ["sd3", "flux2_klein", "qwen_image", "z_image", "sana"])
def test_a_saved_pipeline_loads_with_equal_images(name: str, tmp_path: Path) -> None:
    built(name).save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is type(built(name))
    assert torch.equal(sampled(loaded, name, PROMPTS), plain(name))


def test_skip_layer_guidance_is_used_at_some_steps_only() -> None:
    images = observed(built("sd3-skip-layer-guidance"), "sd3-skip-layer-guidance", PROMPTS).images
    assert images == [6, 6, 3, 6, 3, 6]
    assert far(plain("sd3-skip-layer-guidance"), plain("sd3"))


def test_variants_have_the_prediction_types_of_their_names() -> None:
    kinds = {name: built(name).scheduler.config.prediction_type for name in ("sd", "sd-v-prediction", "sd-sample")}
    assert kinds == {"sd": "epsilon", "sd-v-prediction": "v_prediction", "sd-sample": "sample"}
    assert far(plain("flux-true-cfg"), plain("flux"))


@pytest.mark.parametrize("name", NAMES)
def test_the_table_finds_the_family(name: str) -> None:
    base = name.split("-")[0].removesuffix("_sigma")
    assert family_of(built(name)).name == base


def test_subclasses_belong_to_the_family_and_other_classes_are_generic() -> None:
    own = type("MyPipeline", (diffusers.QwenImagePipeline,), {})
    assert family_of(own.__new__(own)).name == "qwen_image"
    assert family_of(object()) is GENERIC


@pytest.mark.parametrize("family", [family for family in FAMILIES for _ in family.pipelines], ids=lambda f: f.name)
def test_every_pipeline_accepts_the_arguments_of_the_table(family: Family) -> None:
    for name in family.pipelines:
        accepted = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert {family.guidance, *family.call} <= accepted.keys()


@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_off_where_the_table_says(name: str) -> None:
    family = family_of(built(name))
    if family.unguided is None:
        assert built(name).transformer.config.guidance_embeds
        return
    off = {family.guidance: family.unguided}
    guided, unguided = (observed(built(name), name, PROMPTS[:2], **call).images for call in ({}, off))
    assert unguided == [2, 2, 2, 2] and sum(guided) >= 16
    assert far(sampled(built(name), name, PROMPTS, **off), plain(name))


def test_z_image_adds_its_guidance_to_the_conditional_prediction() -> None:
    images = {scale: sampled(built("z_image"), "z_image", PROMPTS, guidance_scale=scale) for scale in (0.0, 1e-6, 1.0)}
    torch.testing.assert_close(images[1e-6], images[0.0], rtol=0, atol=1e-4)
    assert far(images[1.0], images[0.0])


def adapted(pipeline: DiffusionPipeline, excluded: list[str] | None = None) -> dict[str, Tensor]:
    """Put a LoRA with A and B both random on the family's targets; gradients of one random loss, by layer."""
    model = denoiser(pipeline)
    config = LoraConfig(
        r=2,
        lora_alpha=2,
        target_modules=list(family_of(pipeline).lora_targets),
        exclude_modules=excluded or None,
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.requires_grad_(False).add_adapter(config)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def without_gradient(pipeline: DiffusionPipeline, name: str, parameters: dict[str, Tensor]) -> set[str]:
    """Names of layers of which some LoRA matrix receives no gradient from the denoiser's output."""
    arguments, named = observed(pipeline, name, PROMPTS).last
    output = denoiser(pipeline)(*arguments, **named)[0]
    generator = torch.Generator().manual_seed(0)
    parts = output if isinstance(output, list) else [output]
    torch.stack([(part * torch.randn(part.shape, generator=generator)).sum() for part in parts]).sum().backward()
    return {
        key.partition(".lora_")[0]
        for key, parameter in parameters.items()
        if parameter.grad is None or not parameter.grad.any()
    }


def linear_layers(pipeline: DiffusionPipeline, names: list[str]) -> set[str]:
    parts = dict(denoiser(pipeline).named_modules())
    return {name for name in names if isinstance(parts[name], nn.Linear)}


def matched(pipeline: DiffusionPipeline, target: str) -> set[str]:
    """Linear layers whose names end in `target`."""
    return linear_layers(pipeline, [n for n, _ in denoiser(pipeline).named_modules() if f".{n}".endswith(f".{target}")])


@pytest.mark.parametrize("name", ["sd", "sdxl", *DEPTHS, "pixart_sigma"])
def test_every_default_target_is_a_layer(name: str) -> None:
    assert all(matched(built(name), target) for target in family_of(built(name)).lora_targets)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", DEPTHS)
def test_the_excluded_layers_are_those_without_gradient(name: str, layers: int) -> None:
    pipeline = DEPTHS[name](0, layers)
    excluded = lora_excluded(denoiser(pipeline))
    targeted = set().union(*(matched(pipeline, target) for target in family_of(pipeline).lora_targets))
    dead = linear_layers(pipeline, excluded) & targeted
    lists = [part for part in excluded if isinstance(denoiser(pipeline).get_submodule(part), nn.ModuleList)]
    assert without_gradient(pipeline, name, adapted(pipeline, lists)) == dead
    assert (name in ("sd3", "qwen_image")) == bool(dead)


def test_excluded_layers_have_no_influence_on_the_output() -> None:
    pipeline = qwen_image.build(0, layers=2)
    excluded = lora_excluded(pipeline.transformer)
    ends = {name.removeprefix("transformer_blocks.1.") for name in excluded}
    assert ends == {"attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2"}
    for layer in excluded:
        nn.init.normal_(pipeline.transformer.get_submodule(layer).weight)
    assert torch.equal(sampled(pipeline, "qwen_image", PROMPTS), plain("qwen_image"))


def test_flux2_excludes_module_lists_named_like_layers() -> None:
    excluded = lora_excluded(flux2_klein.build(0, layers=2).transformer)
    assert excluded == ["transformer_blocks.0.attn.to_out", "transformer_blocks.1.attn.to_out"]


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")
def test_families_without_tiny_pipelines_have_the_layers_of_the_table() -> None:
    width: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    chroma = diffusers.ChromaTransformer2DModel(
        **width, num_single_layers=1, approximator_num_channels=8, approximator_hidden_dim=8, axes_dims_rope=(2, 2, 4)
    )
    newer_qwen = diffusers.QwenImage21Transformer2DModel(
        **width, in_channels=4, context_in_dim=16, axes_dims_rope=(2, 2, 4)
    )
    for model, name in ((chroma, "chroma"), (newer_qwen, "qwen_image_2.1")):
        (family,) = (family for family in FAMILIES if family.name == name)
        layers = [part for part, module in model.named_modules() if isinstance(module, nn.Linear)]
        assert all(any(layer.endswith(f".{target}") for layer in layers) for target in family.lora_targets)
        assert lora_excluded(model) == []


def test_pixart_has_no_lora_loader() -> None:
    assert not hasattr(built("pixart_sigma"), "save_lora_weights")
    assert not hasattr(built("pixart_sigma").transformer, "add_adapter")
