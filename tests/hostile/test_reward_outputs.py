"""What a reward may return, raise or do instead of scoring."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.hostile.trials import REFUSED, WORKS, cases, outcome_of, record, survive
from tests.hostile.values import JSON_VALUES, NUMBERS, TEXT

from stepcredit.rewards import checked

WHAT = "reward output"
PROMPTS = ["a red fox", "<script>\ud800\0"]
IMAGES = torch.zeros(2, 3, 4, 4)


def scored(output: Any) -> None:
    """Put `output` through the gate; what passes is what training may rely on."""
    scores = checked(lambda images, prompts, metadata: output, "mine")(IMAGES, PROMPTS, [{}, {}])
    assert scores.shape == (2,) and scores.dtype == torch.float32 and scores.isfinite().all()
    assert not scores.requires_grad and scores.device.type == "cpu"


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]
FLOATS = st.floats() | st.sampled_from([1e38, -1e39, 1e308, 5e-324, float("nan"), float("inf")])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3) | st.just([2]))
    values = [draw(FLOATS) for _ in range(int(np.prod(shape)))]
    tensor = torch.tensor(values, dtype=torch.float64).nan_to_num_() if draw(st.booleans()) else torch.tensor(values)
    tensor = tensor.reshape(shape).to(draw(st.sampled_from([*DTYPES, torch.complex64])))
    if draw(st.booleans()) and tensor.is_floating_point():
        tensor.requires_grad_()
    return tensor


@cases(fast=30, slow=1000)
def test_any_tensor(cases: int) -> None:
    found = survive(WHAT, "tensors of every shape, dtype and value", cases, tensors(), scored)
    assert found[WORKS] and found[REFUSED]


@cases(fast=30, slow=700)
def test_any_array(cases: int) -> None:
    kinds = arrays.scalar_dtypes() | arrays.byte_string_dtypes() | arrays.unicode_string_dtypes()
    strategy = arrays.arrays(kinds, st.just((2,)) | arrays.array_shapes(min_side=0, max_dims=3, max_side=3))
    survive(WHAT, "NumPy arrays of every dtype", cases, strategy, scored)


@cases(fast=30, slow=1000)
def test_any_python_value(cases: int) -> None:
    items = (
        NUMBERS | TEXT | st.binary() | st.complex_numbers() | st.fractions() | st.decimals() | st.none() | JSON_VALUES
    )
    pairs = st.lists(items, min_size=2, max_size=2)
    collections = pairs | pairs.map(tuple) | st.lists(items, max_size=4) | st.sets(st.integers(), max_size=3)
    survive(WHAT, "Python values of every type", cases, collections | items, scored)


class Lying:
    """Says it converts to an array, and raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise self.error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> float:
        raise self.error


class Torn(np.ndarray):
    """An array that cannot be copied."""

    def copy(self, order: Any = "C") -> np.ndarray:
        raise MemoryError


class Endless(Sequence[float]):
    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        return 0.5


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


STRANGE: dict[str, Callable[[], Any]] = {
    "generator": lambda: (score for score in (1.0, 2.0)),
    "endless generator": itertools.count,
    "endless sequence": Endless,
    "expanded tensor": lambda: torch.zeros(1).expand(10**13),
    "broadcast array": lambda: np.broadcast_to(np.float32(0), (10**13,)),
    "meta tensor": lambda: torch.zeros(2, device="meta"),
    "sparse tensor": lambda: torch.eye(2).to_sparse(),
    "quantized tensor": lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    "nested list": lambda: nested(500),
    "list of itself": lambda: (found := [], found.append(found))[0],
    "raises ValueError as an array": lambda: Lying(ValueError("\n\n")),
    "raises MemoryError as an array": lambda: Lying(MemoryError()),
    "raises MemoryError when copied": lambda: np.zeros(2).view(Torn),
    "raises Mute as an array": lambda: Lying(Mute()),
    "huge whole number": lambda: [10**400, 1],
    "ragged": lambda: [[1.0], [1.0, 2.0]],
    "dates": lambda: np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]"),
    "objects": lambda: np.array([object(), None]),
    "records": lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    "function": lambda: print,
    "class": lambda: int,
    "the images": lambda: IMAGES,
    "the prompts": lambda: PROMPTS,
    "mapping": lambda: {"scores": [1.0, 2.0]},
    "mapping by number": lambda: {0: 1.0, 1: 2.0},
}


@pytest.mark.filterwarnings("ignore:.*(quantize|qint|quantized).*")
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_score_is_refused(name: str) -> None:
    assert outcome_of(lambda: scored(STRANGE[name]())) == REFUSED
    record(WHAT, "objects named by hand: endless, huge, lying, nested", REFUSED)


ERRORS = [
    ValueError("\x1b[31m\n" * 900),
    MemoryError(),
    RecursionError(),
    StopIteration(1),
    SystemExit(0),
    Mute(),
    OSError(28, "x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_reward_raises_is_one_line(error: BaseException) -> None:
    def reward(*_: Any) -> Any:
        raise error

    assert outcome_of(lambda: checked(reward, "mine")(IMAGES, PROMPTS, [{}, {}])) == REFUSED
    record("reward", "raises, SystemExit and errors that cannot be printed among them", REFUSED)
