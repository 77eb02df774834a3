"""Exported weights: stock diffusers loads every format and draws what the trained pipeline drew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file
from tests.families import FAMILIES
from tests.policy.adapted import attached, images, shift
from tests.tiny import tiny_sd

from stepcredit.errors import InputError
from stepcredit.policy.adapters import denoiser_name
from stepcredit.policy.export.formats import FORMATS, loading_hint, write
from stepcredit.shapes.tokenizer import build_tokenizer

WITH_LORA = [name for name in FAMILIES if name != "pixart_sigma"]
ONE_OF_EACH_CLASS = [name for name in FAMILIES if "-" not in name]
MERGED = 2e-5
"""Largest difference of a pixel after W + B A was added up once instead of in every forward, float32."""


def merged(folder: Path, dtype: str = "float32") -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("alpha", [None, 16.0])
@pytest.mark.parametrize("name", WITH_LORA)
def test_a_lora_of_every_family_loads_into_the_stock_pipeline(name: str, alpha: float | None, tmp_path: Path) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    adapter = attached(pipeline, lora_rank=4, lora_alpha=alpha)
    shift(adapter)
    file = write(pipeline, adapter, "diffusers", tmp_path / "lora")
    assert file == tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    stock: Any = tiny.build(0)
    plain, trained = images(stock, tiny), images(pipeline, tiny)
    stock.load_lora_weights(file.parent)
    assert torch.equal(images(stock, tiny), trained)
    assert not torch.allclose(plain, trained, atol=1e-3)


@pytest.mark.parametrize("alpha", [None, 16.0])
@pytest.mark.parametrize("name", ["sd", "flux2_klein", "pixart_sigma"])
def test_a_lora_loads_into_the_stock_denoiser_with_peft(name: str, alpha: float | None, tmp_path: Path) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    adapter = attached(pipeline, lora_rank=4, lora_alpha=alpha)
    shift(adapter)
    assert write(pipeline, adapter, "peft", tmp_path) == tmp_path
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    stock: Any = tiny.build(0)
    plain, trained = images(stock, tiny), images(pipeline, tiny)
    PeftModel.from_pretrained(getattr(stock, denoiser_name(stock)), tmp_path)
    assert torch.equal(images(stock, tiny), trained)
    assert not torch.allclose(plain, trained, atol=1e-3)


def test_without_a_loader_in_diffusers_a_lora_is_peft_s(tmp_path: Path) -> None:
    pipeline = FAMILIES["pixart_sigma"].build(0)
    adapter = attached(pipeline)
    write(pipeline, adapter, "lora", tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    with pytest.raises(InputError, match="no LoRA loader for PixArtSigmaPipeline; use --format peft or merged"):
        write(pipeline, adapter, "diffusers", tmp_path / "diffusers")


def test_all_weights_are_no_peft_lora(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    with pytest.raises(InputError, match=r"peft's format is for LoRAs.*use --format lora or merged"):
        write(pipeline, attached(pipeline, adapter="full"), "peft", tmp_path)


@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS)
def test_a_merged_pipeline_of_every_family_loads(name: str, tmp_path: Path) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    adapter = attached(pipeline, lora_rank=4, lora_alpha=16.0)
    shift(adapter)
    trained = images(pipeline, tiny)
    stock, whole = tiny.build(0), merged(write(pipeline, adapter, "merged", tmp_path / "whole"))
    assert {kind: type(part) for kind, part in whole.components.items()} == {
        kind: type(part) for kind, part in stock.components.items()
    }
    ours, theirs = (getattr(each, denoiser_name(stock)).state_dict() for each in (whole, stock))
    assert ours.keys() == theirs.keys()
    assert (images(whole, tiny) - trained).abs().max() <= MERGED


def test_an_exported_lora_has_alpha_equal_to_rank(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    adapter = attached(pipeline, lora_rank=4, lora_alpha=8.0)
    shift(adapter)
    written = load_file(write(pipeline, adapter, "diffusers", tmp_path))
    assert not [name for name in written if name.endswith("alpha")]
    expected = {name: value * (2 if ".lora_B." in name else 1) for name, value in adapter.state_dict().items()}
    assert {f"unet.{name}" for name in expected} == written.keys()
    assert all(torch.equal(written[f"unet.{name}"], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["sd", "pixart_sigma"])
def test_a_fully_trained_denoiser_loads_by_itself(name: str, tmp_path: Path) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    part = denoiser_name(pipeline)
    adapter = attached(pipeline, adapter="full")
    shift(adapter, 0.05)
    folder = write(pipeline, adapter, "diffusers", tmp_path / part)
    stock: Any = tiny.build(0)
    setattr(stock, part, type(getattr(stock, part)).from_pretrained(folder))
    assert torch.equal(images(stock, tiny), images(pipeline, tiny))


@pytest.mark.parametrize("name", ["sd", "pixart_sigma"])
def test_a_fully_trained_denoiser_merges_unchanged(name: str, tmp_path: Path) -> None:
    tiny = FAMILIES[name]
    pipeline: Any = tiny.build(0)
    adapter = attached(pipeline, adapter="full")
    shift(adapter, 0.05)
    trained = images(pipeline, tiny)
    whole = merged(write(pipeline, adapter, "merged", tmp_path))
    assert torch.equal(images(whole, tiny), trained)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_bfloat16_merges_in_bfloat16(kind: str, tmp_path: Path) -> None:
    pipeline = tiny_sd().to(dtype=torch.bfloat16)
    adapter = attached(pipeline, adapter=kind, dtype="bfloat16")
    shift(adapter, 0.2 if kind == "lora" else 0.05)
    trained = images(pipeline)
    write(pipeline, adapter, "merged", tmp_path)
    stored = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    whole = merged(tmp_path, "bfloat16")
    assert (images(whole).float() - trained.float()).abs().mean() < 0.01
    assert (images(tiny_sd()) - trained.float()).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("form", "kind"),
    [*((form, "lora") for form in FORMATS), *((form, "full") for form in ("lora", "diffusers", "merged"))],
)
def test_every_format_holds_the_averages(form: str, kind: str, tmp_path: Path) -> None:
    pipeline, stock = tiny_sd(), tiny_sd()
    adapter = attached(pipeline, adapter=kind, ema=0.9)
    shift(adapter, 0.05)
    adapter.stepped()
    shift(adapter, 0.05, seed=1)
    with adapter.averaged():
        averaged = images(pipeline)
    assert not torch.allclose(images(pipeline), averaged, atol=1e-3)
    path = write(pipeline, adapter, form, tmp_path / "out")
    if form == "merged":
        stock = merged(path)
    elif kind == "full":
        stock.unet = type(stock.unet).from_pretrained(path)
    elif form == "peft":
        PeftModel.from_pretrained(stock.unet, path)
    else:
        stock.load_lora_weights(path)
    assert (images(stock) - averaged).abs().max() <= MERGED


def test_an_unknown_format(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    with pytest.raises(InputError, match=r"unknown export format 'merge' \(did you mean 'merged'\?\)"):
        write(pipeline, attached(pipeline), "merge", tmp_path)


@pytest.mark.parametrize(
    ("form", "kind", "hint"),
    [
        ("diffusers", "lora", 'pipe.load_lora_weights("out/pytorch_lora_weights.safetensors")'),
        ("diffusers", "full", 'pipe.unet = UNet2DConditionModel.from_pretrained("out")'),
        ("peft", "lora", 'peft.PeftModel.from_pretrained(pipe.unet, "out")'),
        (
            "kohya",
            "lora",
            'pipe.load_lora_weights("out/kohya_lora.safetensors"), or put it with the LoRAs of ComfyUI or A1111',
        ),
        ("merged", "lora", 'DiffusionPipeline.from_pretrained("out")'),
        ("merged", "full", 'DiffusionPipeline.from_pretrained("out")'),
    ],
)
def test_the_loading_hint(form: str, kind: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = tiny_sd()
    assert loading_hint(pipeline, write(pipeline, attached(pipeline, adapter=kind), form, Path("out"))) == hint


def test_a_merged_pipeline_has_the_names_and_files_of_transformers_4(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    pipeline.tokenizer = build_tokenizer()
    write(pipeline, attached(pipeline), "merged", tmp_path)
    weights = load_file(tmp_path / "text_encoder" / "model.safetensors")
    assert weights and all(name.startswith("text_model.") for name in weights)
    expected = {f"text_model.{name}": value for name, value in pipeline.text_encoder.state_dict().items()}
    assert weights.keys() == {name for name in expected if not name.endswith("position_ids")}
    vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert vocabulary == pipeline.tokenizer.get_vocab()
    version, *merges, end = (tmp_path / "tokenizer" / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert version.startswith("#version") and end == "" and all(len(merge.split()) == 2 for merge in merges) and merges
