"""The images of earlier epochs, for an algorithm that trains on them again (`Needs.replay_epochs`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from torch import Tensor

from stepcredit.algorithms.minibatch import Experience
from stepcredit.config import SampleSection
from stepcredit.types import Prompt

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Kept:
    """What is kept of an epoch of N images, those of all processes, on the CPU.

    Attributes:
        final: (N, *L), the clean latents that the images were decoded from.
        advantages: (N,).
        step_advantages: (N, T).
        origin: a digest of the prompts and settings that the images were sampled with, see `origin_of`.
    """

    final: Tensor
    advantages: Tensor
    step_advantages: Tensor
    origin: str


_TENSORS = ("final", "advantages", "step_advantages")

Remake = Callable[[int, Kept], Experience | None]
"""(epoch, what is kept of it) -> its experience; None if the run would now sample other images in that epoch.

It samples the epoch again, because a checkpoint has no encodings.
"""


def origin_of(prompts: Sequence[Prompt], sample: SampleSection) -> str:
    """SHA-256 of the prompts of an epoch, one per image, and of the settings that decide what is sampled."""
    settings = sample.model_dump_json(exclude={"batch", "evaluation_steps", "evaluation_noise"})
    return sha256(json.dumps([settings, *(prompt.text for prompt in prompts)]).encode()).hexdigest()


class ReplayBuffer:
    """The last `epochs` epochs. It is part of checkpoints. With 0 epochs it keeps nothing."""

    def __init__(self, epochs: int) -> None:
        self._size = epochs
        self._kept: dict[int, Kept] = {}
        self._experiences: dict[int, Experience] = {}

    def add(self, epoch: int, experience: Experience, advantages: Tensor, step_advantages: Tensor, origin: str) -> None:
        """Keep an epoch that was trained, and drop the oldest.

        Args:
            experience: of this process.
            advantages, step_advantages: (N,) and (N, T), of the images of all processes.
            origin: see `Kept`.
        """
        if not self._size:
            return
        final = experience.partition.gather(experience.trajectory.final).cpu()
        self._kept[epoch] = Kept(final, advantages.cpu(), step_advantages.cpu(), origin)
        self._experiences[epoch] = _only_final(experience)
        for old in sorted(self._kept)[: -self._size]:
            del self._kept[old]
            self._experiences.pop(old, None)

    def experiences(self, epoch: int, present: Experience, remake: Remake) -> dict[int, Experience]:
        """The kept epochs by number, to be trained in `epoch` in addition to the `present` one.

        Their predictions are compared with those of the present old weights. Noise and steps are drawn anew.
        """
        for kept in sorted(self._kept.keys() - self._experiences.keys()):
            remade = remake(kept, self._kept[kept])
            if remade is None:
                del self._kept[kept]
            else:
                self._experiences[kept] = _only_final(remade)
        return {kept: _redrawn(self._experiences[kept], epoch, epoch - kept, present) for kept in sorted(self._kept)}

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors of each epoch, as `EPOCH.NAME`."""
        return {f"{epoch}.{name}": getattr(kept, name) for epoch, kept in self._kept.items() for name in _TENSORS}

    def origins(self) -> dict[str, str]:
        """The origin of each epoch."""
        return {str(epoch): kept.origin for epoch, kept in self._kept.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], origins: Mapping[str, str]) -> None:
        """Restore what `state_dict` and `origins` returned. A buffer of fewer epochs takes the newest."""
        newest = sorted(map(int, origins))[-self._size :] if self._size else []
        self._kept = {
            epoch: Kept(**{name: tensors[f"{epoch}.{name}"] for name in _TENSORS}, origin=origins[str(epoch)])
            for epoch in newest
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
