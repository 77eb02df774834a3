"""What the credit rules share: from weights to step advantages, and the similarity that contributions come from."""

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths.credit import cosine_to_final, degenerate_rows, step_advantages
from stepcredit.types import Trajectory


def spread(trajectory: Trajectory, advantage: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """M_i = A (alpha + (1 - alpha) sum over j >= i of w_j), one row per trajectory.

    Args:
        trajectory: B trajectories of T steps.
        advantage: (B,).
        weights: (B, T) or (1, T), rows sum to 1.
        alpha: in [0, 1]; 1 is exactly the advantage at every step.

    Returns:
        (B, T), float32, on the device of `advantage`.

    Raises:
        ValueError: not one advantage per trajectory.
    """
    if advantage.shape != (len(trajectory),):
        raise ValueError(
            f"advantage has shape {tuple(advantage.shape)}, expected ({len(trajectory)},): give one per trajectory"
        )
    return step_advantages(advantage, weights.to(advantage.device).expand(len(trajectory), -1), alpha)


def similarity(trajectory: Trajectory) -> Tensor:
    """Cosine of each step's predicted clean latent to the final latent, (B, T + 1), float32.

    Raises:
        InputError: the rollout kept no predicted clean latents.
    """
    if trajectory.x0 is None:
        raise InputError("this credit rule needs the predicted clean latents: roll out with keep_x0=True")
    return cosine_to_final(trajectory.x0, trajectory.final)


def similarity_figures(similarity: Tensor, window: int) -> dict[str, float]:
    """Figures of a contribution rule for the metrics file.

    `credit_fallbacks`: trajectories of the batch without a usable gain, which got linear credit.
    `credit_similarity_start`: mean of s_0, how near the first prediction already was to the final latent, in [-1, 1].
    """
    return {
        "credit_fallbacks": float(torch.count_nonzero(degenerate_rows(similarity, window))),
        "credit_similarity_start": float(similarity[:, 0].mean()),
    }
