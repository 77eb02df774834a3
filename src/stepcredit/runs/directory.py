"""The run directory: configuration, environment, metrics and results of a run. Only rank 0 writes it."""

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
from stepcredit.utils.files import append_whole, write_atomically
from stepcredit.utils.paths import expanded
from stepcredit.utils.redaction import masked

_PACKAGES = ("stepcredit", "torch", "diffusers", "transformers", "peft", "numpy")


class RunDirectory:
    """The files of a run. Use `create` for a new run and `open` for an existing one.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path | str, config: TrainConfig, command: Sequence[str], more: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Create the folder with config.yaml and environment.json in it.

        Args:
            more: further entries of environment.json.

        Raises:
            InputError: the folder is not empty, is a file or is not writable. Nothing is changed.
        """
        run = cls(expanded(path))
        created, text = False, recipes.dump(config)
        try:
            _refuse_occupied(run.path, config)
            run.path.mkdir(parents=True, exist_ok=True)
            with run.config_path.open("x", encoding="utf-8") as file:  # of two runs started at once only one succeeds
                created = True
                file.write(text)
            written = environment(command) | dict(more or {})
            write_atomically(run.environment_path, (json.dumps(written, indent=2) + "\n").encode())
        except FileExistsError:
            raise InputError(_occupied(run.path)) from None
        except OSError as error:
            if created:
                shutil.rmtree(run.path, ignore_errors=True)
            raise InputError(
                f"cannot write the run directory {path}: {error.strerror}; choose another folder with --run"
            ) from error
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """The run in an existing folder. InputError if the folder holds no run."""
        run = cls(expanded(path))
        if not run.config_path.is_file():
            raise InputError(
                f"{path} is not a run directory (it has no config.yaml): give the folder of `stepcredit train --run`"
            )
        return run

    @property
    def config(self) -> TrainConfig:
        """The validated content of config.yaml."""
        return recipes.validate(recipes.read_tree(self.config_path), str(self.config_path))

    def rewrite_config(self, config: TrainConfig) -> None:
        """Replace config.yaml, for a run that is resumed with other settings."""
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

    def export_path(self, form: str) -> Path:
        """The default folder of an export: `export/FORM`, and `export/full` for all weights, which are no LoRA."""
        full = form == "lora" and self.config.model.adapter == "full"
        return self.path / "export" / ("full" if full else form)

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

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append the row of an epoch to metrics.jsonl. It is on disk when this returns.

        NaN and infinity, which JSON does not have, are written as null.

        Args:
            row: `epoch`, the number of finished epochs, and the metrics by name.

        Raises:
            OSError: it cannot be written. metrics.jsonl is unchanged.
        """
        line = json.dumps({key: _as_json(value) for key, value in row.items()}, allow_nan=False) + "\n"
        self._repair_last_line()
        append_whole(self.metrics_path, line.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl. A last line that a crash left incomplete is ignored.

        Raises:
            InputError: any other line cannot be read.
        """
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
        """Delete the rows after `epoch`, so that a run that is resumed there records each epoch once."""
        self._replace_metrics([row for row in self.metrics() if row["epoch"] <= epoch])

    def _repair_last_line(self) -> None:
        """Remove an incomplete last line, or end a complete one: the next row would otherwise be appended to it."""
        content = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        rows = self.metrics()
        if len(rows) < len(content.splitlines()) or (rows and not content.endswith(b"\n")):
            self._replace_metrics(rows)

    def _replace_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_atomically(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def next_run_path(root: Path, name: str) -> Path:
    """`root/name-NNN` with the lowest free number, from 001."""
    number = 1
    while (path := root / f"{name}-{number:03d}").exists():
        number += 1
    return path


def environment(command: Sequence[str]) -> dict[str, Any]:
    """How a run was started: versions, hardware, commit and command. It holds no environment variables or secrets."""
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
    """Versions of the packages that affect the numbers of a run. None if a package is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def changed_versions(recorded: Any) -> str:
    """`<package> <recorded version> -> <present version>` for each package whose version has changed.

    Empty if `recorded` is not a mapping.
    """
    if not isinstance(recorded, Mapping):
        return ""
    present = package_versions()
    return "; ".join(
        f"{name} {shortened(str(recorded[name]), 20)} -> {present[name]}"
        for name in present
        if name in recorded and recorded[name] != present[name]
    )


def config_differences(existing: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """One line for each key in which two configurations, given as mappings of sections, differ.

    >>> config_differences({"train": {"learning_rate": 0.01}}, {"train": {"learning_rate": 0.02}})
    ['train.learning_rate: 0.01 there, 0.02 here']
    """
    theirs, ours = dict(_leaves(existing)), dict(_leaves(given))
    return [
        f"{key}: {theirs.get(key, 'absent')} there, {ours.get(key, 'absent')} here"
        for key in ours | theirs
        if theirs.get(key) != ours.get(key)
    ]


def _refuse_occupied(path: Path, config: TrainConfig) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose a folder for the run with --run")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} is not empty and not a run directory: choose an empty or new folder with --run")
    differences = config_differences(recipes.read_tree(path / "config.yaml"), config.model_dump(mode="json"))
    raise InputError(_occupied(path, differences))


def _occupied(path: Path, differences: Sequence[str] = ()) -> str:
    detail = ""
    if differences:
        detail = f" with another configuration ({some_of(differences)})"
    return f"{path} already holds a run{detail}: resume it with --resume, or choose another folder with --run"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value that is not a mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _row(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError(f"it is a {type(row).__name__}")
    epoch = row.get("epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 2**63:
        raise TypeError("it has no non-negative integer `epoch`")
    return row


def _as_json(value: Any) -> Any:
    """`value` with Python numbers instead of NumPy's, and None instead of NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
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
    """The commit of the current folder, with `-dirty` if files are modified. None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
