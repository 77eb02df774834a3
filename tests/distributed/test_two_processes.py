"""Training with two processes on one CPU, compared with one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.launched import ROOT, RUN, accelerate, all_finished, finished, launcher, machines, rows, run
from tests.families import FAMILIES

from stepcredit.runs.checkpoint import Checkpoint, folders, load

PATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
TOLERANCE = 2e-6
"""Relative difference of gradients that are summed in another order, in float32."""
FIGURES = ("reward_mean", "reward_std", "loss", "grad_norm", "approx_kl", "credit_similarity_start")


@pytest.mark.parametrize(
    "overrides",
    [
        # A prompt has its own statistics from epoch 2 on.
        pytest.param(["train.advantage=running", "train.min_count=4"], marks=pytest.mark.slow),
        # Its prompts have tags.
        pytest.param(["train.advantage=group", "prompts.source=composition"], marks=pytest.mark.slow),
        pytest.param(["train.algorithm=matching", "train.options.replay_epochs=1"], marks=pytest.mark.slow),
        pytest.param(
            ["train.advantage=batch", "model.adapter=full", "train.learning_rate=1e-4", "train.kl_weight=0.01"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda overrides: overrides[0],
)
def test_two_processes_train_as_one(overrides: list[str], tmp_path: Path) -> None:
    """Images are equal bit for bit. Gradients are summed in another order, and Adam amplifies the difference."""
    for name, start, processes in (("a", [sys.executable, "-m"], 1), ("b", [*launcher(2), "--"], 2)):
        (tmp_path / f"gradient_{name}").mkdir()
        words = ["train", "embedded_jpeg", *RUN, *overrides, f"run.processes={processes}", "--run", name]
        said = finished(
            [*start, "tests.distributed.first_gradient", f"gradient_{name}", *words], tmp_path, PYTHONPATH=PATH
        )
        assert said.returncode == 0, said.stderr
        assert said.stdout.count("self-check:") == 1
    assert_same_gradients(tmp_path)
    assert_same_curve(tmp_path / "a", tmp_path / "b")
    assert ("reward_by_tag" in rows(tmp_path / "b")[0]) == ("prompts.source=composition" in overrides)
    if "train.advantage=running" in overrides:
        assert_same_statistics(tmp_path)


def newest(folder: Path) -> Checkpoint:
    return load(folders(folder / "checkpoints")[-1])


def assert_same_curve(whole: Path, path: Path) -> None:
    """The images of the first epoch are equal; the rest differs by rounding."""
    one, two = rows(whole), rows(path)
    assert two[0]["reward_mean"] == one[0]["reward_mean"] and two[0]["reward_std"] == one[0]["reward_std"]
    assert two[0].get("reward_by_tag") == one[0].get("reward_by_tag")
    for first, second in zip(one, two, strict=True):
        assert second.get("ratio_max_deviation", 0) == 0
        assert second["reward_queries"] == first["reward_queries"]
        assert ("approx_kl" in first) == ("ratio_max_deviation" in first)  # of ppo alone
        figures = [name for name in FIGURES if name in first]
        assert [second[name] for name in figures] == pytest.approx([first[name] for name in figures], rel=1e-3)
    ours, theirs = (newest(folder).part("policy") for folder in (whole, path))
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) < 1e-2 * float(value.abs().max())


def assert_same_gradients(folder: Path) -> None:
    """Compare the gradients of the first update, of all weights as one vector."""
    files = [folder / name for name in ("gradient_a/0", "gradient_b/0", "gradient_b/1")]
    gradients = [load_file(file.with_suffix(".safetensors")) for file in files]
    one, first, second = (torch.cat([value.flatten() for value in found.values()]) for found in gradients)
    assert torch.equal(first, second)
    assert float((first - one).norm()) < TOLERANCE * float(one.norm()) > 0


def assert_same_statistics(folder: Path) -> None:
    """The running statistics of a prompt hold its rewards from all processes; those of epoch 1 are equal."""
    one, two = (newest(folder / name).state["reward_statistics"] for name in "ab")
    assert len(one) == 2 and one.keys() == two.keys()
    for prompt, rewards in one.items():
        assert len(rewards) == 6 and rewards[:3] == two[prompt][:3]
        assert rewards == pytest.approx(two[prompt], rel=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process after two epochs, in `two`, and after one, in `one`."""
    folder = tmp_path_factory.mktemp("alone")
    for name, epochs in (("one", 1), ("two", 2)):
        said = run(folder, "train", "embedded_jpeg", *RUN, f"train.epochs={epochs}", "--run", name, processes=1)
        assert said.returncode == 0, said.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("start", [launcher, accelerate], ids=["torchrun", "accelerate launch"])
