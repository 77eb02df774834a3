"""Defaults of the model's family: for keys that are not set, from a folder, the hub's cache or a pipeline's class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tests.families import flux2_klein
from tests.tiny import tiny_sd

from stepcredit import Trainer
from stepcredit.bundled import BUNDLED
from stepcredit.comparison.comparison_file import ComparisonFile
from stepcredit.comparison.protocol import make_protocol
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.families import FAMILIES
from stepcredit.runs import recipes
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.model_defaults import KEYS, describe_settings

CLASSES = {name: family for family in FAMILIES for name in family.pipelines}


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model(kind: str, name: str = "model", **index: Any) -> str:
    """A folder with nothing but the index of a pipeline of class `kind`."""
    Path(name).mkdir(exist_ok=True)
    Path(name, "model_index.json").write_text(json.dumps({"_class_name": kind, **index}))
    return name


def loaded(path: str, *overrides: str) -> TrainConfig:
    return recipes.load(None, [f"model.path={path}", *overrides])


def values(config: TrainConfig) -> dict[str, Any]:
    return {key: getattr(getattr(config, key.partition(".")[0]), key.partition(".")[2]) for key in KEYS}


def test_stable_diffusion_3_trains_as_flow_grpo_does() -> None:
    assert values(loaded(model("StableDiffusion3Pipeline"), "model.device=cpu")) == {
        "model.dtype": "float32",
        "model.lora_rank": 32,
        "model.lora_alpha": 64,
        "sample.steps": 10,
        "sample.evaluation_steps": 40,
        "sample.guidance": 4.5,
        "sample.call": {"height": 512, "width": 512},
        "train.learning_rate": 3e-4,
        "train.clip_range": 1e-4,
        "credit.window": 1,
    }


def test_stable_diffusion_trains_as_ddpo_does() -> None:
    config = loaded(model("StableDiffusionPipeline"))
    assert (config.train.learning_rate, config.train.clip_range, config.model.lora_rank) == (1e-4, 1e-4, 4)
    assert (config.sample.steps, config.sample.guidance, config.sample.call) == (50, 5.0, {})
    assert loaded("model", "model.adapter=full").train.learning_rate == 3e-5


@pytest.mark.parametrize("kind", [*CLASSES, "SomebodysPipeline"])
def test_every_family_has_defaults_of_its_own(kind: str) -> None:
    config, toy = loaded(model(kind)), TrainConfig()
    assert config.train.learning_rate < toy.train.learning_rate / 10 and config.train.clip_range == 1e-4
    assert config.sample.steps <= (config.sample.evaluation_steps or config.sample.steps)
    assert f"learning rate {config.train.learning_rate:g}, " in describe_settings(config)
    if kind in CLASSES:
        assert config.sample.guidance == CLASSES[kind].defaults.guidance


@pytest.mark.parametrize("name", ["embedded", "embedded-flow"])
def test_bundled_models_keep_the_defaults_of_the_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("stepcredit.runs.model_defaults.read_model_index")
    assert values(loaded(name)) == values(TrainConfig())


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_train_on_the_prompts_of_their_world(name: str) -> None:
    config = loaded(name)
    assert (config.prompts.source, config.sample.steps) == (BUNDLED[name].world, BUNDLED[name].steps)
    assert loaded(name, "prompts.source=mine.txt", "sample.steps=3").prompts.source == "mine.txt"
    assert loaded(name, "prompts.source=mine.txt", "sample.steps=3").sample.steps == 3


def test_keys_that_are_set_stay() -> None:
    given = {
        "model.dtype": "float16",
        "model.lora_rank": 2,
        "model.lora_alpha": 3.0,
        "sample.steps": 7,
        "sample.evaluation_steps": None,
        "sample.guidance": 1.5,
        "sample.call": {"height": 64, "width": 32},
        "train.learning_rate": 0.5,
        "train.clip_range": 0.25,
        "credit.window": 2,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    assert values(loaded(model("FluxPipeline"), *overrides)) == given
    Path("mine.yaml").write_text("model: {path: model}\nsample: {guidance: 2}\ntrain:\n")
    assert recipes.load("mine.yaml").sample.guidance == 2
    assert recipes.load("mine.yaml").train.learning_rate == 3e-4


def test_defaults_that_follow_another_key() -> None:
    path = model("FluxPipeline")
    assert loaded(path, "model.lora_rank=8").model.lora_alpha == 16
    assert loaded(path, "sample.steps=50").credit.window == 5
    assert loaded(path, "sample.steps=3").credit.window == 1
    assert loaded(path, "sample.steps=3").sample.evaluation_steps is None
    assert loaded(path, "sample.call.max_sequence_length=9").sample.call["height"] == 512
    assert loaded(path, "sample.call.height=64").sample.call == {"height": 64}


@pytest.mark.parametrize(
    ("kind", "adapter", "dtype"), [("sd", "lora", "float16"), ("sd", "full", "bfloat16"), ("sd3", "lora", "bfloat16")]
)
def test_half_precision_on_a_gpu_only(kind: str, adapter: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model({"sd": "StableDiffusionPipeline", "sd3": "StableDiffusion3Pipeline"}[kind])
    assert loaded(path, "model.device=cpu", f"model.adapter={adapter}").model.dtype == "float32"
    monkeypatch.setattr("stepcredit.utils.devices.find_device", lambda *_: torch.device("cuda"))
    assert loaded(path, f"model.adapter={adapter}").model.dtype == dtype


@pytest.mark.parametrize(
    ("kind", "name", "index", "steps", "guidance"),
    [
        ("FluxPipeline", "FLUX.1-schnell", {}, 4, 3.5),
        ("ZImagePipeline", "Z-Image-Turbo", {}, 8, 0.0),
        ("StableDiffusionXLPipeline", "sdxl-turbo", {}, 4, 1.0),
        ("StableDiffusionXLPipeline", "sdxl-turbo/", {}, 4, 1.0),
        ("Flux2KleinPipeline", "klein", {"is_distilled": True}, 4, 1.0),
        ("Flux2KleinPipeline", "klein-base", {"is_distilled": False}, 8, 4.0),
        ("PixArtSigmaPipeline", "pixart-turbo", {}, 20, 4.5),  # no distilled checkpoint of the family is known
    ],
)
def test_distilled_models_take_few_steps(
    kind: str, name: str, index: dict[str, bool], steps: int, guidance: float
) -> None:
    config = loaded(model(kind, name, **index))
    assert (config.sample.steps, config.sample.guidance) == (steps, guidance)


@pytest.mark.parametrize(
    ("kind", "guidance"), [("AuraFlowPipeline", 3.5), ("Kandinsky3Pipeline", 3.0), ("SomebodysPipeline", 4.5)]
)
def test_other_pipelines_of_diffusers_have_their_own_guidance(kind: str, guidance: float) -> None:
    assert loaded(model(kind)).sample.guidance == guidance


def test_a_pipeline_object_has_the_defaults_of_its_class(tmp_path: Path) -> None:
    class Mine(StableDiffusionPipeline):  # type: ignore[misc]
        pass

    tiny = tiny_sd()
    for pipeline in (tiny, Mine(**tiny.components, requires_safety_checker=False)):
        config = Trainer(model=pipeline, reward="warmth", sample={"guidance": 2}).config
        assert (config.train.learning_rate, config.sample.steps, config.sample.guidance) == (1e-4, 50, 2)
    config = Trainer(model=tiny, config=TrainConfig.model_validate({"train": {"learning_rate": 1e-3}})).config
    assert (config.train.learning_rate, config.train.clip_range) == (1e-3, 1e-4)
    assert Trainer(model="embedded").config == TrainConfig()


def test_a_distilled_pipeline_object_takes_few_steps(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path / "sd-turbo")
    turbo = StableDiffusionPipeline.from_pretrained(tmp_path / "sd-turbo", safety_checker=None)
    flagged = flux2_klein.build()
    flagged.register_to_config(is_distilled=True)
    for pipeline in (turbo, flagged):
        config = Trainer(model=pipeline, reward="warmth").config
        assert (config.sample.steps, config.sample.guidance) == (4, 1.0)


def test_a_comparison_tunes_around_the_defaults_of_the_model() -> None:
    Path("mine.yaml").write_text(f"model: {{path: {model('StableDiffusion3Pipeline')}}}\n")
    file = ComparisonFile.model_validate(
        {"recipe": "mine.yaml", "arms": {"a": "uniform", "b": "linear"}, "reference": "a", "fresh_seeds": [1, 2]}
    )
    rates = {setting.learning_rate for setting in make_protocol(file, {}).grid("b")}
    assert rates == {1e-4, 3e-4, 9e-4}


def test_the_configuration_of_a_run_is_read_as_it_is() -> None:
    """A key that a run of an older version lacks has the value that this version had."""
    run = Path("run")
    run.mkdir()
    (run / "config.yaml").write_text(f"model: {{path: {model('FluxPipeline')}}}\n")
    assert values(RunDirectory(run).config) == values(TrainConfig())


def test_a_complete_configuration_needs_no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("stepcredit.runs.model_defaults.read_model_index")
    for name in recipes.packaged():
        if name.startswith("sd"):
            assert "/" in recipes.load(name).model.path


def test_a_model_that_is_nowhere_is_one_line() -> None:
    with pytest.raises(InputError) as raised:
        loaded("no-such/model")
    assert "no-such/model" in str(raised.value) and "\n" not in str(raised.value)


def test_a_mistyped_key_is_reported_before_the_model_is_looked_up() -> None:
    with pytest.raises(InputError, match="learning_rat"):
        loaded("no-such/model", "train.learning_rat=1")
