"""The bundled pipelines of the composition world."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

from stepcredit.bundled import BUNDLED
from stepcredit.shapes.build.composition_evaluation import evaluate_composition, evaluate_composition_autoencoder
from stepcredit.shapes.composition.captions import distinct_captions
from stepcredit.shapes.pipeline import CALL, COMPOSITION, WEIGHTS, load_pipeline
from stepcredit.shapes.tokenizer import build_composition_tokenizer

NAMES = [name for name, model in BUNDLED.items() if model.world == "composition"]
CLASSES = {"ddim": StableDiffusionPipeline, "flow": StableDiffusion3Pipeline}
WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_and_hold_no_local_paths(name: str) -> None:
    files = [path for path in (WEIGHTS / BUNDLED[name].folder).rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in files) <= 8e6
    assert not [path for path in files if path.suffix == ".json" and "_name_or_path" in path.read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_diffusers_loads_the_folder(name: str) -> None:
    kind = BUNDLED[name].architecture
    stock = DiffusionPipeline.from_pretrained(WEIGHTS / BUNDLED[name].folder, **(WITHOUT_T5 if kind == "flow" else {}))
    assert type(stock) is type(load_pipeline(name)) is CLASSES[kind]


@pytest.mark.parametrize("name", NAMES)
def test_it_paints_pictures_of_the_world(name: str) -> None:
    pipeline = load_pipeline(name)
    images = pipeline(
        distinct_captions(4, "held_out", seed=0),
        num_inference_steps=4,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **CALL[name],
    ).images
    assert images.shape == (4, 3, 32, 32) and images.isfinite().all()
    assert 0.7 < float(images[:, :, 0, 0].mean()) < 1  # the light background


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_is_that_of_its_builder(name: str) -> None:
    texts = [*distinct_captions(64, "training", seed=0), "a cat"]
    own, built = load_pipeline(name).tokenizer, build_composition_tokenizer()
    assert own(texts, padding="max_length", truncation=True) == built(texts, padding="max_length", truncation=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_report_says_how_it_was_made(name: str) -> None:
    report = json.loads((WEIGHTS / BUNDLED[name].folder / "report.json").read_text())
    assert {"seed", "threads", "seconds", "machine", "samples"} <= report.keys()
    assert report["autoencoder"]["all"] >= 0.98


def test_renders_survive_the_autoencoder() -> None:
    assert evaluate_composition_autoencoder(load_pipeline(COMPOSITION).vae, per_task=25)["all"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_report(name: str) -> None:
    """Obedience is imperfect, so that training can raise it, and the same on another machine within sampling error."""
    report = json.loads((WEIGHTS / BUNDLED[name].folder / "report.json").read_text())
    found = evaluate_composition(load_pipeline(name), BUNDLED[name], per_task=64, splits=["held_out"])["held_out"]
    assert found["all"] == pytest.approx(report["samples"]["held_out"]["all"], abs=0.1)
    assert 0.4 < found["all"] < 0.7
