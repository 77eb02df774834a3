"""Advantages of the images of an epoch, and of their steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from stepcredit.config import TrainSection
from stepcredit.credit._rules import require_step_advantages
from stepcredit.distributed.partition import Partition
from stepcredit.errors import InputError, shortened
from stepcredit.maths.advantage import group_advantages, standardize
from stepcredit.maths.running_statistics import PromptStatistics, StepStatistics
from stepcredit.types import CreditAssigner, LearningCredit, Trajectory
from stepcredit.utils.user_code import contained, unchanged


class Advantages:
    """Turns rewards into advantages, with running statistics over epochs where the configuration asks for them.

    Args:
        section: how rewards are standardized, how many are remembered per prompt, and where advantages are clipped.
        second: standardize the step advantages too.
    """

    def __init__(self, section: TrainSection, second: bool) -> None:
        self._section = section
        self._second = second
        self._rewards = PromptStatistics(section.buffer_size, section.min_count)
        self._steps = StepStatistics(section.buffer_size, section.min_count)

    def of_images(self, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """A (B,): the rewards, standardized according to `train.advantage` and clipped."""
        match self._section.advantage:
            case "group":
                section = self._section
                advantage = group_advantages(
                    rewards,
                    prompts,
                    section.advantage_epsilon,
                    batch_std=section.advantage_std == "batch",
                    unbiased=section.advantage_unbiased,
                )
            case "running":
                advantage = self._rewards.update(prompts, rewards)
            case "batch":
                advantage = standardize(rewards)
        return self._clipped(advantage)

    def of_steps(
        self,
        credit: CreditAssigner,
        trajectory: Trajectory,
        prompts: Sequence[str],
        advantage: Tensor,
        partition: Partition,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Step advantages M (N, T) of the images of all processes, and the rule's metrics.

        The credit rule spreads A over the steps. M is then standardized a second time if the configuration asks for it,
        over the trained steps of each prompt's images, and clipped. A rule that learns does so afterwards, from A. A
        rule that learns or compares images gets the trajectories of all processes, on every process.

        Args:
            trajectory: the trajectories of this process.
            prompts: N prompts, of the images of all processes.
            advantage: (N,), of the images of all processes.
        """
        advantage = advantage.to(trajectory.latents.device)
        if isinstance(credit, LearningCredit) or credit.compares_images:
            trajectory = partition.gather_trajectories(trajectory)
            spread = partition.from_rank_0(_spread(credit, trajectory, advantage))  # a rule may draw random numbers
            if isinstance(credit, LearningCredit):
                with _running(credit, trajectory):
                    credit.learn(trajectory, advantage.clone())
            figures = _diagnostics(credit, trajectory)
        else:
            own = advantage[partition.rows.to(advantage.device)]
            spread = partition.gather(_spread(credit, trajectory, own))
            figures = partition.reduce_metrics(_diagnostics(credit, trajectory))
        if self._second:
            steps = trajectory.trainable.to(spread.device)
            pooled = self._steps.update(prompts, spread[:, steps])
            spread = spread.index_copy(1, steps.nonzero().flatten(), pooled)
        return self._clipped(spread), figures

    def state_dict(self) -> dict[str, Any]:
        """The running statistics, as JSON values."""
        return {"reward_statistics": self._rewards.state_dict(), "step_statistics": self._steps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`. Other entries of `state` are ignored."""
        self._rewards.load_state_dict(state["reward_statistics"])
        self._steps.load_state_dict(state["step_statistics"])

    def _clipped(self, advantage: Tensor) -> Tensor:
        limit = self._section.advantage_clip
        return advantage.clamp(-limit, limit)


def _spread(credit: CreditAssigner, trajectory: Trajectory, advantage: Tensor) -> Tensor:
    """The step advantages (B, T) of a rule. InputError if it returns anything else."""
    with _running(credit, trajectory):
        return require_step_advantages(credit(trajectory, advantage.clone()), trajectory, type(credit).__name__)


def _diagnostics(credit: CreditAssigner, trajectory: Trajectory) -> dict[str, Any]:
    """The metrics of a rule. InputError if they are not numbers named `credit_...`."""
    with _running(credit, trajectory):
        metrics = dict(credit.diagnostics(trajectory))
    for name, value in metrics.items():
        if not str(name).startswith("credit_") or not isinstance(value, int | float):
            raise InputError(
                f"{credit_name(credit)} has the metric {name!r} = {shortened(repr(value))}, expected an int or float, "
                "and a name that begins with credit_"
            )
    return metrics


@contextmanager
def _running(credit: CreditAssigner, trajectory: Trajectory) -> Iterator[None]:
    with contained(credit_name(credit)), unchanged(credit_name(credit), trajectory):
        yield


def credit_name(credit: CreditAssigner) -> str:
    """How errors name a credit rule."""
    return f"credit rule '{getattr(credit, 'name', type(credit).__name__)}'"
