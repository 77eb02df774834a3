"""Write a trained pipeline as float16, load it again, evaluate it, and write a report of how it was made."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from stepcredit.bundled import BUNDLED
from stepcredit.shapes.build.composition_evaluation import evaluate_composition, evaluate_composition_autoencoder
from stepcredit.shapes.build.evaluation import evaluate_autoencoder, evaluate_checker, evaluate_pipeline
from stepcredit.shapes.pipeline import CALL, DDIM, FLOW, load_checker, load_pipeline


def package_ddim(pipeline: DiffusionPipeline, checker: Path, target: Path, settings: Mapping[str, Any]) -> None:
    """Write the DDIM pipeline, the checker and report.json to `target`."""
    _save_float16(pipeline, target / BUNDLED[DDIM].folder)
    save_file({name: value.half() for name, value in load_file(checker).items()}, target / "checker.safetensors")
    packaged, loaded_checker = load_pipeline(DDIM, target), load_checker(target)
    results = {
        "checker_on_renders": evaluate_checker(loaded_checker),
        "autoencoder_psnr": evaluate_autoencoder(packaged.vae),
        "samples": evaluate_pipeline(packaged, loaded_checker, eta=1.0, **CALL[DDIM]),
    }
    _report(target / "report.json", settings, results)


def package_flow(pipeline: DiffusionPipeline, target: Path, settings: Mapping[str, Any]) -> None:
    """Write the flow pipeline and flow_report.json to `target`, evaluated with the bundled checker."""
    _save_float16(pipeline, target / BUNDLED[FLOW].folder)
    samples = evaluate_pipeline(load_pipeline(FLOW, target), load_checker(), **CALL[FLOW])
    _report(target / "flow_report.json", settings, {"samples": samples})


def package_composition(name: str, pipeline: DiffusionPipeline, target: Path, settings: Mapping[str, Any]) -> None:
    """Write a pipeline of the composition world to `target`, with a report in its folder."""
    folder = target / BUNDLED[name].folder
    _save_float16(pipeline, folder)
    packaged = load_pipeline(name, target)
    results = {
        "autoencoder": evaluate_composition_autoencoder(packaged.vae),
        "samples": evaluate_composition(packaged, BUNDLED[name]),
    }
    _report(folder / "report.json", settings, results)


def _save_float16(pipeline: DiffusionPipeline, folder: Path) -> None:
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.half()
    pipeline.save_pretrained(folder)
    for path in folder.rglob("*config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # a path of the machine it was built on
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _report(path: Path, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    machine = {"processor": platform.machine(), "torch": torch.__version__}
    text = json.dumps({**settings, "machine": machine, **results}, indent=1)
    path.write_text(text + "\n")
    print(text)
