"""A reward returns one finite number per image, or raises an error that names the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.errors import InputError, RewardError
from stepcredit.rewards import CheckedReward, checked

PROMPTS = ["a cat", "a dog", "a fox"]


def returning(output: Any) -> CheckedReward:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Any:
        if isinstance(output, Exception):
            raise output
        return output

    return checked(reward, "mine")


def score(reward: CheckedReward, prompts: Sequence[str] = PROMPTS) -> Tensor:
    return reward(torch.zeros(len(prompts), 3, 8, 8), prompts, [{}] * len(prompts))


def complaint(output: Any, prompts: Sequence[str] = PROMPTS) -> str:
    with pytest.raises(RewardError) as raised:
        score(returning(output), prompts)
    message = str(raised.value)
    assert "\n" not in message and message.startswith("reward 'mine' ")
    return message.removeprefix("reward 'mine' ")


@pytest.mark.parametrize(
    "output",
    [
        [1, 2.5, -3],
        (1.0, 2.5, -3.0),
        np.array([1, 2.5, -3]),
        np.array([1, 2.5, -3], dtype=np.float16),
        np.array([1, 2.5, -3], dtype=object),
        [np.float32(1), np.float64(2.5), -3],
        torch.tensor([1, 2.5, -3]),
        torch.tensor([1, 2.5, -3], dtype=torch.float64),
        torch.tensor([1, 2.5, -3], dtype=torch.bfloat16, requires_grad=True),
        list(torch.tensor([1, 2.5, -3])),
    ],
    ids=lambda output: type(output).__name__,
)
def test_numbers_of_any_type_become_a_float32_tensor(output: Any) -> None:
    scores = score(returning(output))
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert scores.tolist() == [1, 2.5, -3]


def test_integers_and_booleans_are_numbers() -> None:
    assert score(returning(torch.tensor([3, 0, -1]))).tolist() == [3, 0, -1]
    assert score(returning(np.array([True, False, True]))).tolist() == [1, 0, 1]


def test_a_read_only_array_causes_no_warning() -> None:
    output = np.ones(3)
    output.flags.writeable = False
    assert score(returning(output)).tolist() == [1, 1, 1]


def test_the_scores_are_a_copy() -> None:
    kept = torch.ones(3)
    score(returning(kept)).zero_()
    assert kept.tolist() == [1, 1, 1]


def test_a_reward_runs_without_gradients() -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        assert not torch.is_grad_enabled()
        return images.mean((1, 2, 3))

    assert checked(reward, "mine")(torch.ones(2, 3, 4, 4, requires_grad=True), ["a", "b"], [{}, {}]).tolist() == [1, 1]


def test_a_reward_receives_equal_arguments() -> None:
    images, metadata = torch.rand(2, 3, 4, 4), [{"count": 1}, {"count": 2}]

    def reward(given: Tensor, prompts: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[int]:
        assert torch.equal(given, images) and given.stride() == images.stride()
        assert list(prompts) == ["a", "b"] and list(rows) == metadata
        return [row["count"] for row in rows]

    assert checked(reward, "mine")(images, ["a", "b"], metadata).tolist() == [1, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "shape"),
    [([1.0, 2.0], "(2,)"), (torch.zeros(3, 1), "(3, 1)"), (0.5, "()"), (np.zeros((3, 2)), "(3, 2)"), ([], "(0,)")],
)
def test_wrong_shape(output: Any, shape: str) -> None:
    message = complaint(output)
    assert f"shape {shape}" in message and "expected (3,)" in message


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ([1, float("nan"), 2], "nan"),
        ([1, float("inf"), 2], "inf"),
        (np.array([1, -1e300, 2]), "-inf"),
        (np.ma.masked_array([1, 7, 2], mask=[False, True, False]), "nan"),
    ],
)
def test_a_score_that_is_not_finite(output: Any, value: str) -> None:
    assert complaint(output) == f"returned {value} for 1 of 3 images, first for prompt 'a dog'"


def test_the_first_of_several_offending_prompts_is_named() -> None:
    assert complaint([0, float("nan"), float("inf")]).startswith(
        "returned nan for 2 of 3 images, first for prompt 'a dog'"
    )


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (None, "NoneType"),
        ("good", "str"),
        ({"score": [1, 2, 3]}, "dict"),
        ([1, None, 2], "list"),
        ([[1], [2, 3], [4]], "list"),
        (np.array([1, "two", 3], dtype=object), "ndarray"),
        ((float(score) for score in range(3)), "generator"),
        (PROMPTS, "list"),
    ],
)
def test_what_does_not_convert_to_numbers(output: Any, kind: str) -> None:
    message = complaint(output)
    assert f"a {kind} " in message and "expected one number per image" in message


def test_an_exception_of_the_reward_is_the_cause() -> None:
    error = KeyError("no\nsuch   key")
    assert complaint(error) == r"raised KeyError ('no\nsuch key') on 3 images, first prompt 'a cat'"
    with pytest.raises(RewardError) as raised:
        score(returning(error))
    assert raised.value.__cause__ is error
    assert raised.value.exit_code == 2


def test_an_input_error_of_the_reward_keeps_its_message() -> None:
    assert complaint(InputError("no such model 'x'")) == "failed: no such model 'x'"


def test_a_keyboard_interrupt_is_not_caught() -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(checked(reward, "mine"))


def test_long_prompts_and_messages_are_shortened() -> None:
    assert len(complaint(ValueError("why " * 1000), ["a very\nlong prompt " * 100])) < 500
    assert complaint([float("nan")], ["x" * 1000]).endswith(f"for prompt '{'x' * 77}...'")


def test_an_empty_batch() -> None:
    assert score(returning([]), []).shape == (0,)
    assert complaint(ValueError("empty"), []) == "raised ValueError (empty) on no images"


def test_a_reward_is_wrapped_once() -> None:
    reward = returning([1, 2, 3])
    assert checked(reward, "again") is reward
