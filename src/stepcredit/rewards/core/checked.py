"""The gate every reward passes through: B finite scores, or one clear line."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stepcredit.errors import InputError, RewardError, shortened
from stepcredit.rewards.core.scores import Scores

MOST_SCORES = 2**20
"""Numbers that a reward may return, whatever they are: far more than any batch has images."""


class Scorer(Protocol):
    """A RewardFunction, or a mixture, which returns the scores of its components as well."""

    def __call__(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]
    ) -> Tensor | Scores: ...


@dataclass(frozen=True)
class CheckedReward:
    """A reward whose scores are verified at every call.

    Attributes:
        reward: the reward itself. It may return a tensor on any device, an array or a sequence, of numbers, or Scores.
        name: what errors call it.
    """

    reward: Scorer
    name: str

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """Score B images without gradients.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B texts.
            metadata: B dicts from the prompt source.

        Returns:
            (B,), float32, on the CPU, finite; not a view of anything the reward keeps.

        Raises:
            RewardError: one line with the reward's name, what was wrong and the first prompt concerned. What the reward
                itself raised is its cause.
        """
        return self.scores(images, prompts, metadata).values

    def scores(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """The same, with the scores of each component where the reward is a mixture; errors name the component."""
        output = self._call(images, prompts, metadata)
        if not isinstance(output, Scores):
            return Scores(self._verified(output, prompts))
        components = {
            name: replace(component, scores=self._verified(component.scores, prompts, f"for component '{name}' "))
            for name, component in output.components.items()
        }
        return Scores(self._verified(output.values, prompts), components)

    def _verified(self, output: Any, prompts: Sequence[str], where: str = "") -> Tensor:
        scores = self._numbers(output, where)
        if scores.shape != (len(prompts),):
            remedy = "return one number per image, in the order of the images"
            found = f"scores of shape {tuple(scores.shape)}"
            raise self._error(f"returned {where}{found}, expected ({len(prompts)},): {remedy}")
        wrong = (~scores.isfinite()).nonzero().flatten().tolist()
        if wrong:
            value, prompt = scores[wrong[0]].item(), shortened(prompts[wrong[0]])
            count = f"{len(wrong)} of {len(prompts)} images"
            raise self._error(f"returned {where}{value} for {count}, first for prompt {prompt!r}")
        return scores

    def _call(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Any:
        try:
            with torch.no_grad():
                return self.reward(images, prompts, metadata)
        except (InputError, RewardError) as error:
            raise self._error(f"failed: {error}") from error
        except (Exception, SystemExit) as error:
            where = f"on {len(prompts)} images, first prompt {shortened(prompts[0])!r}" if prompts else "on no images"
            raise self._error(f"raised {type(error).__name__} ({_said(error, 300)}) {where}") from error

    def _numbers(self, output: Any, where: str) -> Tensor:
        try:
            _require_small(output)
            # An array is copied first: torch warns of one that is read-only.
            tensor = torch.as_tensor(output.copy() if isinstance(output, np.ndarray) else output)
            if tensor.is_complex():
                raise TypeError("complex numbers")
            return tensor.detach().to("cpu", torch.float32, copy=True)
        except Exception as error:  # what converts itself may raise anything
            found = f"a {type(output).__name__} that does not convert to numbers ({_said(error, 200)})"
            raise self._error(f"returned {where}{found}, expected one number per image") from error

    def _error(self, what: str) -> RewardError:
        return RewardError(f"reward '{self.name}' {what}")


def checked(reward: Scorer, name: str) -> CheckedReward:
    """`reward` behind a CheckedReward that errors call `name`; one that is behind it already is returned as it is."""
    return reward if isinstance(reward, CheckedReward) else CheckedReward(reward, name)


def _require_small(output: Any) -> None:
    """ValueError for what would take minutes or all memory to copy, as a tensor expanded from one number."""
    if isinstance(output, Tensor):
        size = output.numel()
    elif isinstance(output, np.ndarray):
        size = output.size
    else:
        size = len(output) if isinstance(output, Sized) else 0
    if size > MOST_SCORES:
        raise ValueError(f"it holds {size} of them")


def _said(error: BaseException, width: int) -> str:
    """What an exception says, or that it cannot."""
    try:
        return shortened(str(error), width)
    except Exception:  # the reward's own error type may have any __str__
        return "it cannot be printed"
