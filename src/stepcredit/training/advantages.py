"""Advantages of an epoch: of its images, then of their steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stepcredit.config import TrainSection
from stepcredit.distributed.partition import Partition
from stepcredit.maths.advantage import PromptStatistics, StepStatistics, group_advantages, standardize
from stepcredit.types import CreditAssigner, LearningCredit, Trajectory


class Advantages:
    """What an epoch's images and steps are worth, beside those of the epochs before where these are remembered.

    Args:
        section: which rewards are compared, how much is remembered, and where advantages are cut.
        second: standardize the advantages of steps too.
    """

    def __init__(self, section: TrainSection, second: bool) -> None:
        self._section = section
        self._second = second
        self._rewards = PromptStatistics(section.buffer_size, section.min_count)
        self._steps = StepStatistics(section.buffer_size, section.min_count)

    def of_images(self, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """A (B,): rewards standardized as `train.advantage` says, then clipped."""
        match self._section.advantage:
            case "group":
                advantage = group_advantages(rewards, prompts)
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
        """M (N, T) of the images of all processes, and the rule's figures.

        The advantage spread over steps, standardized a second time where asked for, clipped again. The second
        standardization pools trainable steps only; the others are not trained on. A rule that learns does so
        afterwards, from A. What compares images or learns is given the trajectories of all processes, on each of them.

        Args:
            trajectory: the trajectories of this process.
            prompts: N, of the images of all.
            advantage: (N,), of the images of all.
        """
        advantage = advantage.to(trajectory.latents.device)
        if isinstance(credit, LearningCredit) or getattr(credit, "compares_images", False):
            trajectory = partition.gather_trajectories(trajectory)
            spread = credit(trajectory, advantage)
            if isinstance(credit, LearningCredit):
                credit.learn(trajectory, advantage)
            figures = dict[str, Any](credit.diagnostics(trajectory))
        else:
            spread = partition.gather(credit(trajectory, advantage[partition.rows.to(advantage.device)]))
            figures = partition.reduce_metrics(credit.diagnostics(trajectory))
        if self._second:
            steps = trajectory.trainable.to(spread.device)
            pooled = self._steps.update(prompts, spread[:, steps])
            spread = spread.index_copy(1, steps.nonzero().flatten(), pooled)
        return self._clipped(spread), figures

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as JSON holds it."""
        return {"reward_statistics": self._rewards.state_dict(), "step_statistics": self._steps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what `state_dict` gave; further entries are somebody else's."""
        self._rewards.load_state_dict(state["reward_statistics"])
        self._steps.load_state_dict(state["step_statistics"])

    def _clipped(self, advantage: Tensor) -> Tensor:
        limit = self._section.advantage_clip
        return advantage.clamp(-limit, limit)
