"""The folder of a comparison: the protocol, written before the first run, then the runs, then the results."""

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
    """The files of one comparison. `open_comparison` creates or opens one.

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
        """The recipe of the run."""
        return self.run(cell).with_name(f"{self.run(cell).name}.yaml")

    def log(self, cell: Cell) -> Path:
        """Output of the most recent process of the run."""
        return self.run(cell).with_name(f"{self.run(cell).name}.log")

    def evaluation(self, cell: Cell) -> Path:
        """What `evaluate` measured of the finished run, as JSON."""
        return self.run(cell) / "evaluation.json"

    def evaluation_log(self, cell: Cell) -> Path:
        """Output of the most recent process that evaluated the run."""
        return self.run(cell).with_name(f"{self.run(cell).name}.evaluation.log")

    def finished(self, cell: Cell) -> bool:
        return (self.run(cell) / _FINISHED).exists()

    def mark_finished(self, cell: Cell) -> None:
        """Record that the run's process exited with code 0, so that all its files are complete."""
        write_atomically(self.run(cell) / _FINISHED, b"")

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def open_comparison(path: Path, protocol: Protocol, begun: Mapping[str, Any]) -> ComparisonDirectory:
    """Open the comparison in `path`, or create it there and write its protocol.

    Args:
        begun: the environment and the command, recorded when the comparison is created. It may differ when the
            comparison is resumed.

    Raises:
        InputError: the folder holds something else or a comparison with another protocol, or it cannot be written.
    """
    directory = ComparisonDirectory(path)
    tree = yaml.safe_load(yaml.safe_dump(protocol.tree()))
    if directory.protocol_path.is_file():
        _require_same(directory, tree)
        return directory
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder for a comparison; choose another --run")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} is not empty and holds no comparison; choose an empty or a new folder with --run")
    text = yaml.safe_dump({"protocol": tree, "begun": dict(begun)}, sort_keys=False)
    try:
        write_atomically(directory.protocol_path, text.encode())
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}; choose another --run") from error
    return directory


def _require_same(directory: ComparisonDirectory, tree: Mapping[str, Any]) -> None:
    recorded = recipes.read_tree(directory.protocol_path).get("protocol")
    if not isinstance(recorded, dict):
        raise InputError(f"{directory.protocol_path} is damaged: it has no protocol; choose another --run")
    differences = [shortened(line, 160) for line in config_differences(recorded, tree)]
    if differences:
        raise InputError(
            f"{directory.path} holds a comparison with another protocol ({some_of(differences)}); choose another --run"
        )