def test_a_run_of_one_process_is_resumed_with_two(
    start: Callable[[int], list[str]], alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(alone / "one", tmp_path / "a")
    dashes = ["--"] if start is launcher else []
    words = ["train", "--resume", "--run", "a", "train.epochs=2", "run.processes=2"]
    said = finished([*start(2), *dashes, "stepcredit", *words], tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("resuming after epoch 1") == 1
    assert_same_curve(alone / "two", tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["torchrun", "accelerate launch"])
def test_two_machines_train_as_one_process(by: str, alone: Path, tmp_path: Path) -> None:
    words = ["stepcredit", "train", "embedded_jpeg", *RUN, "run.processes=2", "--run", "a"]
    said = all_finished([[*start, *words] for start in machines(by)], tmp_path)
    assert [code for code, _ in said] == [0, 0], said
    assert sum(text.count("self-check:") for _, text in said) == 1
    assert_same_curve(alone / "two", tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "then", "weights"),
    [
        ("lora", "true", "lora/pytorch_lora_weights.safetensors"),
        ("full", "true", "unet/diffusion_pytorch_model.safetensors"),
        ("full", "false", "unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_sharded_weights_are_trained_as_unsharded_ones(adapter: str, then: str, weights: str, tmp_path: Path) -> None:
    """With EMA and a KL, which swap weights. The run is resumed after one epoch, sharded or unsharded."""
    words = [*RUN, f"model.adapter={adapter}", "model.ema=0.5", "train.kl_weight=0.01", "train.learning_rate=1e-3"]
    assert run(tmp_path, "train", "embedded_jpeg", *words, "--run", "a", processes=1).returncode == 0
    shared = [*words, "model.shard=true"]
    said = run(tmp_path, "train", "embedded_jpeg", *shared, "train.epochs=1", "--run", "b", processes=2)
    assert said.returncode == 0, said.stderr
    said = run(tmp_path, "train", "--resume", "--run", "b", "train.epochs=2", f"model.shard={then}", processes=2)
    assert said.returncode == 0, said.stderr
    one, two = rows(tmp_path / "a"), rows(tmp_path / "b")
    for first, second in zip(one, two, strict=True):
        assert second.get("ratio_max_deviation", 0) == 0
        names = [*FIGURES, "reference_kl"]
        assert [second[name] for name in names] == pytest.approx([first[name] for name in names], rel=1e-3, abs=1e-9)
    ours, theirs = (load_file(tmp_path / name / weights) for name in "ab")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) < 1e-2 * float(value.abs().max()) + 1e-6


@pytest.mark.slow
def test_processes_exit_without_an_abort(tmp_path: Path) -> None:
    """Without the pause in `destroy_process_group`, a gloo thread aborts about one pair in four."""
    for pair in range(10):
        words = [
            [sys.executable, "-m", "tests.distributed.separated", str(rank), str(tmp_path / f"{pair}")]
            for rank in range(2)
        ]
        ended = all_finished(words, ROOT)
        assert [code for code, _ in ended] == [0, 0], (pair, ended)


@pytest.mark.slow
@pytest.mark.parametrize("names", [tuple(FAMILIES)])
def test_families_replay_exactly_with_sharded_weights(names: tuple[str, ...]) -> None:
    """With FSDP2 on two processes, trajectories, replays and the sum of the gradients are those of one process."""
    words = [*launcher(2), "tests.families.sharded", *names]
    said = subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert {key.split()[0] for key in found} == set(names)
    for key, figures in found.items():
        assert (figures["deviation"], figures["latents"]) == (0, 0), key
        assert figures["gradient"] < 1e-5, key


@pytest.mark.slow
def test_an_input_error_is_printed_once(tmp_path: Path) -> None:
    said = run(tmp_path, "train", "embedded_jpeg", "run.processes=3", "--run", "d", processes=2)
    assert said.returncode == 1, "what torchrun makes of a worker's 2"
    assert said.stderr.count("run.processes is 3, but the launcher has started 2") == 1
    assert not (tmp_path / "d").exists()
