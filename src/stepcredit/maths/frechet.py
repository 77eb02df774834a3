"""The Fréchet distance between two sets of points, each taken for a sample of a normal distribution."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def frechet_distance(points: Tensor, reference: Tensor) -> float:
    """|m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)), with means m and covariances C.

    As the Fréchet inception distance (arXiv 1706.08500, equation 6), for any features. It is 0 for equal means and
    covariances. Few points make it too large: about tr(C) / N is added for N points.

    Args:
        points: (N, F), N at least 2.
        reference: (R, F), R at least 2.

    Raises:
        ValueError: fewer than two points, or sets with different numbers of features.
    """
    if points.ndim != 2 or reference.ndim != 2 or points.shape[1] != reference.shape[1]:
        raise ValueError(
            f"points have shape {tuple(points.shape)} and {tuple(reference.shape)}, expected (N, F), (R, F)"
        )
    if min(len(points), len(reference)) < 2:
        raise ValueError(f"{min(len(points), len(reference))} points have no covariance: give at least 2")
    first, second = (rows.detach().double().cpu() for rows in (points, reference))
    own, other = (np.atleast_2d(torch.cov(rows.T).numpy()) for rows in (first, second))
    # tr((C C_r)^(1/2)) is the sum of the roots of the eigenvalues of C_r^(1/2) C C_r^(1/2), which is symmetric
    root = _root(other)
    mixed = np.sqrt(np.linalg.eigvalsh(root @ own @ root).clip(min=0)).sum()
    squared = float((first.mean(0) - second.mean(0)).square().sum())
    return max(squared + float(np.trace(own) + np.trace(other) - 2 * mixed), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    return root
