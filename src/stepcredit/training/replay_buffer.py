"""The images of earlier epochs, for an algorithm that trains on them again (`Needs.replay_epochs`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from stepcredit.algorithms.minibatch import Experience

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Kept:
    """What is kept of an epoch of N images, those of all processes, on the CPU.

    Attributes:
        final: (N, *L), the clean latents that the images were decoded from.
        advantages: (N,).
        step_advantages: (N, T).
    """

    final: Tensor
    advantages: Tensor
    step_advantages: Tensor


Remake = Callable[[int, Kept], Experience]
"""(epoch, what is kept of it) -> its experience. It samples the epoch again, because a checkpoint has no encodings."""


class ReplayBuffer:
    """The last `epochs` epochs. It is part of checkpoints. With 0 epochs it keeps nothing."""

    def __init__(self, epochs: int) -> None:
        self._size = epochs
        self._kept: dict[int, Kept] = {}
        self._experiences: dict[int, Experience] = {}

    def add(self, epoch: int, experience: Experience, advantages: Tensor, step_advantages: Tensor) -> None:
        """Keep an epoch that was trained, and drop the oldest.

        Args:
            experience: of this process.
            advantages, step_advantages: (N,) and (N, T), of the images of all processes.
        """
        if not self._size:
            return
        final = experience.partition.gather(experience.trajectory.final).cpu()
        self._kept[epoch] = Kept(final, advantages.cpu(), step_advantages.cpu())
        self._experiences[epoch] = _only_final(experience)
        for old in sorted(self._kept)[: -self._size]:
            del self._kept[old]
            self._experiences.pop(old, None)

    def experiences(self, epoch: int, present: Experience, remake: Remake) -> dict[int, Experience]:
        """The kept epochs by number, to be trained in `epoch` in addition to the `present` one.

        Their predictions are compared with those of the present old weights. Noise and steps are drawn anew.
        """
        for kept in self._kept.keys() - self._experiences.keys():
            self._experiences[kept] = _only_final(remake(kept, self._kept[kept]))
        return {kept: _redrawn(self._experiences[kept], epoch, epoch - kept, present) for kept in sorted(self._kept)}

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{epoch}.{name}": getattr(kept, name)
            for epoch, kept in self._kept.items()
            for name in Kept.__annotations__
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. A buffer of fewer epochs takes the newest."""
        epochs = sorted({int(key.partition(".")[0]) for key in state})
        newest = epochs[-self._size :] if self._size else []
        self._kept = {
            epoch: Kept(**{name: state[f"{epoch}.{name}"] for name in Kept.__annotations__}) for epoch in newest
        }
        self._experiences = {}


def _only_final(experience: Experience) -> Experience:
    """The experience without what only its first training needs."""
    trajectory = experience.trajectory
    small = replace(trajectory, latents=trajectory.latents[:, -1:].clone(), x0=None)
    return replace(experience, trajectory=small, old_weights=None)


def _redrawn(experience: Experience, epoch: int, age: int, present: Experience) -> Experience:
    seeds = [int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]) for seed in experience.seeds]
    sampled = experience.sampled
    if sampled is not None:
        sampled = replace(sampled, starts=(sampled.starts + age * _GOLDEN) % 1)
    return replace(experience, seeds=seeds, sampled=sampled, old_weights=present.old_weights)
