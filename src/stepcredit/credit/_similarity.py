"""What the contribution rules share: similarities of predicted clean latents to the final latent."""

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths.credit import contrast_to_group, cosine_to_final, degenerate_rows
from stepcredit.types import Trajectory


def predictions(trajectory: Trajectory) -> Tensor:
    """The clean latents predicted at each step, (B, T, *L). Raises InputError if the rollout did not record them."""
    if trajectory.x0 is None:
        raise InputError("this credit rule needs the predicted clean latents: roll out with keep_x0=True")
    return trajectory.x0


def similarity(trajectory: Trajectory) -> Tensor:
    """Cosine of each step's predicted clean latent to the final latent, (B, T + 1), float32."""
    return cosine_to_final(predictions(trajectory), trajectory.final)


def contrast(trajectory: Trajectory) -> Tensor:
    """`similarity` after subtracting from both the mean final latent of the same prompt's images, (B, T + 1)."""
    return contrast_to_group(predictions(trajectory), trajectory.final, trajectory.prompts)


def similarity_metrics(similarity: Tensor, window: int) -> dict[str, float]:
    """Values of a contribution rule for metrics.jsonl.

    `credit_fallbacks`: number of trajectories without a usable gain, which get `linear` credit.
    `credit_similarity_start`: mean of s_0, the similarity of the first prediction to the final latent, in [-1, 1].
    """
    return {
        "credit_fallbacks": int(torch.count_nonzero(degenerate_rows(similarity, window))),
        "credit_similarity_start": float(similarity[:, 0].mean()),
    }
