"""Forward-process matching on noised final latents: NFT, AWM, EPG, PEPG, PAR, RAM and RVM."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stepcredit.algorithms import register_algorithm
from stepcredit.algorithms.base import LossOutput, Needs
from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.errors import unknown
from stepcredit.maths import loss, matching
from stepcredit.types import Policy, Trajectory

ANCHORS = ("old", "reference")


class _Anchor(NamedTuple):
    """The clean latents that the old weights and the reference predict, and the reference's output.

    Those of the reference are None where nothing needs them.
    """

    old_x0: Tensor
    reference_x0: Tensor | None
    reference_output: Tensor | None


class _Pairs(NamedTuple):
    """What a loss is computed from, for n (image, step) pairs."""

    x0: Tensor
    old_x0: Tensor
    anchor_x0: Tensor
    clean: Tensor
    advantages: Tensor
    sigmas: Tensor


@register_algorithm("matching")
@dataclass(frozen=True)
class Matching:
    """Regression of the predicted clean latent on noised final latents; needs no log-probabilities.

        x_i = alpha_i x_final + sigma_i eps
        L_i = c_i objective(x0(x_i), x0_old(x_i), x_final, A) + kl_weight |v - v_ref|^2

    The noise levels are those of the rollout, and images of one prompt share eps. "old" is the model at the rollout.
    Predictions are conditional, without classifier-free guidance. Rollouts are deterministic by default.

    | `objective` | function of `maths.matching` | source | bounded by |
    |---|---|---|---|
    | nft | `negative_aware` | DiffusionNFT, arXiv 2509.16117 | the negative branch; `beta` |
    | awm | `advantage_weighted` | AWM, arXiv 2509.25050 | `ratio_clip`, if it is given |
    | epg | `elbo_gradient` | EPG, arXiv 2602.04663 | nothing |
    | pepg, par | `proximal_elbo_gradient`, `advantage_regression` | PEPG and PAR, arXiv 2602.04663 | A |
    | ram | `reward_adaptive` | RAM, arXiv 2605.10759 | the anchor; `scale` |
    | rvm | `reward_velocity` | RVM, arXiv 2608.23664 | the anchor; `beta` |

    At the old weights their gradients have one direction. They differ in what a later update of the epoch does, and in
    how they weigh noise levels: nft by the prediction's error, the others by that of the velocity.

    Step credit enters as the density over noise levels: c_i is the mean of |M_i| over the images of the epoch, scaled
    to mean 1 over the steps. `credit.name=uniform` weighs all levels equally.

    Degenerate case: images of advantage 0 only hold the prediction where it was.

    Attributes:
        objective: a name of the table.
        beta: of nft, in (0, 1]: how far the positive and the negative prediction are from the old one. An epoch moves
            the prediction by A / (c beta) of its residual at most. The paper uses 1, and 0.1 for text rendering and
            mixed rewards; on the bundled pipelines 1 learned several times more slowly. Of rvm, above 0: the strength
            of the anchor.
        advantage_clip: c of nft; advantages are cut to +- this for every objective.
        ratio_clip: of awm, above 0: the ratio is clipped to 1 +- this, as in PPO.
        scale: of ram, above 0: m, the step from the anchor per unit of advantage.
        anchor: of ram and rvm: `old` or `reference`.
        replay_epochs: how many earlier epochs are trained again in each epoch, with new noise. Each makes the updates
            as much longer as the images of the epoch itself.
        kl_weight: 0 or more; weight of the mean squared distance from the reference's output.
        kl_space: has to be "prediction" if there is a penalty.
    """

    objective: str = "nft"
    beta: float = 0.1
    advantage_clip: float = 5.0
    ratio_clip: float | None = None
    scale: float = 1.0
    anchor: str = "old"
    kl_weight: float = 0.0
    kl_space: str = "prediction"

    replay_epochs: int = 0

    console: ClassVar[Mapping[str, str]] = {"policy_distance": "moved {:.1e}"}

    def __post_init__(self) -> None:
        for name, value, names in (("objective", self.objective, OBJECTIVES), ("anchor", self.anchor, ANCHORS)):
            if value not in names:
                raise unknown(f"train.options.{name}", str(value), names)
        for name in ("beta", "advantage_clip", "ratio_clip", "scale"):
            value = getattr(self, name)
            if not (name == "ratio_clip" and value is None):
                _require_positive(name, value)
        if self.objective == "nft" and self.beta > 1:
            raise ValueError(f"train.options.beta is {self.beta}, expected a number in (0, 1] for the objective nft")
        if isinstance(self.replay_epochs, bool) or not isinstance(self.replay_epochs, int) or self.replay_epochs < 0:
            raise ValueError(f"train.options.replay_epochs is {self.replay_epochs}, expected an integer of 0 or more")
        if self.kl_weight and self.kl_space != "prediction":
            raise ValueError(
                f"train.kl_space is {self.kl_space}, but matching computes no log-probabilities: set it to prediction"
            )

    @property
    def needs(self) -> Needs:
        return Needs(density=False, old_weights=True, replay_epochs=self.replay_epochs)

    def anchors(self, policy: Policy, batches: Sequence[StepBatch]) -> list[_Anchor]:
        """The predictions of the old weights, and those of the reference, for each batch."""
        if not batches:
            return []
        with torch.no_grad():
            with batches[0].old_weights.active():
                old = [batch.predict(policy, batch.noised_latents, guided=False).x0 for batch in batches]
            if not (self.kl_weight or self._needs_reference):
                return [_Anchor(x0, None, None) for x0 in old]
            with policy.reference():
                found = [batch.predict(policy, batch.noised_latents, guided=False) for batch in batches]
        return [_Anchor(x0, reference.x0, reference.output) for x0, reference in zip(old, found, strict=True)]

    def loss(self, policy: Policy, batch: StepBatch, anchor: _Anchor) -> LossOutput:
        predicted = batch.predict(policy, batch.noised_latents, guided=False)
        total = batch.credit_profile * OBJECTIVES[self.objective](self, self._pairs(batch, predicted.x0, anchor))
        with torch.no_grad():
            moved = loss.prediction_kl(predicted.x0, anchor.old_x0)
        means = {"policy_distance": loss.average(moved, batch.weights)}
        if self.kl_weight and anchor.reference_output is not None:
            divergence = loss.prediction_kl(predicted.output, anchor.reference_output)
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

    @property
    def _needs_reference(self) -> bool:
        return self.anchor == "reference" and self.objective in ("ram", "rvm")

    def _pairs(self, batch: StepBatch, x0: Tensor, anchor: _Anchor) -> _Pairs:
        reference = anchor.reference_x0 if self._needs_reference else None
        return _Pairs(
            x0,
            anchor.old_x0,
            anchor.old_x0 if reference is None else reference,
            batch.final_latents,
            batch.advantages.clamp(-self.advantage_clip, self.advantage_clip),
            batch.sigmas,
        )


def _require_positive(name: str, value: object) -> None:
    """ValueError unless an option is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        where = "train" if name == "advantage_clip" else "train.options"
        raise ValueError(f"{where}.{name} is {value!r}, expected a number above 0")


