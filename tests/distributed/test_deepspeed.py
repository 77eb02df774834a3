"""Steps by DeepSpeed: what is refused, and that they are those of the optimizer alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.launched import ROOT, RUN, command, finished, free_port, rows
from tests.distributed.launched import run as run_plainly
from tests.distributed.test_two_processes import FIGURES
from tests.toy_policy import ToyPolicy, toy_config
from tests.training.test_trainer import start
from torch import nn

from stepcredit.distributed.deepspeed import fitted, handed, stage_three_as_shards
from stepcredit.distributed.process_group import DEEPSPEED, ProcessGroup, init_process_group
from stepcredit.errors import InputError
from stepcredit.runs.progress import Progress
from stepcredit.training.checkpointing import Checkpointer
from stepcredit.training.state import build_training_optimizer

# An extra that few want: it is built from source, and on a CPU compiles a part of itself in minutes. What these slow
# tests need of it has no stand-in; CONTRIBUTING.md has the command that installs it and runs them.
installed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed, an optional extra, is not installed")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"optimizer": {"type": "AdamW"}}, "has its own optimizer: leave it out"),
        ({"scheduler": {"type": "WarmupLR"}}, "has its own scheduler: leave it out"),
        ({"bf16": {"enabled": True}}, r"enables 'bf16': .*it is model\.dtype"),
        ({"fp16": {"enabled": True}}, "enables 'fp16'"),
        ({"gradient_clipping": 0.5}, r"gradient_clipping 0\.5, but train\.max_grad_norm is 2\.0"),
    ],
)
def test_what_the_run_says_otherwise_is_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        fitted(config, 2.0)


@pytest.mark.parametrize("asked", [{}, {"gradient_clipping": "auto", "train_micro_batch_size_per_gpu": "auto"}])
def test_what_is_left_open_is_filled_in(asked: dict[str, Any]) -> None:
    config = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}, "fp16": {"enabled": False}, **asked}
    fitted(config, 2.0)
    assert config["gradient_clipping"] == 2.0 and config["train_micro_batch_size_per_gpu"] == 1


def test_numbers_that_are_given_stay() -> None:
    config = {"gradient_clipping": 2.0, "train_micro_batch_size_per_gpu": 4}
    fitted(config, 2.0)
    assert config == {"gradient_clipping": 2.0, "train_micro_batch_size_per_gpu": 4}


def test_a_batch_size_that_is_given_is_left_to_deepspeed_to_divide() -> None:
    config = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": "auto"}
    fitted(config, 2.0)
    assert config == {"train_batch_size": 8, "gradient_clipping": 2.0}


def test_gradients_are_handed_over_as_they_are() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))]
    gradients = [torch.tensor([0.5, -4.0]), torch.tensor(7.0)]
    loss = handed(gradients, weights) * 3
    assert float(loss.detach()) == 0
    loss.backward()
    for weight, gradient in zip(weights, gradients, strict=True):
        assert weight.grad is not None and weight.grad.equal(3 * gradient)


def launcher_asks(monkeypatch: pytest.MonkeyPatch, processes: int = 2, **variables: str) -> None:
    """The environment of a process that `accelerate launch` starts for DeepSpeed."""
    names = {"USE_DEEPSPEED": "true", **{f"DEEPSPEED_{name}": value for name, value in variables.items()}}
    for name, value in names.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.parametrize(("processes", "shard"), [(2, True), (1, False)])
def test_stage_three_is_done_by_fsdp2(processes: int, shard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_asks(monkeypatch, processes, ZERO_STAGE="3")
    config = toy_config()
    assert stage_three_as_shards(config).model.shard is shard
    assert DEEPSPEED not in os.environ, "for this process, so that accelerate joins the others without it"
    assert stage_three_as_shards(config) is config


@pytest.mark.parametrize("stage", ["0", "1", "2"])
def test_other_stages_are_left_to_deepspeed(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_asks(monkeypatch, ZERO_STAGE=stage)
    config = toy_config()
    assert stage_three_as_shards(config) is config and os.environ[DEEPSPEED] == "true"


def test_stage_three_of_a_file_is_held_to_what_every_stage_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    launcher_asks(monkeypatch, CONFIG_FILE=str(path))
    zero = {"stage": 3, "stage3_param_persistence_threshold": "auto"}
    path.write_text(json.dumps({"zero_optimization": zero, "optimizer": {"type": "AdamW"}}))
    with pytest.raises(InputError, match="has its own optimizer: leave it out"):
        stage_three_as_shards(toy_config())
    path.write_text(json.dumps({"zero_optimization": zero}))
    assert stage_three_as_shards(toy_config()).model.shard


@pytest.mark.parametrize("what", ["PARAM", "OPTIMIZER"])
def test_stage_three_with_parts_off_the_device_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_asks(monkeypatch, ZERO_STAGE="3", **{f"OFFLOAD_{what}_DEVICE": "cpu"})
    with pytest.raises(InputError, match=rf"has offload_{what.lower()} to 'cpu' at ZeRO stage 3, .*set it to 'none'"):
        stage_three_as_shards(toy_config())


@pytest.mark.parametrize("nowhere", [None, {}, {"device": None}, {"device": "none"}])
def test_parts_that_a_file_sends_nowhere_stay(
    nowhere: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "deepspeed.json"
    launcher_asks(monkeypatch, CONFIG_FILE=str(path))
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_param": nowhere}}))
    assert stage_three_as_shards(toy_config()).model.shard


def test_a_configuration_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher_asks(monkeypatch, CONFIG_FILE=str(tmp_path / "missing.json"))
    with pytest.raises(InputError, match="the DeepSpeed configuration cannot be used: "):
        stage_three_as_shards(toy_config())


def test_a_run_at_stage_three_is_that_of_shared_out_weights(tmp_path: Path) -> None:
    """Started as accelerate starts it, without its launcher, which asks for deepspeed itself."""
    words = [*RUN, "train.epochs=1", "run.grid_every=10"]
    for name, variables, override in (
        ("a", {DEEPSPEED: "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, []),
        ("b", {}, ["model.shard=true"]),
    ):
        said = finished(
            command("train", "embedded_jpeg", *words, *override, "--run", name, processes=2), tmp_path, **variables
        )
        assert said.returncode == 0, said.stderr
        assert "weights in parts on 2 processes by FSDP2" in said.stdout
    assert "shard: true" in (tmp_path / "a" / "config.yaml").read_text()
    (one,), (two,) = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert [one[name] for name in FIGURES] == [two[name] for name in FIGURES]
    ours, theirs = (load_file(tmp_path / name / "lora" / "pytorch_lora_weights.safetensors") for name in "ab")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


class WithDeepSpeed(ProcessGroup):
    deepspeed = True

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size


def test_half_precision_is_refused() -> None:
    config = toy_config(model={"dtype": "float16"})
    with pytest.raises(InputError, match=r"model\.dtype=float16 cannot be trained with DeepSpeed"):
        build_training_optimizer(config, ToyPolicy(), WithDeepSpeed(2))


def test_shared_weights_no_launcher_and_no_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(
        InputError, match=r"model\.shard and DeepSpeed's stages 0 to 2 exclude each other: .* or set model\.shard=false"
    ):
        init_process_group(None, cpu=True, sharded=True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match="but the command was not started by accelerate"):
        init_process_group(None, cpu=True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("stepcredit.distributed.process_group.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs deepspeed: pip install 'stepcredit\[deepspeed\]'"):
        init_process_group(None, cpu=True)


@pytest.mark.parametrize(("processes", "kept"), [(ProcessGroup(), 1), (WithDeepSpeed(2), 0), (WithDeepSpeed(1), 1)])
def test_no_process_keeps_alone_what_it_takes_all_to_know(processes: ProcessGroup, kept: int, tmp_path: Path) -> None:
    trainer = start(tmp_path / "run", toy_config())
    with (
        pytest.raises(KeyboardInterrupt),
        Checkpointer(trainer.run, trainer.state, Progress(), processes).save_on_exit(),
    ):
        raise KeyboardInterrupt
    assert len(list(trainer.run.checkpoint_root.glob("epoch_*"))) == kept


def launched(stage: int, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Two processes by `accelerate launch`."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--use_deepspeed", f"--zero_stage={stage}"),
        *("--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
        *(f"--main_process_port={free_port()}", "-m", *words),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_steps_are_those_of_one_optimizer_with_all_gradients(stage: int) -> None:
    """With another number of forwards in each process, and updates that one of the two spoils."""
    said = launched(stage, ROOT, "tests.distributed.deepspeed_steps")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout.splitlines()[-1])
    assert [step["made"] for step in found.values()] == [[True] * 2, [False] * 2, [False] * 2, [True] * 2, [True] * 2]
    for name, step in found.items():
        assert step["told"][0] == step["told"][1], name
        assert step["difference"] < 1e-5, name


@pytest.fixture(scope="module", params=["lora", "full"])
def unpartitioned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A configuration, with averages, and its run in one process without DeepSpeed."""
    words = [*RUN, f"model.adapter={request.param}", "model.ema=0.5", "train.learning_rate=1e-3"]
    folder = tmp_path_factory.mktemp(f"alone_{request.param}")
    said = run_plainly(folder, "train", "embedded_jpeg", *words, "--run", "a", processes=1)
    assert said.returncode == 0, said.stderr
    return words, folder / "a"


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 2), (1, None), (None, 0), (3, None), (None, 3)], ids=str)
def test_two_processes_with_deepspeed_trajectory_the_curve_of_one(
    alone: tuple[list[str], Path], first: int | None, then: int | None, tmp_path: Path
) -> None:
    """ResumableError after an epoch and gone on with: by DeepSpeed with these stages, or by one process without."""
    words, expected = alone
    whole = [] if first != 3 else ["model.shard=false"]
    for stage, asked in (
        (first, ["train", "embedded_jpeg", *words, "train.epochs=1", "--run", "b"]),
        (then, ["train", "--resume", "--run", "b", "train.epochs=2", *whole]),
    ):
        if stage is None:
            said = run_plainly(tmp_path, *asked, processes=1)
        else:
            said = launched(stage, tmp_path, "stepcredit", *asked)
        assert said.returncode == 0, said.stderr
    for one, two in zip(rows(expected), rows(tmp_path / "b"), strict=True):
        assert two["ratio_max_deviation"] == 0 and two["skipped_updates"] == 0
        assert [two[name] for name in FIGURES] == pytest.approx([one[name] for name in FIGURES], rel=1e-3)
    (name,) = (path.relative_to(expected) for path in expected.glob("[lu]*/*.safetensors"))
    ours, theirs = load_file(expected / name), load_file(tmp_path / "b" / name)
    for key, value in ours.items():
        assert float((value - theirs[key]).abs().max()) < 1e-2 * float(value.abs().max()) + 1e-6
