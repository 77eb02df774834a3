"""Every reward is called through CheckedReward: it returns B finite scores or raises a RewardError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stepcredit.errors import InputError, RewardError, caused_by, shortened
from stepcredit.rewards.core.copies import copied_metadata
from stepcredit.rewards.core.scores import Scores
from stepcredit.utils.global_state import RandomState, settings_restored


class Scorer(Protocol):
    """A RewardFunction, or a mixture, which also returns the scores of its components."""

    def __call__(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]
    ) -> Tensor | Scores: ...


@dataclass(frozen=True)
class CheckedReward:
    """A reward whose scores are verified at every call, and whose calls change nothing outside it.

    The reward receives copies, so it may normalize the images in place, sort the prompts or pop keys of the metadata.
    Settings of torch, numpy and the process that it changes are restored after the call, see `settings_restored`. Its
    random numbers continue from call to call, and do not affect any others.

    Attributes:
        reward: returns one number per image as a tensor on any device, an array or a sequence; or Scores.
        name: what errors, metrics and reports call it.
        copies_arguments: False for a reward that is known to leave its arguments as they are.
        pass_score: an image with at least this score counts as correct; None if the reward has no such score.
    """

    reward: Scorer
    name: str
    copies_arguments: bool = True
    pass_score: float | None = None
    _random: RandomState = field(default_factory=RandomState, init=False, repr=False, compare=False)
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """Score B images without gradients. The arguments stay as they are.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B texts.
            metadata: B dicts from the prompt source.

        Returns:
            (B,), float32, on the CPU, finite; a copy of what the reward returned.

        Raises:
            RewardError: the reward raised an exception, which is the cause of the error, or did not return B finite
                numbers. The message has the reward's name and the first prompt concerned.
        """
        return self.scores(images, prompts, metadata).values

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """As `__call__`, with the scores of each component if the reward is a mixture."""
        output = self._call(images, prompts, metadata)
        if not isinstance(output, Scores):
            return Scores(self._verified(output, prompts))
        components = {
            name: replace(component, scores=self._verified(component.scores, prompts, f"for component '{name}' "))
            for name, component in output.components.items()
        }
        return Scores(self._verified(output.values, prompts), components)

    def passed(self, scores: Tensor) -> Tensor | None:
        """Which of scores (...) reach the pass score, (...) bool; None without a pass score."""
        return None if self.pass_score is None else scores >= self.pass_score

    def _call(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Any:
        if self.copies_arguments:
            images, prompts, metadata = images.detach().clone(), list(prompts), copied_metadata(metadata)
        try:
            with settings_restored(f"reward '{self.name}'", self._warned), self._random.active(), torch.no_grad():
                return self.reward(images, prompts, metadata)
        except (InputError, RewardError) as error:
            raise self._error(f"failed: {error}") from error
        except (Exception, SystemExit) as error:
            batch = f"on {len(prompts)} images, first prompt {shortened(prompts[0])!r}" if prompts else "on no images"
            problem = self._error(f"raised {type(error).__name__} ({shortened(str(error), 300)}) {batch}")
            raise caused_by(error, problem) from error

    def _verified(self, output: Any, prompts: Sequence[str], component: str = "") -> Tensor:
        scores = self._to_tensor(output, component)
        if scores.shape != (len(prompts),):
            raise self._error(
                f"returned {component}scores of shape {tuple(scores.shape)}, expected ({len(prompts)},): return one "
                "number per image, in the order of the images"
            )
        wrong = (~scores.isfinite()).nonzero().flatten().tolist()
        if wrong:
            value, prompt = scores[wrong[0]].item(), shortened(prompts[wrong[0]])
            count = f"{len(wrong)} of {len(prompts)} images"
            raise self._error(f"returned {component}{value} for {count}, first for prompt {prompt!r}")
        return scores

    def _to_tensor(self, output: Any, component: str) -> Tensor:
        try:
            tensor = torch.as_tensor(_array(output) if isinstance(output, np.ndarray) else output)
            if tensor.is_complex() or tensor.is_nested:
                raise TypeError("they are complex or nested")
            tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
            return tensor.detach().to("cpu", torch.float32, copy=True)
        except Exception as error:  # a sequence of the user's own may raise anything
            raise self._error(
                f"returned {component}a {type(output).__name__} that does not convert to numbers "
                f"({shortened(str(error), 200)}), expected one number per image"
            ) from error

    def _error(self, problem: str) -> RewardError:
        return RewardError(f"reward '{self.name}' {problem}")


def _array(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy, because torch warns of read-only arrays such as those of JAX. Masked scores are NaN, objects numbers."""
    if isinstance(scores, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(scores.astype(float), np.nan))
    return np.array(scores, dtype=float if scores.dtype == object else None)


def checked(reward: Scorer, name: str, pass_score: float | None = None) -> CheckedReward:
    """`reward` as a CheckedReward called `name`; a CheckedReward is returned unchanged."""
    return reward if isinstance(reward, CheckedReward) else CheckedReward(reward, name, pass_score=pass_score)