def _nft(options: Matching, pairs: _Pairs) -> Tensor:
    return matching.negative_aware(
        pairs.x0, pairs.old_x0, pairs.clean, pairs.advantages, options.beta, options.advantage_clip
    )


def _awm(options: Matching, pairs: _Pairs) -> Tensor:
    return matching.advantage_weighted(*_errors(pairs), pairs.advantages, options.ratio_clip)


def _ram(options: Matching, pairs: _Pairs) -> Tensor:
    return matching.reward_adaptive(
        pairs.x0, pairs.old_x0, pairs.anchor_x0, pairs.clean, pairs.advantages, options.scale, pairs.sigmas
    )


def _rvm(options: Matching, pairs: _Pairs) -> Tensor:
    return matching.reward_velocity(
        pairs.x0, pairs.anchor_x0, pairs.clean, pairs.advantages, options.beta, pairs.sigmas
    )


def _errors(pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """E and E_old."""
    return (
        matching.velocity_error(pairs.x0, pairs.clean, pairs.sigmas),
        matching.velocity_error(pairs.old_x0, pairs.clean, pairs.sigmas),
    )


OBJECTIVES: Mapping[str, Callable[[Matching, _Pairs], Tensor]] = {
    "nft": _nft,
    "awm": _awm,
    "epg": lambda _, pairs: matching.elbo_gradient(*_errors(pairs), pairs.advantages),
    "pepg": lambda _, pairs: matching.proximal_elbo_gradient(*_errors(pairs), pairs.advantages),
    "par": lambda _, pairs: matching.advantage_regression(*_errors(pairs), pairs.advantages),
    "ram": _ram,
    "rvm": _rvm,
}
"""The loss of n pairs, (n,), by the name of `objective`."""
