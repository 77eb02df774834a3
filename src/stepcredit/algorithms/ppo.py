"""The clipped surrogate on recorded steps: DDPO and GRPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepcredit.algorithms import register_algorithm
from stepcredit.algorithms.base import LossOutput, Needs
from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.maths import gaussian, loss
from stepcredit.maths.step_sampling import step_scores
from stepcredit.types import Policy, Trajectory, Transition


@register_algorithm("ppo")
@dataclass(frozen=True)
class PPO:
    """Policy gradient with a clipped ratio, on the recorded steps of noisy rollouts (DDPO, GRPO).

        L = max(-M rho, -M clip(rho, 1 - c, 1 + c)) + kl_weight KL(policy || reference),   rho = exp(log p - log p_old)

    M is the step advantage, log p the mean over latent elements. Step credit enters through M.

    Source: DDPO, arXiv 2305.13301; Flow-GRPO, arXiv 2505.05470.
    Degenerate case: at the weights of the rollout rho is 1, and the gradient is the policy gradient of M.

    Attributes:
        clip_range: c > 0.
        kl_weight: 0 or more, per latent element.
        kl_space: "log_prob" is the KL divergence of the steps, "flow_grpo" that of Flow-GRPO's code, whose variance
            lacks the length of the step if the sampler integrates an SDE, "prediction" the mean squared distance of the
            outputs.
    """

    clip_range: float = 1e-2
    kl_weight: float = 0.0
    kl_space: str = "log_prob"

    console: ClassVar[Mapping[str, str]] = {"clip_fraction": "clipped {:.0%}"}

    @property
    def needs(self) -> Needs:
        """A density. Replays may deviate by a tenth of the clip range, so that rounding alone does not clip a ratio."""
        return Needs(density=True, replay_tolerance=self.clip_range / 10)

    def anchors(self, policy: Policy, batches: Sequence[StepBatch]) -> list[Any]:
        """The reference's mean or output for each batch, if there is a penalty."""
        if not self.kl_weight:
            return [None] * len(batches)
        with torch.no_grad(), policy.reference():
            return [self._anchor(batch.replay(policy)) for batch in batches]

    def loss(self, policy: Policy, batch: StepBatch, anchor: Tensor | None) -> LossOutput:
        transition, old = batch.replay(policy), batch.old_log_probs
        log_prob = gaussian.step_log_prob(transition, batch.next_latents)
        surrogate = loss.clipped_surrogate(log_prob, old, batch.step_advantages, self.clip_range)
        divergence = None if anchor is None else self._divergence(transition, anchor)
        total = surrogate if divergence is None else surrogate + self.kl_weight * divergence
        with torch.no_grad():
            means = {
                "approx_kl": loss.approx_kl(log_prob, old, batch.weights),
                "clip_fraction": loss.clip_fraction(log_prob, old, self.clip_range, batch.weights),
            }
            if divergence is not None:
                means["reference_kl"] = loss.average(divergence, batch.weights)
            maxima = {"ratio_max_deviation": loss.ratio_max_deviation(log_prob, old)} if batch.first else {}
        return LossOutput(total, means, maxima)

    def step_scores(self, trajectory: Trajectory, step_advantages: Tensor) -> Tensor:
        """|M| times the native scale of the step."""
        return step_scores(step_advantages, trajectory.schedule.native_scales, trajectory.trainable.cpu())

    def unregularized(self) -> PPO:
        return replace(self, kl_weight=0.0)

    def warnings(self, metrics: Mapping[str, float], tolerance: float) -> list[str]:
        """A line if the first ratios are further from 1 than replays may be."""
        deviation = metrics.get("ratio_max_deviation", 0.0)  # missing if there was no update
        allowed = min(tolerance, self.needs.replay_tolerance)
        if deviation <= allowed:
            return []
        return [
            f"first ratios deviate from 1 by {deviation:.1e} (allowed {allowed:.0e}), so rounding may clip them: set "
            "sample.batch=null and train.microbatch=null, so that rollouts and updates use one batch size, or set "
            "model.dtype=float32"
        ]

    def _anchor(self, transition: Transition) -> Tensor:
        return transition.output if self.kl_space == "prediction" else transition.mean

    def _divergence(self, transition: Transition, anchor: Tensor) -> Tensor:
        """(n,), of each pair from the reference."""
        if self.kl_space == "prediction":
            return loss.prediction_kl(transition.output, anchor)
        std = transition.diffusion if self.kl_space == "flow_grpo" else transition.std
        return gaussian.kl(transition.mean, anchor, std)
