"""A few steps of each training stage of the DDIM pipeline, and its build command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from tests.shapes.build.helpers import same, silent
from transformers import CLIPTextModel

from stepcredit.shapes import pipeline
from stepcredit.shapes.build import build, evaluation, loop, networks, packaging, training
from stepcredit.shapes.build.training import AutoencoderRecipe, CheckerRecipe, DenoiserRecipe
from stepcredit.shapes.tokenizer import build_tokenizer
from stepcredit.shapes.world import is_held_out, parse

AUTOENCODER = AutoencoderRecipe(steps=2, batch=4)
CHECKER = CheckerRecipe(steps=2, batch=4)
DENOISER = DenoiserRecipe(steps=3, batch=4, scenes=16)


def train_denoiser(recipe: DenoiserRecipe, vae: AutoencoderKL) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    tokenizer = build_tokenizer()
    return training.train_denoiser(
        recipe,
        0,
        lambda: training.new_denoiser(tokenizer),
        lambda rng: loop.shapes_data(vae, rng, recipe.scenes, recipe.caption_dropout),
        tokenizer,
        silent,
    )


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return training.train_autoencoder(AUTOENCODER, 0, silent)


def test_autoencoder_is_reproducible(vae: AutoencoderKL) -> None:
    assert same(training.train_autoencoder(AUTOENCODER, 0, silent), vae)
    assert not same(training.train_autoencoder(AUTOENCODER, 1, silent), vae)


def test_autoencoder_latents_have_unit_scale_and_constant_noise(vae: AutoencoderKL) -> None:
    images = loop.draw_images(np.random.default_rng(5), 256) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
    assert float((posterior.mean * vae.config.scaling_factor).std()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, AUTOENCODER.latent_noise))
    assert not vae.training and not any(weight.requires_grad for weight in vae.parameters())


def test_checker_is_reproducible() -> None:
    first, again, other = (training.train_checker(CHECKER, seed, silent) for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)
    assert not first.training and not any(weight.requires_grad for weight in first.parameters())


def test_denoiser_is_a_reproducible_average(vae: AutoencoderKL) -> None:
    (unet, text), (unet_again, text_again), (last, _) = (
        train_denoiser(recipe, vae) for recipe in (DENOISER, DENOISER, replace(DENOISER, ema=0.0))
    )
    assert same(unet, unet_again) and same(text, text_again) and not same(unet, last)
    assert not unet.training and not text.training


def test_denoiser_trains_on_no_held_out_caption(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    own = training._tokens

    def recording(tokenizer: Any, captions: list[str]) -> Any:
        read.extend(captions)
        return own(tokenizer, captions)

    monkeypatch.setattr(training, "_tokens", recording)
    train_denoiser(DenoiserRecipe(steps=2, batch=128, scenes=256), vae)
    assert len(read) == 256
    captions = [text for text in read if text]
    assert all(map(parse, captions)) and not any(map(is_held_out, captions))
    assert read.count("") / len(read) == pytest.approx(DENOISER.caption_dropout, abs=0.06)


def test_assembled_pipeline_samples(vae: AutoencoderKL) -> None:
    unet, text = train_denoiser(DENOISER, vae)
    assembled = networks.assemble(vae, unet, text, build_tokenizer())
    assembled.set_progress_bar_config(disable=True)
    images = assembled(["a red circle on a blue background"] * 2, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 32, 32) and images.isfinite().all()


def test_build_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(training, "AutoencoderRecipe", lambda: AUTOENCODER)
    monkeypatch.setattr(training, "CheckerRecipe", lambda: CHECKER)
    monkeypatch.setattr(training, "DenoiserRecipe", lambda: DENOISER)
    monkeypatch.setattr(packaging, "evaluate_pipeline", partial(evaluation.evaluate_pipeline, count=4, steps=2))
    monkeypatch.setattr(packaging, "evaluate_checker", partial(evaluation.evaluate_checker, count=8))
    shared = ["--out", str(tmp_path), "--threads", "1"]
    build.main([*shared, "--stages", "autoencoder", "checker"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checker.safetensors", "seconds.json", "vae"]

    for stage in ("train_autoencoder", "train_checker"):
        monkeypatch.delattr(training, stage)
    build.main([*shared, "--denoiser-steps", "2"])
    report = json.loads((tmp_path / "package" / "report.json").read_text())
    assert report["seconds"].keys() == {"autoencoder", "checker", "denoiser"}
    assert (report["denoiser"]["steps"], report["denoiser"]["batch"]) == (2, 4)
    assert 0 <= report["samples"]["all"] <= 1
    assert json.loads(capsys.readouterr().out[-len(json.dumps(report, indent=1)) - 1 :]) == report

    packaged = pipeline.load_pipeline(folder=tmp_path / "package")
    assert type(packaged) is StableDiffusionPipeline
    stored = DiffusionPipeline.from_pretrained(tmp_path / "package" / "pipeline")
    assert stored.unet.dtype == torch.float32
    size = sum(path.stat().st_size for path in (tmp_path / "package").rglob("*") if path.is_file())
    assert size < 8e6


@pytest.mark.parametrize(("name", "stage"), [("ddim", "flow"), ("flow", "autoencoder")])
def test_a_stage_of_the_other_pipeline_is_an_error(
    name: str, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build.main(["--pipeline", name, "--out", str(tmp_path / "out"), "--stages", stage])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in (name, stage, *build.STAGES[name]))
    assert not (tmp_path / "out").exists()
