"""Every run calls its algorithm through ContainedAlgorithm, because it may be the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepcredit.algorithms.base import Algorithm, LossOutput, Needs
from stepcredit.algorithms.metrics import RUN_METRICS
from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.errors import InputError, shortened
from stepcredit.types import Policy, Trajectory
from stepcredit.utils.user_code import contained

_MEMBERS = ("needs", "console", "anchors", "loss", "step_scores", "unregularized", "warnings")


@dataclass(frozen=True)
class ContainedAlgorithm:
    """An algorithm whose results are verified, and whose calls change no settings.

    Args:
        algorithm: the algorithm itself.
        name: how errors name it.

    Raises:
        InputError: a member of the protocol is missing, raises an exception or returns something else.
    """

    algorithm: Algorithm
    name: str

    def __post_init__(self) -> None:
        missing = [member for member in _MEMBERS if not hasattr(self.algorithm, member)]
        if missing:
            raise self._error(f"has no {', '.join(missing)}: see stepcredit.algorithms.base.Algorithm")
        if not isinstance(self.needs, Needs):
            raise self._error(f"needs {shortened(repr(self.needs))}, expected a Needs")
        with self._contained():
            for text in self.console.values():
                text.format(0.5)

    @property
    def needs(self) -> Needs:
        return self.algorithm.needs

    @property
    def console(self) -> Mapping[str, str]:
        return self.algorithm.console

    def anchors(self, policy: Policy, batches: Sequence[StepBatch]) -> list[Any]:
        with self._contained():
            anchors = list(self.algorithm.anchors(policy, batches))
        if len(anchors) != len(batches):
            raise self._error(f"returned {len(anchors)} anchors, expected one for each of {len(batches)} batches")
        return anchors

    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        with self._contained():
            output = self.algorithm.loss(policy, batch, anchor)
        if not isinstance(output, LossOutput) or not isinstance(output.loss, Tensor):
            raise self._error(f"returned {shortened(repr(output))} as its loss, expected a LossOutput with a tensor")
        if output.loss.shape != (len(batch),):
            raise self._error(f"returned a loss of shape {tuple(output.loss.shape)}, expected ({len(batch)},)")
        if not output.loss.requires_grad:
            raise self._error("returned a loss without gradients: compute it from batch.replay(policy)")
        for name, value in {**output.means, **output.maxima}.items():
            self._require_metric(name, value)
        return output

    def step_scores(self, trajectory: Trajectory, step_advantages: Tensor) -> Tensor:
        with self._contained():
            scores = self.algorithm.step_scores(trajectory, step_advantages)
        if not isinstance(scores, Tensor) or scores.shape != step_advantages.shape:
            shape = tuple(step_advantages.shape)
            raise self._error(f"returned {shortened(repr(scores))} as step scores, expected a tensor {shape}")
        return scores

    def unregularized(self) -> ContainedAlgorithm:
        with self._contained():
            return ContainedAlgorithm(self.algorithm.unregularized(), self.name)

    def warnings(self, metrics: Mapping[str, float], tolerance: float) -> list[str]:
        with self._contained():
            return list(self.algorithm.warnings(metrics, tolerance))

    def _require_metric(self, name: str, value: Any) -> None:
        if name in RUN_METRICS or name.startswith(("credit_", "seconds_")):
            raise self._error(f"returned a metric called '{name}', which every run has: rename it")
        if not isinstance(value, Tensor) or value.ndim != 0 or value.requires_grad:
            raise self._error(
                f"returned the metric '{name}' = {shortened(repr(value))}, expected a tensor that holds one number, "
                "without gradients"
            )

    def _contained(self) -> Any:
        return contained(f"algorithm '{self.name}'")

    def _error(self, problem: str) -> InputError:
        return InputError(f"algorithm '{self.name}' {problem}")
