"""`stepcredit doctor`: its output for models that can be trained, and errors for others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionImg2ImgPipeline, UNet2DModel
from tests.cli.command_line import refused, stepcredit
from tests.families import FAMILIES
from tests.tiny import tiny_sd

from stepcredit.maths import Transition
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.utils.logging import quiet_libraries

GB = 10**9
LONG = "a red circle above a blue square on a green background next to many other things that do not exist here"
CALL = {
    "sd": ["sample.call.height=16", "sample.call.width=16"],
    "sd3": ["sample.call.height=16", "sample.call.width=16", "sample.call.max_sequence_length=12"],
    "pixart_sigma": ["sample.call.height=16", "sample.call.width=16", "sample.call.use_resolution_binning=false"],
}
"""Overrides that keep the images of a tiny model small."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models, saved."""
    quiet_libraries()
    root = tmp_path_factory.mktemp("models")
    for name in CALL:
        FAMILIES[name].build(0).save_pretrained(root / name)
    return {name: root / name for name in CALL}


@pytest.fixture(autouse=True)
def _memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 GB are free, and the working directory is empty."""
    monkeypatch.setattr("stepcredit.policy.checks.doctor.available_memory_bytes", lambda _: 2 * GB)


def text_of(*arguments: str | Path) -> dict[str, str]:
    """The lines that the doctor prints, by their topic."""
    said = stepcredit("doctor", *arguments)
    assert (said.code, said.err) == (0, ""), said
    lines = [line.split(maxsplit=1) for line in said.out.splitlines()]
    topics = ["model", "settings", "sampler", "replay", "prompts", "trained", "memory", "suggested"]
    assert [topic for topic, _ in lines] == topics
    return {topic: text for topic, text in lines}


def json_of(*arguments: str | Path) -> dict[str, Any]:
    said = stepcredit("doctor", *arguments, "--json")
    assert (said.code, said.err) == (0, ""), said
    tree: dict[str, Any] = json.loads(said.out)
    return tree


def test_the_embedded_model_in_words() -> None:
    lines = text_of("embedded", "model.device=cpu")
    assert lines["model"] == "embedded: StableDiffusionPipeline, family sd, latents 4x8x8, float32"
    assert lines["sampler"] == "DDIM steps, epsilon prediction"
    assert "exact" in lines["replay"]
    assert lines["trained"].startswith("LoRA of rank 4: 25,088 of 2,230,916 weights")
    assert "12.3 MB" in lines["memory"] and "1.47 MB per image" in lines["memory"] and "23.5 MB" in lines["memory"]
    assert "2.0 GB free on cpu" in lines["suggested"]


def test_prompts_that_the_model_cuts_are_named(here: Path) -> None:
    assert "tokenizer reads 24 tokens" in text_of("embedded", "model.device=cpu")["prompts"]
    (here / "mine.txt").write_text(f"a red circle\n{LONG}\n")
    line = text_of("embedded", "model.device=cpu", "prompts.source=mine.txt")["prompts"]
    assert "1 of 2" in line and LONG[:40] in line and "24 tokens" in line
    found = json_of("embedded", "model.device=cpu", "prompts.source=shapes")["prompts"]
    assert found == {"source": "shapes", "count": 64, "limits": {"tokenizer": {"tokens": 24, "cut": 0}}}


def test_a_flow_model_in_a_folder(folders: dict[str, Path]) -> None:
    lines = text_of(folders["sd3"], *CALL["sd3"], "model.device=cpu", "model.lora_rank=4")
    assert lines["model"] == f"{folders['sd3']}: StableDiffusion3Pipeline, family sd3, latents 4x8x8, float32"
    assert lines["sampler"].startswith("flow-sde steps") and "FlowMatchEulerDiscreteScheduler" in lines["sampler"]
    assert "exact" in lines["replay"]
    assert lines["trained"].startswith("LoRA of rank 4: 2,304 of 26,992 weights")
    assert lines["settings"].startswith("learning rate 0.0003, clip range 0.0001, guidance 4.5, 10 steps (40 in ")
    assert "Flow-GRPO" in lines["settings"]


def test_as_json(folders: dict[str, Path]) -> None:
    tree = json_of(folders["sd"], *CALL["sd"], "model.device=cpu")
    assert {name: tree[name] for name in ("pipeline", "family", "scheduler", "replaces", "device", "latents")} == {
        "pipeline": "StableDiffusionPipeline",
        "family": "sd",
        "scheduler": "DDIM steps, epsilon prediction",
        "replaces": "DDIMScheduler",
        "device": "cpu",
        "latents": [4, 8, 8],
    }
    assert sum(tree["check"].pop("shares")) == pytest.approx(1)
    assert tree["check"] == {
        "max_deviation": 0.0,
        "undecided": False,
        "trained": [0, 1, 2, 3],
        "steps": 4,
        "samples": 2,
        "mode": "mixed-steps",
        "exact": True,
    }
    assert (tree["trained"], tree["weights"], tree["idle"]) == (4096, 68892, 0)
    assert tree["free_bytes"] == 2 * GB
    assert tree["microbatch"].bit_count() == 1
    assert 0.4 * 2 * GB < tree["microbatch"] * tree["sample_bytes"] <= 0.8 * 2 * GB


def test_overrides_are_those_of_training(folders: dict[str, Path]) -> None:
    asked = ["model.lora_rank=2", "sample.sampler=cps", "sample.steps=3", "sample.noise_level=0.4"]
    tree = json_of(folders["sd3"], *CALL["sd3"], *asked)
    assert tree["trained"] == 1152
    assert tree["scheduler"].startswith("cps steps")
    assert (tree["check"]["steps"], tree["check"]["trained"]) == (3, [0, 1])
    lines = text_of(folders["sd3"], *CALL["sd3"], *asked)
    assert lines["replay"].startswith("2 steps of 2 images") and "step 3 of 3" in lines["replay"]
    large = json_of(folders["sd3"], *CALL["sd3"][1:], "sample.call.height=32")
    assert large["latents"] == [4, 16, 8]


def test_guidance_is_the_models_usual_one(folders: dict[str, Path]) -> None:
    """5 takes two passes of the denoiser, 1 takes one."""
    usual, without = (json_of(folders["sd"], *CALL["sd"], *more) for more in ([], ["sample.guidance=1"]))
    assert usual["sample_bytes"] == pytest.approx(2 * without["sample_bytes"], rel=0.05)


def test_every_weight_in_half_precision(folders: dict[str, Path]) -> None:
    lines = text_of(folders["sd"], *CALL["sd"], "model.adapter=full", "model.dtype=bfloat16")
    assert lines["model"].endswith(", bfloat16")
    assert "64,796 of 64,796 weights" in lines["trained"]


def test_a_model_that_diffusers_has_no_lora_for(folders: dict[str, Path]) -> None:
    lines = text_of(folders["pixart_sigma"], *CALL["pixart_sigma"])
    assert ", family pixart, " in lines["model"] and "all get a gradient" in lines["trained"]
    assert "DPMSolverMultistepScheduler" in lines["sampler"]


def test_nothing_fits(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.policy.checks.doctor.available_memory_bytes", lambda _: 123_456)
    lines = text_of(folders["sd"], *CALL["sd"], "model.device=cpu")
    assert "not even one image" in lines["suggested"] and "123 kB" in lines["suggested"]


def test_a_folder_without_a_model(here: Path) -> None:
    (here / "empty").mkdir()
    assert "model_index.json" in refused("doctor", "empty")


def test_a_model_that_cannot_be_downloaded() -> None:
    line = refused("doctor", "no-such/model")
    assert "'no-such/model'" in line and "model.path=" in line


def test_a_pipeline_without_prompts(here: Path) -> None:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(here / "ddpm")
    assert "DDPMPipeline" in refused("doctor", "ddpm")


def test_a_pipeline_that_starts_from_an_image(here: Path) -> None:
    StableDiffusionImg2ImgPipeline(**tiny_sd().components, requires_safety_checker=False).save_pretrained(here / "img")
    line = refused("doctor", "img")
    assert "StableDiffusionImg2ImgPipeline" in line and "image" in line


def emptied(*names: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {name: [None, None] for name in names}))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: shutil.rmtree(folder / "vae"), "vae"),
        (emptied("text_encoder", "tokenizer"), "text_encoder and tokenizer"),
        (emptied("vae"), "vae"),
        (emptied("unet"), "unet"),
        (emptied("scheduler"), "scheduler"),
    ],
    ids=["no vae folder", "no text encoder", "no vae", "no unet", "no scheduler"],
)
def test_a_part_is_missing(
    damage: Callable[[Path], None], reason: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["sd"], tmp_path / "sd")
    damage(tmp_path / "sd")
    line = refused("doctor", tmp_path / "sd", *CALL["sd"])
    assert reason in line and len(line) < 500


def test_an_optional_part_may_be_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["sd3"], tmp_path / "sd3")
    emptied("text_encoder_3", "tokenizer_3")(tmp_path / "sd3")
    assert json_of(tmp_path / "sd3", *CALL["sd3"])["check"]["exact"]


def test_lora_targets_that_match_nothing(folders: dict[str, Path]) -> None:
    line = refused("doctor", folders["sd3"], *CALL["sd3"], "model.lora_targets=[to_queries]")
    assert "['to_queries']" in line and "to_q" in re.findall(r"\w+", line)


def test_a_pipeline_that_does_not_replay(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    own = PipelinePolicy.replay

    def drifting(self: PipelinePolicy, trajectory: Any, step: int, rows: Any = None) -> Transition:
        transition = own(self, trajectory, step, rows)
        return Transition(
            transition.mean + (torch.as_tensor(step) == 2).view(-1, 1, 1, 1),
            transition.std,
            transition.x0,
            transition.output,
        )

    monkeypatch.setattr(PipelinePolicy, "replay", drifting)
    line = refused("doctor", folders["sd"], *CALL["sd"])
    assert "step 3 of 4" in line


def test_an_argument_that_the_pipeline_does_not_take(folders: dict[str, Path]) -> None:
    line = refused("doctor", folders["sd"], "sample.call.hieght=16")
    assert "'hieght' (did you mean 'height'" in line


def test_a_bad_override() -> None:
    assert refused("doctor", "embedded", "height").startswith("'height' is not an override")


def test_a_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "'cuda'" in refused("doctor", "embedded", "model.device=cuda")
