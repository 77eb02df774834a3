"""DeepSpeed: which configurations are refused, and that its steps equal those of one optimizer."""

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

from stepcredit.distributed.deepspeed import complete_config, stage_three_as_fsdp, zero_with_gradients
from stepcredit.distributed.process_group import DEEPSPEED, ProcessGroup
from stepcredit.errors import InputError
from stepcredit.runs.progress import Progress
from stepcredit.training.checkpointing import Checkpointer
from stepcredit.training.state import build_training_optimizer

# deepspeed is built from source and compiles for minutes on a CPU. CONTRIBUTING.md has the command that installs it and
# runs these slow tests.
installed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="the optional extra deepspeed is not installed")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"optimizer": {"type": "AdamW"}}, "optimizer.*train.learning_rate"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler"),
        ({"bf16": {"enabled": True}}, r"'bf16'.*model\.dtype"),
        ({"fp16": {"enabled": True}}, "'fp16'"),
        ({"gradient_clipping": 0.5}, r"gradient_clipping 0\.5, but train\.max_grad_norm is 2\.0"),
    ],
)
def test_a_configuration_that_contradicts_the_run_is_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        complete_config(config, 2.0)


@pytest.mark.parametrize("asked", [{}, {"gradient_clipping": "auto", "train_micro_batch_size_per_gpu": "auto"}])
def test_auto_values_are_filled_in(asked: dict[str, Any]) -> None:
    config = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}, "fp16": {"enabled": False}, **asked}
    complete_config(config, 2.0)
    assert config["gradient_clipping"] == 2.0 and config["train_micro_batch_size_per_gpu"] == 1


def test_given_values_are_kept() -> None:
    config = {"gradient_clipping": 2.0, "train_micro_batch_size_per_gpu": 4}
    complete_config(config, 2.0)
    assert config == {"gradient_clipping": 2.0, "train_micro_batch_size_per_gpu": 4}


def test_a_given_batch_size_is_divided_by_deepspeed() -> None:
    config = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": "auto"}
    complete_config(config, 2.0)
    assert config == {"train_batch_size": 8, "gradient_clipping": 2.0}


def test_the_gradients_of_zero_with_gradients_are_the_given_ones() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))]
    gradients = [torch.tensor([0.5, -4.0]), torch.tensor(7.0)]
    loss = zero_with_gradients(gradients, weights) * 3
    assert float(loss.detach()) == 0
    loss.backward()
    for weight, gradient in zip(weights, gradients, strict=True):
        assert weight.grad is not None and weight.grad.equal(3 * gradient)


def launcher_asks(monkeypatch: pytest.MonkeyPatch, processes: int = 2, **variables: str) -> None:
    """Set the environment of a process that `accelerate launch` starts for DeepSpeed."""
    names = {"USE_DEEPSPEED": "true", **{f"DEEPSPEED_{name}": value for name, value in variables.items()}}
    for name, value in names.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.parametrize(("processes", "shard"), [(2, True), (1, False)])
