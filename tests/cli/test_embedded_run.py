"""A small run of the embedded pipeline through the command line: its files, resuming, sampling and export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tests.cli.command_line import TINY, newest_checkpoint, refused, rows, stepcredit, tree

from stepcredit.policy.loading import load_policy
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.shapes.pipeline import load_pipeline

REWARD = """
from pathlib import Path

def reward(images, prompts, metadata):
    reward.calls = getattr(reward, "calls", 0) + 1
    if Path("stop").exists() and reward.calls == int(Path("stop").read_text()):
        print("waiting for a signal", flush=True)
        while True:
            pass
    return images.mean((2, 3))[:, 0]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the run `whole`: four epochs on the reward of reward.py."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "reward.py").write_text(REWARD)
    with chdir(folder):
        result = stepcredit("train", *TINY, "train.epochs=4", "reward.name=reward.py:reward", "--run", "whole")
        assert (result.code, result.err) == (0, "")
        yield folder


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_run_directory_holds_exactly_the_documented_files(place: Path) -> None:
    files = {name.replace("\\", "/") for name in tree(place / "whole")}
    events = {name for name in files if name.startswith("tensorboard/")}
    assert len(events) == 1
    best = max(rows(place / "whole"), key=lambda row: float(row["reward_mean"]))["epoch"] - 1  # sampled the best images
    kept = {best, 3, 4}
    assert files - events == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "tensorboard",
        "samples",
        "samples/epoch_0000.png",
        "samples/epoch_0004.png",
        "checkpoints",
        *(f"checkpoints/epoch_000{epoch}" for epoch in kept),
        *(f"checkpoints/epoch_000{epoch}/state.json" for epoch in kept),
        *(f"checkpoints/epoch_000{epoch}/tensors.safetensors" for epoch in kept),
        "lora",
        "lora/pytorch_lora_weights.safetensors",
    }


def test_metrics_of_each_epoch(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["reward_queries"] for line in lines] == [4, 8, 12, 16]
    assert all(line["ratio_max_deviation"] < 1e-5 for line in lines)
    assert all(line["grad_norm"] > 0 and line["peak_memory_bytes"] > 0 for line in lines)
    assert all(len(line["credit_profile"]) == 3 for line in lines)
    assert all(np.mean(line["credit_profile"]) == pytest.approx(1) for line in lines)


