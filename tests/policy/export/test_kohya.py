"""kohya's format: the names that every reader knows, and stock diffusers drawing the trained images from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.families import FAMILIES
from tests.policy.adapted import attached, images, shift
from tests.tiny import tiny_sd, tiny_sdxl

from stepcredit.errors import InputError
from stepcredit.policy.export import kohya

TRANSFORMER = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]


@pytest.mark.parametrize("alpha", [None, 16.0])
@pytest.mark.parametrize("targets", [None, TRANSFORMER])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_stock_diffusers_reads_it_back(name: str, targets: Any, alpha: float | None, tmp_path: Path) -> None:
    pipeline: Any = FAMILIES[name].build(0)
    adapter = attached(pipeline, lora_rank=4, lora_alpha=alpha, lora_targets=targets)
    shift(adapter)
    file = kohya.write(pipeline, tmp_path)
    stock: Any = FAMILIES[name].build(0)
    plain, trained = images(stock), images(pipeline)
    stock.load_lora_weights(file)
    assert torch.equal(images(stock), trained)
    assert not torch.allclose(plain, trained, atol=1e-3)


def test_the_tensors_are_the_trained_ones_with_their_own_alpha(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    adapter = attached(pipeline, lora_rank=3, lora_alpha=6.0, lora_targets=["attn1.to_out.0"])
    shift(adapter)
    written = load_file(kohya.write(pipeline, tmp_path))
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    state = adapter.state_dict()
    assert torch.equal(written[f"{name}.lora_down.weight"], state[f"{path}.lora_A.weight"])
    assert torch.equal(written[f"{name}.lora_up.weight"], state[f"{path}.lora_B.weight"])
    assert {key: value.item() for key, value in written.items() if key.endswith(".alpha")} == {
        key.replace(".lora_up.weight", ".alpha"): 6.0 for key in written if key.endswith(".lora_up.weight")
    }
    assert len(written) == 3 * len(state) / 2


# SDXL's UNet has 2 layers a block. The names are those of kohya's trainer: the UNet of the original release has its
# input blocks numbered conv_in 0, resnets 1 2, downsampler 3, ... and its output blocks 0 1 2, 3 4 5, 6 7 8.
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks.1.attentions.0.proj_in", "input_blocks_4_1_proj_in"),
        ("down_blocks.1.attentions.1.proj_out", "input_blocks_5_1_proj_out"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k",
            "input_blocks_8_1_transformer_blocks_9_attn2_to_k",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.9.attn1.to_out.0",
            "middle_block_1_transformer_blocks_9_attn1_to_out_0",
        ),
        ("up_blocks.0.attentions.2.transformer_blocks.0.ff.net.2", "output_blocks_2_1_transformer_blocks_0_ff_net_2"),
        (
            "up_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
            "output_blocks_3_1_transformer_blocks_1_attn1_to_q",
        ),
    ],
)
def test_names_of_sdxl(path: str, name: str) -> None:
    assert kohya.layer_name(path, 2) == f"lora_unet_{name}"


def test_names_of_stable_diffusion() -> None:
    assert kohya.layer_name("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", None) == (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    )


def metadata(file: Path) -> dict[str, str]:
    """As the header of a safetensors file stores it."""
    content = file.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    read: dict[str, str] = header["__metadata__"]
    return read


@pytest.mark.parametrize(
    ("build", "width", "version"),
    [(tiny_sd, 16, "sd_v1"), (tiny_sd, 1024, "sd_v2"), (tiny_sdxl, 1024, "sdxl_base_v1-0")],
)
def test_metadata_names_the_base_model(build: Any, width: int, version: str, tmp_path: Path) -> None:
    pipeline = build()
    attached(pipeline, lora_rank=3, lora_alpha=6.0)
    pipeline.unet.register_to_config(cross_attention_dim=width)
    assert metadata(kohya.write(pipeline, tmp_path)) == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "6.0",
        "ss_base_model_version": version,
        "ss_v2": str(version == "sd_v2"),
    }


def test_other_families_have_no_such_format(tmp_path: Path) -> None:
    pipeline = FAMILIES["flux"].build(0)
    attached(pipeline)
    with pytest.raises(InputError, match=r"for Stable Diffusion 1\.x, 2\.x and SDXL, not FluxPipeline; use --format"):
        kohya.write(pipeline, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fully_trained_denoiser_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    attached(pipeline, adapter="full")
    with pytest.raises(InputError, match="all weights were trained; use --format lora or merged"):
        kohya.write(pipeline, tmp_path / "out")


def test_layers_outside_attention_are_refused_by_name(tmp_path: Path) -> None:
    pipeline = tiny_sdxl()
    attached(pipeline, lora_targets=["to_q", "conv_out"])
    with pytest.raises(InputError, match="not for conv_out"):
        kohya.write(pipeline, tmp_path / "out")
    assert not (tmp_path / "out").exists()