def test_stage_three_is_replaced_by_fsdp2(processes: int, shard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_asks(monkeypatch, processes, ZERO_STAGE="3")
    config = toy_config()
    assert stage_three_as_fsdp(config).model.shard is shard
    assert DEEPSPEED not in os.environ
    assert stage_three_as_fsdp(config) is config


@pytest.mark.parametrize("stage", ["0", "1", "2"])
def test_other_stages_are_kept(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_asks(monkeypatch, ZERO_STAGE=stage)
    config = toy_config()
    assert stage_three_as_fsdp(config) is config and os.environ[DEEPSPEED] == "true"


def test_a_configuration_file_is_checked_at_stage_three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    launcher_asks(monkeypatch, CONFIG_FILE=str(path))
    zero = {"stage": 3, "stage3_param_persistence_threshold": "auto"}
    path.write_text(json.dumps({"zero_optimization": zero, "optimizer": {"type": "AdamW"}}))
    with pytest.raises(InputError, match="optimizer"):
        stage_three_as_fsdp(toy_config())
    path.write_text(json.dumps({"zero_optimization": zero}))
    assert stage_three_as_fsdp(toy_config()).model.shard


@pytest.mark.parametrize("what", ["PARAM", "OPTIMIZER"])
def test_stage_three_with_offloading_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher_asks(monkeypatch, ZERO_STAGE="3", **{f"OFFLOAD_{what}_DEVICE": "cpu"})
    with pytest.raises(InputError, match=rf"offload_{what.lower()} to 'cpu'.*'none'"):
        stage_three_as_fsdp(toy_config())


@pytest.mark.parametrize("nowhere", [None, {}, {"device": None}, {"device": "none"}])
def test_stage_three_without_offloading_is_accepted(
    nowhere: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "deepspeed.json"
    launcher_asks(monkeypatch, CONFIG_FILE=str(path))
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_param": nowhere}}))
    assert stage_three_as_fsdp(toy_config()).model.shard


def test_an_unreadable_configuration_is_an_input_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher_asks(monkeypatch, CONFIG_FILE=str(tmp_path / "missing.json"))
    with pytest.raises(InputError, match="DeepSpeed configuration"):
        stage_three_as_fsdp(toy_config())


@pytest.mark.slow
def test_a_run_at_stage_three_equals_a_run_with_model_shard(tmp_path: Path) -> None:
    """The processes get the environment of accelerate's launcher, which itself would require deepspeed."""
    words = [*RUN, "train.epochs=1", "run.grid_every=10"]
    for name, variables, override in (
        ("a", {DEEPSPEED: "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, []),
        ("b", {}, ["model.shard=true"]),
    ):
        said = finished(
            command("train", "embedded_jpeg", *words, *override, "--run", name, processes=2), tmp_path, **variables
        )
        assert said.returncode == 0, said.stderr
    assert "shard: true" in (tmp_path / "a" / "config.yaml").read_text()
    (one,), (two,) = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert [one[name] for name in FIGURES] == [two[name] for name in FIGURES]
    ours, theirs = (load_file(tmp_path / name / "lora" / "pytorch_lora_weights.safetensors") for name in "ab")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


class WithDeepSpeed(ProcessGroup):
    deepspeed = True

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size


def test_float16_is_refused() -> None:
    config = toy_config(model={"dtype": "float16"})
    with pytest.raises(InputError, match=r"model\.dtype=float16"):
        build_training_optimizer(config, ToyPolicy(), WithDeepSpeed(2))


@pytest.mark.parametrize(("processes", "kept"), [(ProcessGroup(), 1), (WithDeepSpeed(2), 0), (WithDeepSpeed(1), 1)])
def test_no_process_saves_sharded_state_alone(processes: ProcessGroup, kept: int, tmp_path: Path) -> None:
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
def test_steps_equal_those_of_one_optimizer_with_all_gradients(stage: int) -> None:
    """The processes make different numbers of forwards, and one of them makes some updates non-finite."""
    said = launched(stage, ROOT, "tests.distributed.deepspeed_steps")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout.splitlines()[-1])
    assert [step["made"] for step in found.values()] == [[True] * 2, [False] * 2, [False] * 2, [True] * 2, [True] * 2]
    for name, step in found.items():
        assert step["told"][0] == step["told"][1], name
        assert step["difference"] < 1e-5, name


@pytest.fixture(scope="module", params=["lora", "full"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Overrides with EMA, and their run in one process without DeepSpeed."""
    words = [*RUN, f"model.adapter={request.param}", "model.ema=0.5", "train.learning_rate=1e-3"]
    folder = tmp_path_factory.mktemp(f"alone_{request.param}")
    said = run_plainly(folder, "train", "embedded_jpeg", *words, "--run", "a", processes=1)
    assert said.returncode == 0, said.stderr
    return words, folder / "a"


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 2), (1, None), (None, 0), (3, None), (None, 3)], ids=str)
def test_two_processes_with_deepspeed_train_as_one(
    alone: tuple[list[str], Path], first: int | None, then: int | None, tmp_path: Path
) -> None:
    """The run is resumed after one epoch. None is one process without DeepSpeed, a number the ZeRO stage."""
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
