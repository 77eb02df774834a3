"""What the credit rules share: from weights to step advantages, and the similarities that contributions come from."""

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths.credit import (
    contrast_to_group,
    cosine_to_final,
    degenerate_rows,
    scaled_advantages,
    step_advantages,
)
from stepcredit.maths.schedules import mean_one
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
    _require_one_each(trajectory, advantage)
    return step_advantages(advantage, weights.to(advantage.device).expand(len(trajectory), -1), alpha)


def scale(trajectory: Trajectory, advantage: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """M_i = A (alpha + (1 - alpha) m_i), m the weights scaled to mean 1 over the trainable steps and 0 at the others.

    Args:
        trajectory: B trajectories of T steps.
        advantage: (B,).
        weights: (T,) or (B, T), non-negative.
        alpha: in [0, 1]; 1 is exactly the advantage at every step.

    Returns:
        (B, T), float32, on the device of `advantage`.

    Raises:
        ValueError: not one advantage per trajectory.
    """
    _require_one_each(trajectory, advantage)
    factors = mean_one(weights, trajectory.trainable.to(weights.device)).to(advantage.device)
    return scaled_advantages(advantage, factors.expand(len(trajectory), -1), alpha)


def predictions(trajectory: Trajectory) -> Tensor:
    """The clean latents predicted at each step, (B, T, *L).

    Raises:
        InputError: the rollout kept none.
    """
    if trajectory.x0 is None:
        raise InputError("this credit rule needs the predicted clean latents: roll out with keep_x0=True")
    return trajectory.x0


def similarity(trajectory: Trajectory) -> Tensor:
    """Cosine of each step's predicted clean latent to the final latent, (B, T + 1), float32.

    Raises:
        InputError: the rollout kept no predicted clean latents.
    """
    return cosine_to_final(predictions(trajectory), trajectory.final)


def contrast(trajectory: Trajectory) -> Tensor:
    """`similarity` after the mean final latent of the same prompt's group is taken away from both, (B, T + 1), float32.

    Raises:
        InputError: the rollout kept no predicted clean latents.
    """
    return contrast_to_group(predictions(trajectory), trajectory.final, trajectory.prompts)


def similarity_figures(similarity: Tensor, window: int) -> dict[str, float]:
    """Figures of a contribution rule for the metrics file.

    `credit_fallbacks`: trajectories of the batch without a usable gain, which got linear credit.
    `credit_similarity_start`: mean of s_0, how near the first prediction already was to the final latent, in [-1, 1].
    """
    return {
        "credit_fallbacks": int(torch.count_nonzero(degenerate_rows(similarity, window))),
        "credit_similarity_start": float(similarity[:, 0].mean()),
    }


def _require_one_each(trajectory: Trajectory, advantage: Tensor) -> None:
    if advantage.shape != (len(trajectory),):
        raise ValueError(
            f"advantage has shape {tuple(advantage.shape)}, expected ({len(trajectory)},): give one per trajectory"
        )
