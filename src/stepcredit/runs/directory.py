"""The run directory: what a run was told, where it ran, and what it measured. Only the main process writes it."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, shortened, some_of
from stepcredit.runs import recipes
from stepcredit.runs.tensorboard import Scalars
from stepcredit.utils.files import append_whole, write_atomically
from stepcredit.utils.redaction import masked

_PACKAGES = ("stepcredit", "torch", "diffusers", "transformers", "peft", "numpy")


class RunDirectory:
    """The files of one run; `create` starts one, `open` takes up an existing one.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scalars = Scalars(self.tensorboard_dir)

    @classmethod
    def create(cls, path: Path | str, config: TrainConfig, command: Sequence[str]) -> RunDirectory:
        """Make the folder with config.yaml and environment.json in it.

        Raises InputError, and leaves everything as it was, where the folder is not empty, is a file or is not writable.
        """
        run = cls(Path(path))
        ours = False
        try:
            _refuse_occupied(run.path, config)
            run.path.mkdir(parents=True, exist_ok=True)
            with run.config_path.open("x", encoding="utf-8") as file:  # "x": of two runs started at once one gets it
                ours = True
                file.write(recipes.dump(config))
            write_atomically(run.environment_path, (json.dumps(environment(command), indent=2) + "\n").encode())
        except FileExistsError:
            raise InputError(_occupied(run.path)) from None
        except OSError as error:
            if ours:
                shutil.rmtree(run.path, ignore_errors=True)
            raise InputError(
                f"cannot write the run directory {path}: {error.strerror}; choose another --run"
            ) from error
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """The run in an existing folder; InputError if there is none."""
        run = cls(Path(path))
        if not run.config_path.is_file():
            raise InputError(f"{path} holds no run (no config.yaml in it); give the folder that `train --run` wrote")
        return run

    @property
    def config(self) -> TrainConfig:
        """config.yaml, read back and validated."""
        return recipes.validate(recipes.read_tree(self.config_path), str(self.config_path))

    def rewrite_config(self, config: TrainConfig) -> None:
        """Replace config.yaml, for a resumed run that is to go on longer."""
        write_atomically(self.config_path, recipes.dump(config).encode())

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment_path(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def prompts_path(self) -> Path:
        """Prompts that were passed in Python."""
        return self.path / "prompts.jsonl"

    @property
    def checkpoint_root(self) -> Path:
        return self.path / "checkpoints"

    @property
    def lora_dir(self) -> Path:
        return self.path / "lora"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile_dir(self) -> Path:
        return self.path / "profile"

    def grid_path(self, epoch: int) -> Path:
        return self.path / "samples" / f"epoch_{epoch:04d}.png"

    def append_metrics(self, row: Mapping[str, Any]) -> str | None:
        """Add one epoch, on disk when this returns: a line of metrics.jsonl and a TensorBoard scalar per number.

        `row["epoch"]` is the number of finished epochs and TensorBoard's step. JSON has no NaN and no infinity: they
        are written as null. TensorBoard gets them as they are. `row["reward_components"]`, {name: {mean, std}}, goes to
        TensorBoard as `reward/<name>_mean` and `reward/<name>_std`.

        Returns what is to be told if TensorBoard has failed, once. Raises OSError, and leaves no part of a line, if
        metrics.jsonl cannot be written.
        """
        epoch = int(row["epoch"])
        line = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False) + "\n"
        self._mend()
        append_whole(self.metrics_path, line.encode())
        return self._scalars.write(epoch, _numbers(row))

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, without a last line torn by a crash; InputError for any other unreadable line."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_bytes().splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(_row(line))
            except (ValueError, TypeError, RecursionError) as error:
                if number < len(lines):
                    raise InputError(f"{self.metrics_path} line {number} is not a JSON object: {error}") from error
        return rows

    def truncate_metrics(self, epoch: int) -> None:
        """Forget what came after `epoch`, so that a run resumed there records each epoch once."""
        self._replace_metrics([row for row in self.metrics() if row["epoch"] <= epoch])
        self._scalars = Scalars(self.tensorboard_dir, epoch + 1)

    def _mend(self) -> None:
        """Drop a torn last line, or end it: without this the next row would be lost with it."""
        content = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        rows = self.metrics()
        if len(rows) < len(content.splitlines()) or (rows and not content.endswith(b"\n")):
            self._replace_metrics(rows)

    def _replace_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_atomically(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def next_run_path(root: Path, name: str) -> Path:
    """`root/name-001`, or with the first number that is free."""
    number = 1
    while (path := root / f"{name}-{number:03d}").exists():
        number += 1
    return path


def environment(command: Sequence[str]) -> dict[str, Any]:
    """Where and how a run was started: versions, machine, commit, command. No environment variables, no secrets."""
    import torch

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [masked(word) for word in command],
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that a run's numbers depend on; None for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def changed_versions(then: Any) -> str:
    """`name 1.2 then, 1.3 now` of every package whose version was another; empty for what is no record of versions."""
    if not isinstance(then, Mapping):
        return ""
    now = package_versions()
    return "; ".join(
        f"{name} {shortened(str(then[name]), 20)} then, {now[name]} now"
        for name in now
        if name in then and then[name] != now[name]
    )


def config_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per key in which two configurations, given as mappings of sections, differ.

    >>> config_differences({"train": {"learning_rate": 0.01}}, {"train": {"learning_rate": 0.02}})
    ['train.learning_rate: 0.01 there, 0.02 here']
    """
    ours, theirs = dict(_leaves(here)), dict(_leaves(there))
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [
        f"{key}: {theirs.get(key, 'absent')} there, {ours.get(key, 'absent')} here"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]


def _refuse_occupied(path: Path, config: TrainConfig) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder for a run; choose another --run")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} is not empty and holds no run; choose an empty or a new folder with --run")
    differences = config_differences(recipes.read_tree(path / "config.yaml"), config.model_dump(mode="json"))
    raise InputError(_occupied(path, differences))


def _occupied(path: Path, differences: Sequence[str] = ()) -> str:
    detail = ""
    if differences:
        detail = f" with another configuration ({some_of(differences)})"
    return f"{path} already holds a run{detail}; use --resume to continue it or another --run"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is not itself a mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _row(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError(f"it holds a {type(row).__name__}")
    epoch = row.get("epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 2**63:
        raise TypeError("it has no whole number `epoch`")
    return row


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What TensorBoard gets of a row."""
    components = {
        f"reward/{name}_{key}": value
        for name, figures in row.get("reward_components", {}).items()
        for key, value in figures.items()
    }
    return {
        key: float(value)
        for key, value in {**row, **components}.items()
        if key != "epoch" and isinstance(value, Real) and not isinstance(value, bool)
    }


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, NaN and infinities as None, in mappings too."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit checked out in the working directory, `-dirty` added where files differ; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
