"""Forward-process matching on noised final latents: DiffusionNFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stepcredit.algorithms import register_algorithm
from stepcredit.algorithms.base import LossOutput, Needs
from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.maths import loss, matching
from stepcredit.types import Policy, Trajectory


class _Anchor(NamedTuple):
    """The clean latents that the old weights predict, and the output of the reference where there is a penalty."""

    old_x0: Tensor
    reference: Tensor | None


@register_algorithm("matching")
@dataclass(frozen=True)
class Matching:
    """Regression of the predicted clean latent on noised final latents (DiffusionNFT); needs no log-probabilities.

        x_i = alpha_i x_final + sigma_i eps,   L_i = c_i NFT(x0(x_i), x0_old(x_i), x_final, A) + kl_weight |v - v_ref|^2

    NFT is `maths.matching.negative_aware`. The noise levels are those of the rollout. "old" is the model at the
    rollout. Predictions are conditional, without classifier-free guidance. Rollouts are deterministic by default.

    Step credit enters as the density over noise levels: c_i is the mean of |M_i| over the images of the epoch, scaled
    to mean 1 over the steps. `credit.name=uniform` weighs all levels equally.

    Source: arXiv 2509.16117.
    Degenerate case: images of advantage 0 only hold the prediction where it was.

    Attributes:
        beta: in (0, 1], how far the positive and the negative prediction are from the old one. An epoch moves the
            prediction by A / (c beta) of its residual at most. The paper uses 1, and 0.1 for text rendering and mixed
            rewards; on the bundled pipelines 1 learned several times more slowly.
        advantage_clip: c of the loss, advantages are cut to +- this.
        kl_weight: 0 or more; weight of the mean squared distance from the reference's output.
        kl_space: has to be "prediction" if there is a penalty.
    """

    beta: float = 0.1
    advantage_clip: float = 5.0
    kl_weight: float = 0.0
    kl_space: str = "prediction"

    needs: ClassVar[Needs] = Needs(density=False, old_weights=True)
    console: ClassVar[Mapping[str, str]] = {"policy_distance": "moved {:.1e}"}

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise ValueError(f"train.options.beta is {self.beta}, expected a number in (0, 1]")
        if self.kl_weight and self.kl_space != "prediction":
            raise ValueError(
                f"train.kl_space is {self.kl_space}, but matching computes no log-probabilities: set it to prediction"
            )

    def anchors(self, policy: Policy, batches: Sequence[StepBatch]) -> list[_Anchor]:
        """The predictions of the old weights, and those of the reference, for each batch."""
        if not batches:
            return []
        with torch.no_grad():
            with batches[0].old_weights.active():
                old = [batch.predict(policy, batch.noised_latents, guided=False).x0 for batch in batches]
            if not self.kl_weight:
                return [_Anchor(x0, None) for x0 in old]
            with policy.reference():
                outputs = [batch.predict(policy, batch.noised_latents, guided=False).output for batch in batches]
        return [_Anchor(x0, output) for x0, output in zip(old, outputs, strict=True)]

    def loss(self, policy: Policy, batch: StepBatch, anchor: _Anchor) -> LossOutput:
        predicted = batch.predict(policy, batch.noised_latents, guided=False)
        matched = matching.negative_aware(
            predicted.x0, anchor.old_x0, batch.final_latents, batch.advantages, self.beta, self.advantage_clip
        )
        total = batch.credit_profile * matched
        with torch.no_grad():
            moved = loss.prediction_kl(predicted.x0, anchor.old_x0)
        means = {"policy_distance": loss.average(moved, batch.weights)}
        if anchor.reference is not None:
            divergence = loss.prediction_kl(predicted.output, anchor.reference)
            total = total + self.kl_weight * divergence
            means["reference_kl"] = loss.average(divergence.detach(), batch.weights)
        return LossOutput(total, means)

    def step_scores(self, trajectory: Trajectory, step_advantages: Tensor) -> Tensor:
        """The density over noise levels, the same for all images."""
        profile = step_advantages.detach().cpu().double().abs().mean(0) * trajectory.trainable.cpu()
        return profile.expand(len(step_advantages), -1)

    def unregularized(self) -> Matching:
        return replace(self, kl_weight=0.0)

    def warnings(self, metrics: Mapping[str, float], tolerance: float) -> list[str]:
        return []
