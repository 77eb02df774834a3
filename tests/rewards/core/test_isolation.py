"""A reward cannot change the trainer's data, another reward, or the settings and random numbers of the process."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import RewardError
from stepcredit.rewards import build_reward, checked
from stepcredit.training.reward_queue import RewardQueue
from stepcredit.types import Prompt

pytestmark = pytest.mark.filterwarnings("default")


def normalize_in_place(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    return images.sub_(0.5).div_(0.5).mean((1, 2, 3))


def write_through_numpy(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    images.numpy()[:] = 7
    return torch.zeros(len(prompts))


def resize_in_place(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    images.resize_(0)
    return torch.zeros(len(prompts))


def sort_the_prompts(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    prompts.sort()
    return torch.zeros(len(prompts))


def clear_the_prompts(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    prompts.clear()
    return torch.zeros(len(images))


def pop_keys(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    return torch.tensor([float(row.pop("count")) for row in metadata])


def change_nested_values(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    for row in metadata:
        row["boxes"].append(1)
        row["nested"]["tensor"].zero_()
        row["nested"]["kept"]["new"] = 1
    return torch.zeros(len(prompts))


def drop_rows(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    del metadata[:]
    return torch.zeros(len(prompts))


def arguments() -> tuple[Tensor, list[str], list[dict[str, Any]]]:
    """Three images of two prompts. The images of a prompt share its metadata, which holds what cannot be copied."""
    b, a = (
        {"count": count, "boxes": [[0, 1]], "nested": {"tensor": torch.ones(2), "kept": {"lock": threading.Lock()}}}
        for count in (1, 2)
    )
    return torch.linspace(0, 1, 3 * 48).reshape(3, 3, 4, 4), ["b", "b", "a"], [b, b, a]


CHANGES = [
    normalize_in_place,
    write_through_numpy,
    resize_in_place,
    sort_the_prompts,
    clear_the_prompts,
    pop_keys,
    change_nested_values,
    drop_rows,
]


@pytest.mark.parametrize("reward", CHANGES)
def test_a_reward_that_changes_its_arguments_changes_copies(reward: Callable[..., Tensor]) -> None:
    images, prompts, metadata = arguments()
    checked(reward, "mine")(images, prompts, metadata)
    checked(reward, "mine")(images, prompts, metadata)
    expected = arguments()
    assert torch.equal(images, expected[0]) and prompts == expected[1] and len(metadata) == 3
    for row, other in zip(metadata, expected[2], strict=True):
        assert (row["count"], row["boxes"]) == (other["count"], other["boxes"])
        assert torch.equal(row["nested"]["tensor"], torch.ones(2)) and list(row["nested"]["kept"]) == ["lock"]


COMPONENTS = """
import torch

def normalizes(images, prompts, metadata):
    prompts.reverse()
    for row in metadata:
        row.pop("count")
    return images.sub_(0.5).mul_(2).mean((1, 2, 3))

def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3)) + torch.tensor([row["count"] for row in metadata]) * (prompts == ["b", "b", "a"])
"""


def test_components_of_a_mixture_do_not_see_each_others_changes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COMPONENTS)
    names = [f"{tmp_path}/mine.py:{name}" for name in ("normalizes", "brightness", "normalizes")]
    parts = [{"name": name, "label": str(number), "standardize": "none"} for number, name in enumerate(names)]
    images, prompts, metadata = arguments()
    scores = build_reward(RewardSection.model_validate({"components": parts})).scores(images, prompts, metadata)
    means = images.mean((1, 2, 3))
    torch.testing.assert_close(scores.components["1"].scores, means + torch.tensor([1, 1, 2]))
    for label in ("0", "2"):
        torch.testing.assert_close(scores.components[label].scores, (means - 0.5) * 2)


# Settings and random numbers

SETTINGS: dict[str, tuple[str, Callable[[], Any]]] = {
    "gradients": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "default dtype": ("torch.set_default_dtype(torch.float64)", lambda: torch.zeros(1).dtype),
    "default device": ("torch.set_default_device('meta')", lambda: torch.zeros(1).device),
    "threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
    "deterministic": (
        "torch.use_deterministic_algorithms(True, warn_only=True)",
        torch.are_deterministic_algorithms_enabled,
    ),
    "cudnn": ("torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    "precision": ("torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
    "tf32": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", torch.get_float32_matmul_precision),
    "autocast": ("torch.set_autocast_enabled('cpu', True)", lambda: (torch.ones(2, 2) @ torch.ones(2, 2)).dtype),
    "anomaly": ("torch.autograd.set_detect_anomaly(True)", torch.is_anomaly_enabled),
    "numpy errors": ("np.seterr(all='raise')", np.geterr),
    "folder": ("os.chdir('/')", os.getcwd),
    "torch seed": ("torch.manual_seed(3)", lambda: torch.get_rng_state().tolist()),
    "numpy seed": ("np.random.seed(3)", lambda: np.random.get_state()[1].tolist()),  # type: ignore[index]
    "random seed": ("random.seed(3)", random.getstate),
    "torch draw": ("torch.rand(3)", lambda: torch.get_rng_state().tolist()),
}
FILE = """
import os, random
import numpy as np
import torch