def test_tensorboard_and_report_show_the_metrics(place: Path) -> None:
    events = EventAccumulator(str(place / "whole" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("reward_mean")] == [1, 2, 3, 4]
    assert "credit_profile" not in events.Tags()["scalars"]
    page = (place / "whole" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Mean reward" in page and "credit_similarity_start" in page


def test_grids_differ_only_by_training(place: Path) -> None:
    before, after = (np.asarray(Image.open(place / "whole/samples" / f"epoch_000{epoch}.png")) for epoch in (0, 4))
    assert before.shape[1:] == after.shape[1:]
    assert not np.array_equal(before, after)


def test_diffusers_loads_the_lora(place: Path) -> None:
    """The stock pipeline with the exported LoRA gives the images of the run; without it, it does not."""
    run = RunDirectory.open(place / "whole")
    policy = load_policy(run.config)
    policy.load_state_dict(checkpoint.load(checkpoint.folders(run.checkpoint_root)[-1]).part("policy"))
    stock, untrained = load_pipeline(), load_pipeline()
    stock.load_lora_weights(run.lora_dir)
    trained, exported, before = (picture(pipeline) for pipeline in (policy.pipeline, stock, untrained))
    assert np.abs(exported - trained).max() < 1e-5
    assert np.abs(exported - before).max() > 1e-2


def picture(pipeline: Any) -> np.ndarray:
    text = "a red circle on a blue background"
    generator = torch.Generator().manual_seed(0)
    images: np.ndarray = pipeline(text, num_inference_steps=3, generator=generator, output_type="np").images
    return images


def test_samples_of_run_and_model_differ(place: Path) -> None:
    for source in ("whole", "embedded"):
        result = stepcredit("sample", source, "--prompt", "a red circle on a blue background", "--out", f"of-{source}")
        assert (result.code, result.err) == (0, "")
        assert set(tree(place / f"of-{source}")) == {
            "samples.jsonl",
            "0000_a-red-circle-on-a-blue-background.png",
        }
    trained, stock = (
        np.asarray(Image.open(next((place / f"of-{name}").glob("*.png")))) for name in ("whole", "embedded")
    )
    assert trained.shape == stock.shape and not np.array_equal(trained, stock)


@pytest.mark.slow
def test_interrupted_run_resumes_exactly(place: Path) -> None:
    """A process gets SIGINT in epoch 2, and the run is then resumed to the end."""
    (place / "stop").write_text("4")
    command = [sys.executable, "-m", "stepcredit", "train", *TINY, "train.epochs=4", "reward.name=reward.py:reward"]
    code, err = interrupted([*command, "--run", "stopped run"])
    assert code == 130
    assert "stopped run/checkpoints/epoch_0001" in err
    assert "stepcredit train --resume --run 'stopped run'" in err
    assert (place / "stopped run" / "report.html").exists()
    (place / "stop").unlink()
    assert stepcredit("train", "--resume", "--run", "stopped run").code == 0
    assert rows(place / "stopped run") == rows(place / "whole")
    assert newest_checkpoint(place / "stopped run") == newest_checkpoint(place / "whole")
    weights = "lora/pytorch_lora_weights.safetensors"
    assert (place / "stopped run" / weights).read_bytes() == (place / "whole" / weights).read_bytes()


def interrupted(command: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a process that gets SIGINT when its reward prints that it waits."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        for line in running.stdout:
            if line == "waiting for a signal\n":
                running.send_signal(signal.SIGINT)
        err = running.stderr.read()
    return running.returncode, err


def test_a_resumed_run_equals_an_uninterrupted_one(place: Path) -> None:
    command = ["train", *TINY, "reward.name=reward.py:reward", "--run", "parts"]
    assert stepcredit(*command, "train.epochs=2").code == 0
    assert stepcredit(*command, "train.epochs=4", "--resume").code == 0
    assert rows(place / "parts") == rows(place / "whole")
    assert newest_checkpoint(place / "parts") == newest_checkpoint(place / "whole")


def test_full_fine_tuning_exports_the_denoiser(place: Path) -> None:
    result = stepcredit(
        "train", *TINY, "train.epochs=1", "model.adapter=full", "train.learning_rate=1e-4", "--run", "full"
    )
    assert result.code == 0
    assert "full/unet" in result.out
    assert not (place / "full" / "lora").exists()
    trained = UNet2DConditionModel.from_pretrained(place / "full" / "unet").state_dict()
    saved = load_file(sorted((place / "full" / "checkpoints").iterdir())[-1] / "tensors.safetensors")
    assert all(torch.equal(trained[name], saved[f"policy.{name}"]) for name in trained)


def test_measured_microbatch_is_recorded(place: Path) -> None:
    result = stepcredit("train", *TINY, "train.epochs=1", "train.microbatch=auto", "--run", "auto")
    assert result.code == 0
    assert RunDirectory.open(place / "auto").config.train.microbatch == 4
    assert rows(place / "auto")[0]["ratio_max_deviation"] == 0
    assert stepcredit("train", "--resume", "--run", "auto", "train.epochs=2").code == 0


# Models that cannot be trained


def test_folder_without_a_pipeline(place: Path) -> None:
    (place / "empty").mkdir()
    assert "empty" in refused("train", "model.path=empty")


def test_pipeline_without_text_input(place: Path) -> None:
    unet = UNet2DModel(
        8, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(place / "unconditional")
    for command in (["train", "model.path=unconditional"], ["sample", "unconditional", "--prompt", "a"]):
        assert "DDPMPipeline" in refused(*command)


def test_unknown_hub_id(place: Path) -> None:
    for command in (["train", "model.path=no/such"], ["sample", "no/such", "--prompt", "a"]):
        assert "'no/such'" in refused(*command)


LONG = "a red circle above a blue square on a green background next to many other things that do not exist here"


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_prompts_that_the_model_cuts_are_noted(command: str, place: Path) -> None:
    (place / "long.txt").write_text(f"a red circle\n{LONG}\n{LONG} either\n")
    arguments = {
        "train": [*TINY, "prompts.source=long.txt", "train.epochs=0", "--run", "noted"],
        "sample": ["embedded", "--prompts", "long.txt", "--steps", "2", "--out", "noted-samples"],
        "evaluate": ["embedded", "--prompts", "long.txt", "--reward", "warmth", "--images", "1", "--steps", "2"],
    }
    said = stepcredit(command, *arguments[command])
    (line,) = [line for line in (said.out + said.err).splitlines() if line.startswith("note: ")]
    assert said.code == 0
    assert LONG[:40] in line and "24 tokens" in line and (command == "train" or "2 of 3" in line)


def test_prompts_that_fit_are_not_noted(place: Path) -> None:
    said = stepcredit("sample", "embedded", "--prompt", "a red circle", "--steps", "2", "--out", "fitting")
    assert (said.code, said.err) == (0, "")


@pytest.mark.parametrize(("call", "noted"), [("height=64", True), ("width=16", True), ("guidance_rescale=0.1", False)])
def test_images_of_another_size_than_asked_for_are_noted(call: str, noted: bool) -> None:
    run = f"size-{call}"
    said = stepcredit("train", *TINY, f"sample.call.{call}", "train.epochs=0", "--run", run)
    sampled = stepcredit("sample", run, "--prompt", "a red circle", "--out", f"{run}-samples")
    assert said.code == sampled.code == 0
    assert ("note: sample.call sets" in said.out) == noted == ("note: sample.call sets" in sampled.err)


@pytest.mark.slow
def test_a_terminal_that_cannot_print_the_prompt_does_not_end_the_run(place: Path) -> None:
    (place / "unicode.txt").write_text("一只猫\nएक बिल्ली\n🐈\n", encoding="utf-8")
    command = [sys.executable, "-m", "stepcredit", "train", *TINY, "train.epochs=1", "prompts.source=unicode.txt"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    said = subprocess.run([*command, "--run", "ascii"], capture_output=True, env=environment, check=False)
    assert said.returncode == 0, said.stderr
    assert b"\\u" in said.stdout and (place / "ascii" / "lora").is_dir()
