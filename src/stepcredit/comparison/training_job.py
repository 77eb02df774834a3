"""Train the run of a cell, from the beginning or from its last checkpoint."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.protocol import Protocol
from stepcredit.runs import checkpoint, recipes

TRAIN = (sys.executable, "-m", "stepcredit", "train")


@dataclass(frozen=True)
class TrainingJob:
    """Implements Job.

    Attributes:
        program: the training command; it takes a recipe, `--run DIR` and `--resume`.
    """

    cell: Cell
    directory: ComparisonDirectory
    protocol: Protocol
    program: Sequence[str] = TRAIN

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def log(self) -> Path:
        return self.directory.log(self.cell)

    def finished(self) -> bool:
        return self.directory.finished(self.cell)

    def command(self) -> list[str]:
        """A run with a checkpoint is resumed; one without starts from the beginning."""
        run, recipe = self.directory.run(self.cell), self.directory.recipe(self.cell)
        resume = bool(checkpoint.folders(run / "checkpoints"))
        if not resume:
            shutil.rmtree(run, ignore_errors=True)
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(recipes.dump(self.cell.config(self.protocol)), encoding="utf-8")
        return [*self.program, str(recipe), "--run", str(run), *(["--resume"] if resume else [])]

    def mark_finished(self) -> None:
        self.directory.mark_finished(self.cell)

    def epochs(self) -> int:
        with suppress(OSError):  # no metrics yet
            return (self.directory.run(self.cell) / "metrics.jsonl").read_bytes().count(b"\n")
        return 0