{loading}

def score(images, prompts, metadata):
    {calling}
    return images.mean((1, 2, 3))

class Score:
    def __init__(self):
        {building}

    def __call__(self, images, prompts, metadata):
        return images.mean((1, 2, 3))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Writes a reward file that executes a statement while it is loaded, built or called; returns its path."""

    def write(loading: str = "pass", building: str = "pass", calling: str = "pass") -> str:
        path = tmp_path / "mine.py"
        path.write_text(FILE.format(loading=loading, building=building, calling=calling))
        return str(path)

    yield write


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("moment", ["loading", "building", "calling"])
def test_what_a_reward_changes_is_restored(mine: Callable[..., str], setting: str, moment: str) -> None:
    statement, read = SETTINGS[setting]
    path = mine(**{moment: statement})
    images, prompts, metadata = arguments()
    before = read()
    for name in ("score", "Score"):
        reward = build_reward(RewardSection(name=f"{path}:{name}"))
        assert read() == before
        if setting != "default device":  # the scores would have no values
            reward(images, prompts, metadata)
        assert read() == before


def test_settings_are_restored_after_an_error() -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("no")

    with pytest.raises(RewardError):
        checked(reward, "mine")(*arguments())
    assert torch.get_default_dtype() == torch.float32


def test_a_change_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return images.mean((1, 2, 3))

    mine = checked(reward, "mine")
    mine(*arguments())
    mine(*arguments())
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "mine" in warning and "torch.float64" in warning and "\n" not in warning


def test_a_reward_in_another_thread_is_contained() -> None:
    """With `reward.overlap`, a reward runs in a thread while images are sampled."""

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_grad_enabled(False)
        torch.manual_seed(0)
        return images.mean((1, 2, 3))

    images, prompts, metadata = arguments()
    before = torch.get_rng_state()
    with RewardQueue(checked(reward, "mine"), [Prompt(*row) for row in zip(prompts, metadata, strict=True)]) as queue:
        queue.add(images[:2], slice(0, 2))
        queue.add(images[2:], slice(2, 3))
        queue.scores(images)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled() and torch.equal(torch.get_rng_state(), before)


def test_overlapping_calls_restore_the_settings_from_before_all_of_them() -> None:
    """Rewards of one server run in threads of their own."""
    second_started, first_ended = threading.Event(), threading.Event()

    def first(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        torch.set_default_dtype(torch.float64)
        assert second_started.wait(10)
        return images.mean((1, 2, 3))

    def second(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        second_started.set()
        assert first_ended.wait(10)
        return images.mean((1, 2, 3))

    def run_first() -> None:
        checked(first, "first")(*arguments())
        first_ended.set()

    threads = [threading.Thread(target=run_first), threading.Thread(target=lambda: checked(second, "2")(*arguments()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.get_default_dtype() == torch.float32


def test_the_random_numbers_of_a_reward_continue_from_call_to_call() -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        drawn.append(np.random.rand())
        return torch.rand(len(images))

    drawn: list[float] = []
    mine = checked(reward, "mine")
    assert not torch.equal(mine(*arguments()), mine(*arguments()))
    assert drawn[0] != drawn[1]


def test_a_reward_can_seed_its_own_random_numbers() -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        torch.manual_seed(0)
        return torch.rand(len(images))

    mine = checked(reward, "mine")
    assert torch.equal(mine(*arguments()), mine(*arguments()))
