"""What a user passes as `reward` in Python: how it is called, and what it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.rewards import as_reward
from stepcredit.rewards.core.definition import make_reward
from stepcredit.rewards.jpeg import JpegCompressibility

IMAGES = torch.stack([torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), 0.5)])


def score(reward: Any) -> list[float]:
    scores: Tensor = as_reward(reward)(IMAGES, ["a", "bb"], [{"count": 3}, {"count": 4}])
    return scores.tolist()


def complaint(reward: Any) -> str:
    with pytest.raises(InputError) as raised:
        as_reward(reward)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def lengths(images: Tensor, prompts: Sequence[str]) -> list[int]:
    return [len(prompt) for prompt in prompts]


def counts(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> list[int]:
    return [row["count"] for row in metadata]


def scaled(images: Tensor, scale: float = 2.0) -> Tensor:
    return images.mean((1, 2, 3)) * scale


def optional_prompts(images: Tensor, prompts: Sequence[str] = ()) -> list[int]:
    return [len(prompt) for prompt in prompts]


def keyword_only(images: Tensor, *, prompts: Sequence[str], metadata: Any = None, **others: Any) -> list[int]:
    return [len(prompt) + row["count"] for prompt, row in zip(prompts, metadata, strict=True)]


def reordered(prompts: Sequence[str], images: Tensor) -> Tensor:
    return images.mean((1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])


def after_an_option(images: Tensor, scale: float = 3.0, prompts: Sequence[str] = ()) -> list[float]:
    return [scale * len(prompt) for prompt in prompts]


async def later(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


class Later:
    async def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


def warmth(images: Tensor) -> Tensor:
    """Has the name of a registered reward."""
    return images.mean((1, 2, 3))


class Contrast:
    def __call__(self, images: Tensor) -> Tensor:
        return images.std((1, 2, 3))

    def mean(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


class Module(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (brightness, [0.25, 0.5]),
        (lengths, [1, 2]),
        (counts, [3, 4]),
        (scaled, [0.5, 1.0]),
        (functools.partial(scaled, scale=4.0), [1.0, 2.0]),
        (optional_prompts, [1, 2]),
        (keyword_only, [4, 6]),
        (reordered, [1.25, 2.5]),
        (after_an_option, [3, 6]),
        (lambda pictures, metadata: [row["count"] for row in metadata], [3, 4]),
        (functools.partial(lengths, prompts=["four"] * 2), [4, 4]),
        (functools.partial(keyword_only, metadata=[{"count": 0}] * 2), [1, 2]),
        (lambda *arguments: arguments[2] and [5, 6], [5, 6]),
        (Contrast(), [0, 0]),
        (Contrast().mean, [0.25, 0.5]),
        (Module(), [0.25, 0.5]),
    ],
)
def test_a_callable_receives_the_arguments_of_its_signature(reward: Callable[..., Any], expected: list[float]) -> None:
    assert score(reward) == expected


@pytest.mark.parametrize(
    ("reward", "name"),
    [
        (brightness, "brightness"),
        (functools.partial(scaled, scale=4.0), "scaled"),
        (lambda images: images.mean((1, 2, 3)), "<lambda>"),
        (Contrast(), "Contrast"),
        (Contrast().mean, "Contrast.mean"),
        (Module(), "Module"),
        (JpegCompressibility(), "JpegCompressibility"),
        ("warmth", "warmth"),
        (RewardSection(name="warmth"), "warmth"),
    ],
)
def test_the_name_is_the_reward_s_own(reward: Any, name: str) -> None:
    assert as_reward(reward).name == name


def test_a_function_is_not_called_like_another_reward() -> None:
    assert as_reward(warmth).name == f"{__name__}:warmth"


def test_a_function_of_a_file_may_take_images_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(images, scale=1.0):\n    return images.mean((1, 2, 3)) * scale\n")
    assert score(f"{tmp_path}/mine.py:score") == [0.25, 0.5]
    section = RewardSection(name=f"{tmp_path}/mine.py:score", options={"scale": 2.0})
    assert score(section) == [0.5, 1.0]


def test_what_a_reward_receives_by_name_is_not_an_option() -> None:
    options = {"scale": 2.0}
    assert make_reward(after_an_option, "mine", options)(IMAGES, ["a", "bb"], []) == [2, 4]  # type: ignore[comparison-overlap]
    for option in ("prompts", "images"):
        with pytest.raises(InputError, match=f"option '{option}'.*known: scale$"):
            make_reward(after_an_option, "mine", {option: 1})


def test_a_reward_is_wrapped_once() -> None:
    reward = as_reward(brightness)
    assert as_reward(reward) is reward


@pytest.mark.parametrize(
    ("reward", "facts"),
    [
        (3, ["3", "int", "callable"]),
        (None, ["None", "NoneType"]),
        ([brightness], ["list", "callable"]),
        (Contrast, ["class Contrast", "Contrast()"]),
        ("wormth", ["wormth", "warmth"]),
        (lambda: 1, ["takes no images"]),
        (lambda images, prompts, metadata, more: 1, ["required argument 'more'"]),
        (lambda images, *, scale: 1, ["required argument 'scale'"]),
        (lambda prompts: 1, ["takes no images"]),
        (lambda metadata, more: 1, ["required argument 'more'"]),
        (lambda self, images: 1, ["'images' as argument 2"]),
        (later, ["'later' is asynchronous"]),
        (Later(), ["'Later' is asynchronous"]),
    ],
)
def test_what_cannot_be_a_reward_is_refused(reward: Any, facts: list[str]) -> None:
    message = complaint(reward)
    assert all(fact in message for fact in facts), message
