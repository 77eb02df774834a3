"""Evaluate the finished run of a cell on the prompt sets of the protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.evaluation_plan import EvaluationPlan
from stepcredit.comparison.protocol import Protocol

EVALUATE = (sys.executable, "-m", "stepcredit", "evaluate")


@dataclass(frozen=True)
class EvaluationJob:
    """Implements Job. The result, which `evaluate` writes last, is also the record that it is finished.

    Attributes:
        program: the command that evaluates a run; it has the options of `stepcredit evaluate`.
    """

    cell: Cell
    directory: ComparisonDirectory
    protocol: Protocol
    plan: EvaluationPlan
    program: Sequence[str] = EVALUATE

    @property
    def name(self) -> str:
        return f"evaluation of {self.cell.name}"

    @property
    def log(self) -> Path:
        return self.directory.evaluation_log(self.cell)

    def finished(self) -> bool:
        return self.directory.evaluation(self.cell).is_file()

    def command(self) -> list[str]:
        """The run is the user's own, so its code and plugins are named, without which `evaluate` does not run them."""
        config = self.cell.config(self.protocol)
        rewards = [*config.reward.own_code, *self.plan.further_rewards(config.reward)]
        return [
            *self.program,
            str(self.directory.run(self.cell)),
            *_repeated("--prompts", self.plan.prompts),
            *_repeated("--reward", rewards),
            *_repeated("--plugin", config.run.plugins),
            "--images",
            str(self.plan.images),
            "--out",
            str(self.directory.evaluation(self.cell)),
        ]

    def mark_finished(self) -> None:
        return

    def epochs(self) -> int:
        return 0


def _repeated(option: str, values: Sequence[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)
