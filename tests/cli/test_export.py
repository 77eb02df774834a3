"""`stepcredit export`: the newest weights of a run in each format, and errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
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
FORMATS = ("lora", "diffusers", "peft", "kohya", "merged")


@pytest.fixture(autouse=True)
def _tiny_models(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load one of the tiny families by `model.path`."""

    def load_policy(config: TrainConfig, **_: bool) -> Any:
        LOADED.append(config)
        pipeline: Any = FAMILIES[config.model.path].build(0)
        adapter = attach(pipeline, config.model, config.run.seed)
        return SimpleNamespace(pipeline=pipeline, adapter=adapter, load_state_dict=adapter.load_state_dict)

    LOADED.clear()
    monkeypatch.setattr("stepcredit.policy.loading.load_policy", load_policy)


def make_run(**model: Any) -> Tensor:
    """Write a run with two checkpoints. Returns images of the newer one, with averaged weights if the run has them."""
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
    elif form == "peft":
        pipeline = FAMILIES["sd"].build(0)
        PeftModel.from_pretrained(pipeline.unet, folder)
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


def test_the_output_says_how_to_load_the_weights() -> None:
    make_run()
    out = stepcredit("export", "run", "--out", "lora").out
    assert "epoch_0002" in out and 'pipe.load_lora_weights("lora/pytorch_lora_weights.safetensors")' in out


def test_a_run_that_trained_every_weight(here: Path) -> None:
    drawn = make_run(adapter="full")
    assert stepcredit("export", "run", "--out", "unet").code == 0
    pipeline: Any = FAMILIES["sd"].build(0)
    pipeline.unet = type(pipeline.unet).from_pretrained(here / "unet")
    assert torch.equal(images(pipeline), drawn)
    assert "--format lora" in refused("export", "run", "--format", "kohya", "--out", "out")


def test_the_default_folder_is_named_after_the_content(here: Path) -> None:
    make_run(adapter="full")
    stepcredit("export", "run")
    assert (here / "run/export/full/config.json").is_file() and not (here / "run/export/lora").exists()


def test_weights_are_exported_on_the_cpu() -> None:
    make_run(device="cuda", compile=True, gradient_checkpointing=True)
    assert stepcredit("export", "run", "--out", "lora").code == 0
    model = LOADED[0].model
    assert (model.device, model.compile, model.gradient_checkpointing) == ("cpu", False, False)


def test_out_must_be_a_new_or_empty_folder(here: Path) -> None:
    make_run()
    (here / "empty").mkdir()
    assert stepcredit("export", "run", "--out", "empty").code == 0
    for out in ("empty", "run/config.yaml"):
        line = refused("export", "run", "--out", out)
        assert line.startswith(f"{out} exists") and "--out" in line
    assert len(LOADED) == 1, "refused before the model is loaded"


def test_out_below_a_file_is_refused() -> None:
    make_run()
    line = refused("export", "run", "--out", "run/config.yaml/below")
    assert line.startswith("cannot write to run/config.yaml/below: ") and line.endswith("; choose another --out")


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(here: Path) -> None:
    assert "config.yaml" in refused("export", "nowhere", "--out", "out")
    RunDirectory.create("young", TrainConfig(), ["stepcredit"])
    assert refused("export", "young", "--out", "out").startswith("young holds no checkpoint")


def test_an_unknown_format_is_refused() -> None:
    make_run()
    line = refused("export", "run", "--format", "khoya", "--out", "out")
    assert "'khoya' (did you mean 'kohya'?)" in line
    assert LOADED == []


def test_a_family_without_the_format_is_refused() -> None:
    RunDirectory.create("flux", TrainConfig(model=ModelSection(path="flux")), ["stepcredit"])
    save(RunDirectory(Path("flux")), attached(FAMILIES["flux"].build(0)), 1)
    assert "FluxPipeline" in refused("export", "flux", "--format", "kohya", "--out", "out")


def test_the_folder_has_a_default_and_lora_is_a_format(here: Path) -> None:
    make_run()
    said = stepcredit("export", "run", "--format", "lora")
    assert said.code == 0, said.err
    assert (here / "run" / "export" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert "name of a file" in refused("export", "run", "--out", "out.safetensors")
