"""Training on some of the steps of each image, drawn at random (`train.sampled_steps`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.config import TrainSection
from stepcredit.maths.step_sampling import inclusion_probabilities, systematic_draw
from stepcredit.utils.seeds import Stream, epoch_generator


@dataclass(frozen=True)
class SampledSteps:
    """`count` trained steps for each image of an epoch, see `maths.step_sampling`.

    Attributes:
        scores: (B, T), what their probabilities are made of.
        trainable: (T,) bool.
        starts: (B,), uniform in [0, 1), one random number per image.
    """

    count: int
    scores: Tensor
    trainable: Tensor
    starts: Tensor

    def weights(self, group: Tensor, *, shared: bool) -> Tensor:
        """(B, T) float32 on the CPU: 1 / pi where a step of `group` is drawn, 0 elsewhere.

        Args:
            group: images of one update.
            shared: one draw of steps for all of them, by the mean of their scores and the first one's random number,
                for a policy that replays one step at a time.
        """
        scores, starts = self.scores[group], self.starts[group]
        if shared:
            scores, starts = scores.mean(0, keepdim=True), starts[:1]
        probabilities = inclusion_probabilities(scores, self.trainable, self.count)
        drawn = systematic_draw(probabilities, starts)
        weights = torch.zeros(self.scores.shape)
        weights[group] = torch.where(drawn, 1 / probabilities.masked_fill(~drawn, 1), 0).float()
        return weights


def sample_steps(
    section: TrainSection, trainable: Tensor, scores: Tensor, run_seed: int, epoch: int
) -> SampledSteps | None:
    """The steps that an epoch trains on as `section` asks for them; None where it trains on every trained step.

    Args:
        trainable: (T,) bool.
        scores: (B, T), `Algorithm.step_scores` of all images of the epoch, which `step_sampling=credit` draws by.
    """
    count, trainable = section.sampled_steps, trainable.cpu()
    if count is None or count >= int(trainable.sum()):
        return None
    if section.step_sampling == "uniform":
        scores = trainable.double().expand(len(scores), -1)
    starts = epoch_generator(run_seed, Stream.STEPS, epoch).random(len(scores))
    return SampledSteps(count, scores, trainable, torch.from_numpy(starts))
