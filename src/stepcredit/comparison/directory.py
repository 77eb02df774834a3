"""The folder of a comparison: its protocol, written before the first run, then its runs, then what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.protocol import Protocol
from stepcredit.errors import InputError, shortened, some_of
from stepcredit.runs import recipes
from stepcredit.runs.directory import config_differences
from stepcredit.utils.files import write_atomically

_FINISHED = "finished"


class ComparisonDirectory:
    """The files of one comparison; `open_comparison` makes or takes one up.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def protocol_path(self) -> Path:
        return self.path / "protocol.yaml"

    @property
    def rates_path(self) -> Path:
        return self.path / "learning_rates.json"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.md"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def run(self, cell: Cell) -> Path:
        """The run directory of a cell."""
        return self.path / "runs" / cell.name

    def recipe(self, cell: Cell) -> Path:
        return self.run(cell).with_name(f"{self.run(cell).name}.yaml")

    def log(self, cell: Cell) -> Path:
        """What the newest process of the run printed."""
        return self.run(cell).with_name(f"{self.run(cell).name}.log")

    def finished(self, cell: Cell) -> bool:
        return (self.run(cell) / _FINISHED).exists()

    def mark_finished(self, cell: Cell) -> None:
        """The run's process has ended well; what it wrote is all there."""
        write_atomically(self.run(cell) / _FINISHED, b"")

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def open_comparison(path: Path, protocol: Protocol, begun: Mapping[str, Any]) -> ComparisonDirectory:
    """The comparison in `path`, begun there if there is none; the protocol is then on disk.

    Args:
        begun: where and how, which is noted and may differ the next time.

    Raises:
        InputError: the folder holds something else, or a comparison with another protocol, or cannot be written.
    """
    directory = ComparisonDirectory(path)
    decided = yaml.safe_load(yaml.safe_dump(protocol.tree()))
    if directory.protocol_path.is_file():
        _require_same(directory, decided)
        return directory
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder for a comparison; choose another --run")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} is not empty and holds no comparison; choose an empty or a new folder with --run")
    text = yaml.safe_dump({"protocol": decided, "begun": dict(begun)}, sort_keys=False)
    try:
        write_atomically(directory.protocol_path, text.encode())
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}; choose another --run") from error
    return directory


def _require_same(directory: ComparisonDirectory, decided: Mapping[str, Any]) -> None:
    there = recipes.read_tree(directory.protocol_path).get("protocol")
    if not isinstance(there, dict):
        raise InputError(f"{directory.protocol_path} is damaged: it has no protocol; choose another --run")
    differences = [shortened(line, 160) for line in config_differences(there, decided)]
    if differences:
        raise InputError(
            f"{directory.path} holds a comparison with another protocol ({some_of(differences)}); choose another --run"
        )
