"""Standardization per prompt over a running buffer of earlier epochs."""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims
from stepcredit.maths._moments import EPSILON, as_float, checked_values, moments, rows_by_name


class StepStatistics:
    """The second standardization of CoCA: step advantages, pooled per prompt over trajectories *and* steps.

    The buffer of a prompt holds, for each trajectory n, the mean mu_n and the population std s_n over its steps. With
    at least `min_count` trajectories in the buffer, including the new ones,

        mean = E[mu_n],   var = E[mu_n^2 + s_n^2] - mean^2

    are the moments of all buffered (trajectory, step) entries, for equal numbers of steps. The variance is computed as
    Var[mu_n] + E[s_n^2], which is equal and cannot be negative. With fewer trajectories, the moments of the whole
    current batch are used. Then M <- (M - mean) / (std + 1e-6).

    The statistics are never per step: a factor that all trajectories share at step i scales both M_i and its std, so a
    division by that std would remove the credit.

    Source: CoCA. The released `update_temporal_rewards` of `stat_tracking.py` reads only the oldest pair in the buffer
    and counts arrays instead of trajectories; this class does what that code intends.

    With several processes, pass the gathered batch in the same order on each.

    Args:
        buffer_size: number of trajectories in the buffer of a prompt; the oldest are dropped.
        min_count: number of trajectories in its buffer from which on a prompt uses its own statistics.

    Raises:
        ValueError: either is below 1.

    Degenerate: equal entries give 0. If a batch has more trajectories of a prompt than `buffer_size`, the first of them
    are no longer in the buffer that they are compared with. If this buffer has std 0, their result is their distance
    from its mean divided by 1e-6, which is finite and which `train.advantage_clip` limits.
    """

    def __init__(self, buffer_size: int = 32, min_count: int = 16) -> None:
        if buffer_size < 1 or min_count < 1:
            raise ValueError(f"buffer_size is {buffer_size} and min_count is {min_count}, expected both at least 1")
        self.buffer_size = buffer_size
        self.min_count = min_count
        self._trajectories: dict[str, deque[tuple[float, float]]] = {}

    def update(self, prompts: Sequence[str], step_advantages: Tensor) -> Tensor:
        """Add a batch to the buffers and standardize it.

        Args:
            prompts: B prompts.
            step_advantages: (B, T), finite.

        Returns:
            (B, T), float32.

        Raises:
            ValueError: not (B, T) with at least one entry, not finite, or not one prompt per trajectory. The buffers
                are then unchanged.
        """
        require_dims("step_advantages", step_advantages, 2, "(B, T)")
        values = checked_values("step_advantages", step_advantages)
        result = torch.empty_like(values)
        batch = moments(values.flatten())
        for prompt, rows in rows_by_name("prompts", prompts, len(values)).items():
            mean, std = self._remember(prompt, values[rows]) or batch
            result[rows] = (values[rows] - mean) / (std + EPSILON)
        return as_float(step_advantages, result)

    def state_dict(self) -> dict[str, list[list[float]]]:
        """Return {prompt: [[mu_n, s_n], ...]}, oldest first; JSON keeps it exactly."""
        return {prompt: [list(pair) for pair in pairs] for prompt, pairs in self._trajectories.items()}

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        """Replace the buffers by those of `state_dict`, but keep only the newest `buffer_size` trajectories of each.

        Raises ValueError or TypeError for an invalid state; the buffers then do not change.
        """
        self._trajectories = {
            prompt: deque(((_finite(mu), _finite(s)) for mu, s in pairs), maxlen=self.buffer_size)
            for prompt, pairs in state.items()
        }

    def _remember(self, prompt: str, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Buffer the trajectories `values` (N, T). Returns the prompt's moments, or None with too few trajectories."""
        buffer = self._trajectories.setdefault(prompt, deque(maxlen=self.buffer_size))
        means, stds = moments(values)
        buffer.extend(zip(means.tolist(), stds.tolist(), strict=True))
        if len(buffer) < self.min_count:
            return None
        mus, spreads = torch.tensor(list(buffer), dtype=torch.float64).unbind(1)
        mean, between = moments(mus)
        return mean, (between**2 + (spreads**2).mean()).sqrt()


class PromptStatistics:
    """Per-prompt standardization of rewards over a running buffer: DDPO's tracker, as in CoCA's `stat_tracking.py`.

    A prompt with at least `min_count` rewards in its buffer, including the new ones, uses the mean and std of its
    buffer. Any other prompt uses those of the whole current batch. A = (r - mean) / (std + 1e-6).

    This is `StepStatistics` for trajectories of one step. With several processes, pass the gathered batch in the same
    order on each.

    Args:
        buffer_size: number of rewards in the buffer of a prompt; the oldest are dropped.
        min_count: number of rewards in its buffer from which on a prompt uses its own statistics. Above
            `buffer_size` it never does.

    Raises:
        ValueError: either is below 1.

    Degenerate: equal rewards give 0; for a batch longer than the buffer see `StepStatistics`.
    """

    def __init__(self, buffer_size: int = 32, min_count: int = 16) -> None:
        self._statistics = StepStatistics(buffer_size, min_count)

    def update(self, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """Add a batch to the buffers and return its advantages.

        Args:
            prompts: B prompts.
            rewards: (B,), finite.

        Returns:
            (B,), float32.

        Raises:
            ValueError: not (B,) with B >= 1, not finite, or not one prompt per reward. The buffers are then unchanged.
        """
        require_dims("rewards", rewards, 1, "(B,)")
        return self._statistics.update(prompts, rewards.unsqueeze(1)).squeeze(1)

    def state_dict(self) -> dict[str, list[float]]:
        """Return {prompt: [reward, ...]}, oldest first; JSON keeps it exactly."""
        return {prompt: [mu for mu, _ in pairs] for prompt, pairs in self._statistics.state_dict().items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Replace the buffers by those of `state_dict`; the newest `buffer_size` rewards of each prompt are kept."""
        self._statistics.load_state_dict({prompt: [[r, 0.0] for r in rewards] for prompt, rewards in state.items()})


def _finite(value: float) -> float:
    if isinstance(value, bool | str) or not math.isfinite(value):
        raise ValueError(f"statistic {value!r}, expected a finite number")
    return float(value)
