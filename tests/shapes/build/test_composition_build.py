"""A few steps of each build of the composition world."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from stepcredit.bundled import BUNDLED
from stepcredit.shapes import pipeline
from stepcredit.shapes.build import build, composition_build, composition_evaluation, packaging
from stepcredit.shapes.composition.claims import TASKS
from stepcredit.shapes.pipeline import COMPOSITION


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Builds a pipeline in a few steps from what was installed in `tmp_path`; returns the folder of the package."""
    module: Any = composition_build
    monkeypatch.setattr(module, "PAIRS", 12)
    monkeypatch.setattr(module, "AUTOENCODER_RECIPE", replace(module.AUTOENCODER_RECIPE, steps=2, batch=4))
    monkeypatch.setattr(module, "DENOISER_RECIPE", replace(module.DENOISER_RECIPE, batch=4, scenes=12))
    installed = tmp_path / "installed"
    own = pipeline.load_pipeline

    def load(name: str = pipeline.DDIM) -> DiffusionPipeline:
        return own(name, pipeline.WEIGHTS if BUNDLED[name].world == "shapes" else installed)

    monkeypatch.setattr(module, "load_pipeline", load)
    monkeypatch.setattr(build, "WEIGHTS", installed)
    few = partial(composition_evaluation.evaluate_composition, per_task=1, steps=2)
    monkeypatch.setattr(packaging, "evaluate_composition", few)
    monkeypatch.setattr(
        packaging,
        "evaluate_composition_autoencoder",
        partial(composition_evaluation.evaluate_composition_autoencoder, per_task=2),
    )

    def make(name: str) -> Path:
        out = tmp_path / name
        arguments = ["--pipeline", name, "--out", str(out), "--threads", "1", "--denoiser-steps", "2", "--install"]
        build.main(arguments)
        return out

    return make


def test_the_build_makes_a_package(short: Callable[..., Path], tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    short("composition")
    folder = installed / BUNDLED[COMPOSITION].folder
    report = json.loads((folder / "report.json").read_text())
    assert report["samples"]["training"].keys() == {"all", *TASKS} and "psnr" in report["autoencoder"]
    assert report["seconds"].keys() == set(composition_build.STAGES["composition"]) - {"package"}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 8e6
    loaded = pipeline.load_pipeline(COMPOSITION, installed)
    call = dict(pipeline.CALL[COMPOSITION])
    images = loaded(["four crosses"], num_inference_steps=2, output_type="pt", **call).images
    assert images.shape == (1, 3, 32, 32) and images.isfinite().all()


def test_a_finished_build_is_not_repeated(short: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    out = short("composition")
    monkeypatch.delattr(composition_build.training, "train_autoencoder")
    monkeypatch.delattr(composition_build.training, "train_denoiser")
    assert short("composition") == out
