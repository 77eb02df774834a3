"""Every documented family through the command line, from a folder on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, HiDreamImagePipeline, PixArtSigmaPipeline
from numpy.typing import NDArray
from peft import PeftModel
from PIL import Image
from tests.cli.command_line import rows, stepcredit
from tests.families import FAMILIES, hidream, qwen_image_21
from tests.families.proof import configuration

from stepcredit.evaluation.source import open_source
from stepcredit.policy.loading import load_pipeline, make_policy
from stepcredit.types import Plan, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds

SMALL = [
    "model.device=cpu",
    "sample.steps=3",
    "sample.prompts_per_epoch=1",
    "sample.images_per_prompt=2",
    "train.epochs=1",
    "train.updates_per_epoch=1",
    "reward.name=warmth",
    "run.grid_images=1",
    "run.trackers=[]",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_and_sampled_from_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    family = FAMILIES[name]
    family.build(0).save_pretrained("model")
    words = [f"sample.call={json.dumps(family.call)}", f"sample.guidance={family.guidance}"]
    said = stepcredit("train", "model.path=model", *SMALL, *words, "--run", "run")
    assert said.code == 0, said.err
    assert "self-check: " in said.out and rows(Path("run"))[0]["ratio_max_deviation"] == 0
    said = stepcredit("sample", "run", "--prompt", "a cat", "--out", "images")
    assert said.code == 0, said.err
    assert len(list(Path("images").glob("*.png"))) == 1


def test_a_lora_that_diffusers_cannot_load_is_kept_for_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, resumed, sampled, evaluated and exported from a folder; stock diffusers and peft draw the same image."""
    monkeypatch.chdir(tmp_path)
    family = FAMILIES["pixart_sigma"]
    family.build(0).save_pretrained("model")
    words = [*SMALL, f"sample.call={json.dumps(family.call)}", "model.ema=0.5", "train.learning_rate=0.3"]
    words += ["sample.evaluation_noise=false"]
    for command in (
        ["train", "model.path=model", *words, "--run", "run"],
        ["train", "--resume", "--run", "run", "train.epochs=2"],
        ["sample", "run", "--prompt", "a cat", "--out", "images", "--guidance", "4.5"],
        ["evaluate", "run", "--images", "1"],
        ["export", "run"],
        ["train", "--from", "run", "--run", "next"],
        ["doctor", "model", f"sample.call={json.dumps(family.call)}"],
    ):
        said = stepcredit(*command)
        assert said.code == 0, said.err
    (file,) = Path("images").glob("*.png")
    sampled = np.asarray(Image.open(file)).astype(int)
    for folder in ("run/lora", "run/export/lora"):
        pipeline: Any = PixArtSigmaPipeline.from_pretrained("model")
        assert abs(drawn(pipeline) - sampled).max() > 10
        PeftModel.from_pretrained(pipeline.transformer, folder)
        assert abs(drawn(pipeline) - sampled).max() <= 1  # a rounded pixel


def drawn(pipeline: Any) -> NDArray[np.int_]:
    """The image of `sample RUN --prompt "a cat"` by the stock pipeline, with the first-order solver of rollouts."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, solver_order=1)
    seed = sample_seeds(0, Stream.EVALUATION, 0, 1)[0]
    images: NDArray[np.float32] = pipeline(
        prompt=["a cat"],
        num_inference_steps=3,
        guidance_scale=4.5,
        generator=[torch.Generator().manual_seed(seed)],
        output_type="np",
        **FAMILIES["pixart_sigma"].call,
    ).images
    return (images[0] * 255).round().astype(int)


def test_an_exception_of_the_pipeline_is_one_line_and_its_traceback_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    FAMILIES["sd"].build(0).save_pretrained("model")

    def fail(*_: Any, **__: Any) -> None:
        raise LookupError("no such position")

    monkeypatch.setattr(AutoencoderKL, "decode", fail)
    for command in (
        ["train", "model.path=model", *SMALL, "--run", "run"],
        ["sample", "model", "--prompt", "a cat", "--out", "images"],
        ["evaluate", "model", "--reward", "warmth", "--prompts", "shapes", "--images", "1"],
        ["doctor", "model"],
    ):
        said = stepcredit(*command)
        assert said.code == 2
        line = said.err.splitlines()[-1]  # after a note about long prompts
        assert Path("stepcredit.log").read_text().count("Traceback") == 1
        Path("stepcredit.log").unlink()
        assert "StableDiffusionPipeline failed in its own __call__: LookupError: no such position" in line
        assert line.endswith(" (traceback: stepcredit.log)")


def test_hidream_is_sampled_but_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hidream.build(0).save_pretrained("model")
    for command in (["train", *SMALL, "model.path=model", "--run", "run"], ["doctor", "model", "sample.steps=3"]):
        said = stepcredit(*command, f"sample.call={json.dumps(hidream.CALL)}")
        assert said.code == 2 and "HiDreamImageFeedForwardSwiGLU computes without gradients" in said.err
    assert not Path("run").exists()
    config = configuration("hidream-without-experts", model={"path": "model"})
    policy = make_policy(load_pipeline(config.model), config, trained=False)
    ours = policy.rollout([Prompt("a cat"), Prompt("two dogs")], [0, 1], Plan(3, range(0))).images
    stock: Any = HiDreamImagePipeline.from_pretrained("model")
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    theirs = stock(
        ["a cat", "two dogs"], num_inference_steps=3, generator=generators, output_type="pt", **hidream.CALL
    ).images
    assert (ours - theirs).abs().max() < 1e-5


def test_a_model_with_noise_levels_of_its_own_is_sampled_in_as_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    qwen_image_21.build(0, sample_sigmas=[1.0, 0.7, 0.2]).save_pretrained("model")
    call = f"sample.call={json.dumps(qwen_image_21.CALL)}"
    said = stepcredit("train", "model.path=model", *SMALL, call, "sample.steps=8", "--run", "run")
    assert said.code == 2 and said.err.endswith(
        "noise levels of its own for 3 steps (sample_sigmas): set sample.steps=3\n"
    )
    said = stepcredit("train", "model.path=model", *SMALL, call, "--run", "run")
    assert said.code == 0, said.err
    assert open_source("model", "to sample from").load()[1].sample.steps == 3


def test_a_model_without_a_lora_loader_can_be_sampled(tmp_path: Path) -> None:
    FAMILIES["pixart_sigma"].build(0).save_pretrained(tmp_path / "model")
    policy, _ = open_source(str(tmp_path / "model"), "to sample from").load()
    assert policy.parameters() == [] and policy.state_dict() == {}
