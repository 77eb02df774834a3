"""`stepcredit export`: the newest weights of a run in each format, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tests.cli.command_line import refused, stepcredit, tree
from tests.families import FAMILIES
from tests.policy.adapted import attached, images, shift
from torch import Tensor

from stepcredit.config import ModelSection, TrainConfig
from stepcredit.policy.adapters import Adapter, attach
from stepcredit.runs import checkpoint
from stepcredit.runs.checkpoint import Checkpoint
from stepcredit.runs.directory import RunDirectory

LOADED: list[TrainConfig] = []
FORMATS = ("diffusers", "kohya", "merged")


@pytest.fixture(autouse=True)
def _tiny_models(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.path names one of the tiny families."""

    def load_policy(config: TrainConfig, **_: bool) -> Any:
        LOADED.append(config)
        pipeline: Any = FAMILIES[config.model.path].build(0)
        adapter = attach(pipeline, config.model, config.run.seed)
        return SimpleNamespace(pipeline=pipeline, adapter=adapter, load_state_dict=adapter.load_state_dict)

    LOADED.clear()
    monkeypatch.setattr("stepcredit.policy.loading.load_policy", load_policy)


def make_run(**model: Any) -> Tensor:
    """A run with two checkpoints; returns what the weights of the newer one draw, averaged if the run averages."""
    section = ModelSection(**{"path": "sd", **model})
    directory = RunDirectory.create("run", TrainConfig(model=section), ["stepcredit"])
    pipeline: Any = FAMILIES[section.path].build(0)
    adapter = attached(pipeline, **section.model_dump(exclude={"device", "compile"}))
    for epoch in (1, 2):
        shift(adapter, 0.05, seed=epoch)
        adapter.stepped()
        save(directory, adapter, epoch)
    with adapter.averaged():
        return images(pipeline)


def save(directory: RunDirectory, adapter: Adapter, epoch: int) -> None:
    tensors = {f"policy.{name}": value for name, value in adapter.state_dict().items()}
    checkpoint.save(directory.checkpoint_root, Checkpoint(epoch, tensors, {}), keep=2)


def loaded(form: str, folder: Path) -> Any:
    if form == "merged":
        pipeline = DiffusionPipeline.from_pretrained(folder)
    else:
        pipeline = FAMILIES["sd"].build(0)
        pipeline.load_lora_weights(next(folder.glob("*.safetensors")))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("form", FORMATS)
def test_the_newest_weights_in_every_format(form: str, ema: float | None, here: Path) -> None:
    drawn = make_run(ema=ema)
    before = tree(here)
    said = stepcredit("export", "run", "--format", form, "--out", "deep/out")
    assert (said.code, said.err) == (0, "")
    assert (images(loaded(form, here / "deep/out")) - drawn).abs().max() <= (2e-5 if form == "merged" else 0)
    assert {name: content for name, content in tree(here).items() if not name.startswith("deep")} == before


def test_what_it_says() -> None:
    make_run()
    assert stepcredit("export", "run", "--out", "lora").out == (
        "epoch_0002 of run is in lora/pytorch_lora_weights.safetensors\n"
        '  load with  pipe.load_lora_weights("lora/pytorch_lora_weights.safetensors")\n'
    )


def test_a_run_that_trained_every_weight(here: Path) -> None:
    drawn = make_run(adapter="full")
    assert stepcredit("export", "run", "--out", "unet").code == 0
    pipeline: Any = FAMILIES["sd"].build(0)
    pipeline.unet = type(pipeline.unet).from_pretrained(here / "unet")
    assert torch.equal(images(pipeline), drawn)
    assert "every weight was trained" in refused("export", "run", "--format", "kohya", "--out", "out")


def test_a_run_of_another_machine_is_exported_on_the_cpu() -> None:
    make_run(device="cuda", compile=True, gradient_checkpointing=True)
    assert stepcredit("export", "run", "--out", "lora").code == 0
    model = LOADED[0].model
    assert (model.device, model.compile, model.gradient_checkpointing) == ("cpu", False, False)


def test_an_empty_out_is_used_and_an_occupied_one_refused(here: Path) -> None:
    make_run()
    (here / "empty").mkdir()
    assert stepcredit("export", "run", "--out", "empty").code == 0
    line = "exists already and is not an empty folder; choose another --out"
    assert refused("export", "run", "--out", "empty") == f"empty {line}"
    assert refused("export", "run", "--out", "run/config.yaml") == f"run/config.yaml {line}"
    assert len(LOADED) == 1, "refused before the model is loaded"


def test_out_below_a_file() -> None:
    make_run()
    line = refused("export", "run", "--out", "run/config.yaml/below")
    assert line.startswith("cannot write to run/config.yaml/below: ") and line.endswith("; choose another --out")


def test_what_is_no_run_or_has_no_weights(here: Path) -> None:
    assert refused("export", "nowhere", "--out", "out").startswith("nowhere holds no run (no config.yaml in it)")
    RunDirectory.create("young", TrainConfig(), ["stepcredit"])
    assert refused("export", "young", "--out", "out") == "young holds no checkpoint to export"


def test_formats_are_told() -> None:
    make_run()
    assert refused("export", "run", "--format", "khoya", "--out", "out") == (
        "unknown export format 'khoya' (did you mean 'kohya'?); known: diffusers, kohya, merged"
    )
    assert LOADED == []


def test_a_family_without_the_format() -> None:
    RunDirectory.create("flux", TrainConfig(model=ModelSection(path="flux")), ["stepcredit"])
    save(RunDirectory(Path("flux")), attached(FAMILIES["flux"].build(0)), 1)
    assert refused("export", "flux", "--format", "kohya", "--out", "out") == (
        "kohya's format is for Stable Diffusion 1.x, 2.x and SDXL, not FluxPipeline; use --format diffusers or merged"
    )
