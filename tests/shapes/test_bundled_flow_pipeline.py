"""The bundled flow pipeline."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from stepcredit.errors import InputError
from stepcredit.shapes.build.evaluation import evaluate_pipeline
from stepcredit.shapes.build.flow_training import FlowRecipe
from stepcredit.shapes.pipeline import CALL, FLOW, NAMES, WEIGHTS, load_checker, load_pipeline
from stepcredit.shapes.tokenizer import build_flow_tokenizer
from stepcredit.shapes.world import held_out_captions


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    return load_pipeline(FLOW)


def test_weights_are_small() -> None:
    files = [path for path in (WEIGHTS / "flow_pipeline").rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in files) <= 8e6


def test_configs_hold_no_local_paths() -> None:
    configs = list((WEIGHTS / "flow_pipeline").rglob("*.json"))
    assert len(configs) >= 9
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


def test_diffusers_loads_the_folder(pipeline: StableDiffusion3Pipeline) -> None:
    stock = DiffusionPipeline.from_pretrained(WEIGHTS / "flow_pipeline", text_encoder_3=None, tokenizer_3=None)
    assert type(stock) is type(pipeline) is StableDiffusion3Pipeline
    assert type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler
    assert pipeline.text_encoder_3 is None and pipeline.tokenizer_3 is None
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float32}
    assert not any(part.training for part in parts)


def test_each_load_returns_a_new_copy(pipeline: StableDiffusion3Pipeline) -> None:
    again = load_pipeline(FLOW)
    assert again.transformer.proj_out.weight.data_ptr() != pipeline.transformer.proj_out.weight.data_ptr()


def test_both_pipelines_decode_the_same(pipeline: StableDiffusion3Pipeline) -> None:
    other = load_pipeline().vae
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert pipeline.vae.config.scaling_factor == other.config.scaling_factor
    assert pipeline.vae.config.shift_factor == 0
    with torch.no_grad():
        assert torch.equal(pipeline.vae.decode(latents).sample, other.decode(latents).sample)


def test_tokenizers_match_their_builder(pipeline: StableDiffusion3Pipeline) -> None:
    texts = [*held_out_captions(64, seed=0), "a cat"]
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        assert tokenizer(texts).input_ids == build_flow_tokenizer()(texts).input_ids
        assert tokenizer.model_max_length == 16


def test_unknown_name_suggests_the_nearest() -> None:
    assert {"embedded", "embedded-flow"} < set(NAMES) == CALL.keys()
    with pytest.raises(InputError, match=r"^unknown embedded pipeline 'embeded-flow' \(did you mean 'embedded-flow'\?"):
        load_pipeline("embeded-flow")


def test_samples_match_held_out_captions(pipeline: StableDiffusion3Pipeline) -> None:
    accuracy = evaluate_pipeline(pipeline, load_checker(), count=24, steps=10, **CALL[FLOW])
    assert min(accuracy["foreground"], accuracy["background"], accuracy["shape"]) >= 0.8


def test_report_matches_the_recipe() -> None:
    report = json.loads((WEIGHTS / "flow_report.json").read_text())
    assert FlowRecipe(**report["flow"]) == FlowRecipe()
    assert report["seed"] == 0 and report["seconds"]["flow"] > 0
