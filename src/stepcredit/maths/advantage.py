"""Standardizing rewards and step advantages, per prompt.

Statistics are taken in float64 on the CPU, with the population standard deviation; results are float32 on the device of
the input. A set of equal values has mean exactly that value and spread exactly 0, so its advantages are exactly 0.
Values that differ by much less than EPSILON count as nearly equal: their advantages are (r - mean) / EPSILON, near 0.
Any float32 is small enough to be squared here; float64 beyond 1e150 is not.
"""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims

EPSILON = 1e-6
"""Added to every standard deviation before dividing, as in the released code."""


def standardize(rewards: Tensor, eps: float = EPSILON) -> Tensor:
    """(r - mean) / (std + eps) over the whole batch.

    Args:
        rewards: (B,), finite.

    Returns:
        (B,), float32. All 0 for one reward or equal rewards.

    Raises:
        ValueError: not (B,) with B >= 1, or not finite.
    """
    require_dims("rewards", rewards, 1, "(B,)")
    values = _values("rewards", rewards)
    mean, std = _moments(values)
    return _like(rewards, (values - mean) / (std + eps))


def group_advantages(rewards: Tensor, groups: Sequence[str], eps: float = EPSILON) -> Tensor:
    """Standardize each group of the batch by itself, with no memory: GRPO (arXiv 2402.03300), section 4.1.2.

    Args:
        rewards: (B,), finite.
        groups: B names, usually the prompts; equal names form a group and need not be adjacent.

    Returns:
        (B,), float32. 0 in a group of one or of equal rewards.

    Raises:
        ValueError: not (B,) with B >= 1, not finite, or not one name per reward.
    """
    require_dims("rewards", rewards, 1, "(B,)")
    values = _values("rewards", rewards)
    result = torch.empty_like(values)
    for rows in _rows("groups", groups, len(values)).values():
        mean, std = _moments(values[rows])
        result[rows] = (values[rows] - mean) / (std + eps)
    return _like(rewards, result)


class StepStatistics:
    """The second standardization of CoCA: step advantages, pooled per prompt over trajectories *and* steps.

    Each trajectory n leaves its mean mu_n and population std s_n over steps in its prompt's buffer. With at least
    `min_count` trajectories buffered, the new ones included,

        mean = E[mu_n],   var = E[mu_n^2 + s_n^2] - mean^2

    are the moments of all buffered (trajectory, step) entries, for equal step counts; the variance is computed in the
    equal form Var[mu_n] + E[s_n^2], which cannot turn negative. With fewer, the moments of all entries of the current
    batch are used. Then M <- (M - mean) / (std + 1e-6).

    Never per timestep: a multiplier shared by all trajectories at step i scales both M_i and its spread, so dividing by
    that spread removes exactly the credit the rule assigned.

    Differs from the released `update_temporal_rewards` of `stat_tracking.py`, which reads only the oldest pair in the
    buffer and counts arrays instead of trajectories. This is what the CoCA code intends.

    With several processes, feed the gathered batch in the same order on each.

    Args:
        buffer_size: trajectories remembered per prompt; the newest stay.
        min_count: trajectories needed before a prompt uses its own statistics.

    Raises:
        ValueError: either is below 1.

    Degenerate: entries that are all equal give 0. With more trajectories of a prompt in a batch than `buffer_size`, the
    first of them are compared with a buffer they are not in, and where that has no spread come out as large as their
    distance from it over 1e-6: finite, and left to `train.advantage_clip`.
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
        values = _values("step_advantages", step_advantages)
        result = torch.empty_like(values)
        batch = _moments(values.flatten())
        for prompt, rows in _rows("prompts", prompts, len(values)).items():
            mean, std = self._remember(prompt, values[rows]) or batch
            result[rows] = (values[rows] - mean) / (std + EPSILON)
        return _like(step_advantages, result)

    def state_dict(self) -> dict[str, list[list[float]]]:
        """Return {prompt: [[mu_n, s_n], ...]}, oldest first; JSON keeps it exactly."""
        return {prompt: [list(pair) for pair in pairs] for prompt, pairs in self._trajectories.items()}

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        """Replace the buffers by those of `state_dict`; the newest `buffer_size` trajectories of each are kept.

        Raises ValueError or TypeError, and keeps the buffers, for what `state_dict` cannot have given.
        """
        self._trajectories = {
            prompt: deque(((_finite(mu), _finite(s)) for mu, s in pairs), maxlen=self.buffer_size)
            for prompt, pairs in state.items()
        }

    def _remember(self, prompt: str, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Buffer the trajectories `values` (N, T); return the prompt's pooled moments once there are enough."""
        buffer = self._trajectories.setdefault(prompt, deque(maxlen=self.buffer_size))
        means, stds = _moments(values)
        buffer.extend(zip(means.tolist(), stds.tolist(), strict=True))
        if len(buffer) < self.min_count:
            return None
        mus, spreads = torch.tensor(list(buffer), dtype=torch.float64).unbind(1)
        mean, between = _moments(mus)
        return mean, (between**2 + (spreads**2).mean()).sqrt()


class PromptStatistics:
    """Per-prompt standardization of rewards over a running buffer: DDPO's tracker, as in CoCA's `stat_tracking.py`.

    A prompt with at least `min_count` rewards buffered, the new ones included, uses the mean and std of its buffer; any
    other uses those of the current batch, all prompts together. A = (r - mean) / (std + 1e-6).

    This is `StepStatistics` for trajectories of one step. With several processes, feed the gathered batch in the same
    order on each.

    Args:
        buffer_size: rewards remembered per prompt; the newest stay.
        min_count: rewards needed before a prompt uses its own statistics. Above `buffer_size` it never does.

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
        raise ValueError(f"{value!r} is no statistic, expected a finite number")
    return float(value)


def _values(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` as float64 on the CPU, after checking that it has entries and all are finite."""
    if tensor.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected at least one entry")
    values = tensor.detach().cpu().double()
    if not values.isfinite().all():
        rows = sorted(set((~values.isfinite()).nonzero()[:, 0].tolist()))
        raise ValueError(f"{name} is not finite in rows {rows}, expected numbers: repair or drop those trajectories")
    return values


def _rows(name: str, names: Sequence[str], count: int) -> dict[str, list[int]]:
    """Return {name: its row indices}, in order of first appearance."""
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"{name} has {len(names)} names for {count} trajectories: give a list with one name for each")
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(names):
        rows.setdefault(key, []).append(row)
    return rows


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population std over the last dimension, exact where all values are equal."""
    constant = values.amax(-1) == values.amin(-1)
    mean = torch.where(constant, values[..., 0], values.mean(-1))
    std = values.std(-1, correction=0).masked_fill(constant, 0.0)
    return mean, std


def _like(source: Tensor, values: Tensor) -> Tensor:
    return values.float().to(source.device)
