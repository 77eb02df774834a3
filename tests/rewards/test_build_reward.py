"""Rewards by name, by module and by file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, RewardError
from stepcredit.plugins import load_plugin
from stepcredit.rewards import REWARDS, CheckedReward, build_reward

MINE = """
from __future__ import annotations

import functools
from dataclasses import dataclass

SCALE = 2.0


def score(images, prompts, metadata, *, scale=1.0):
    return images.mean((1, 2, 3)) * scale


@dataclass(frozen=True)
class Constant:
    value: float = 1.0

    def __call__(self, images, prompts, metadata):
        return [self.value] * len(prompts)


instance = Constant(3.0)
partial = functools.partial(score, scale=4.0)


def needs_more(images, prompts, metadata, target):
    return [0.0] * len(prompts)


class NotAReward:
    pass


def _private(images, prompts, metadata):
    return [0.0] * len(prompts)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A file of rewards; what is imported from the folder is forgotten afterwards."""
    (tmp_path / "my_rewards.py").write_text(MINE)
    before = set(sys.modules)
    yield tmp_path / "my_rewards.py"
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def build(name: str, **options: Any) -> CheckedReward:
    return build_reward(RewardSection(name=name, options=options))


def score(reward: CheckedReward) -> list[float]:
    scores: Tensor = reward(torch.full((2, 3, 4, 4), 0.5), ["a", "b"], [{}, {}])
    return scores.tolist()


def complaint(name: str, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        build(name, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_bundled_reward_is_checked() -> None:
    reward = build("warmth")
    assert isinstance(reward, CheckedReward) and reward.name == "warmth"


def test_an_unknown_reward_suggests_the_nearest() -> None:
    assert complaint("jpeg_compresibility").startswith(
        "unknown reward 'jpeg_compresibility' (did you mean 'jpeg_compressibility'?); known: "
    )


def test_an_unknown_option_suggests_the_nearest() -> None:
    expected = "unknown jpeg_compressibility option 'qualty' (did you mean 'quality'?); known: quality"
    assert complaint("jpeg_compressibility", qualty=3) == expected
    assert complaint("warmth", quality=3) == "unknown warmth option 'quality'; known: none"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("score", {}, 0.5),
        ("score", {"scale": 3.0}, 1.5),
        ("Constant", {}, 1.0),
        ("Constant", {"value": 7.0}, 7.0),
        ("instance", {}, 3.0),
        ("partial", {}, 2.0),
        ("partial", {"scale": 6.0}, 3.0),
        ("_private", {}, 0.0),
    ],
)
def test_a_function_object_or_class_of_a_file(
    mine: Path, name: str, options: dict[str, float], expected: float
) -> None:
    reward = build(f"{mine}:{name}", **options)
    assert reward.name == f"{mine}:{name}"
    assert score(reward) == [expected, expected]


def test_a_relative_file(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    assert score(build("my_rewards.py:score")) == [0.5, 0.5]


def test_files_of_the_same_name_are_different_modules(mine: Path) -> None:
    other = mine.parent / "other" / mine.name
    other.parent.mkdir()
    other.write_text("def score(images, prompts, metadata):\n    return [9.0] * len(prompts)\n")
    assert score(build(f"{mine}:score")) == [0.5, 0.5]
    assert score(build(f"{other}:score")) == [9.0, 9.0]


def test_a_function_of_a_module(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(mine.parent)
    assert score(build("my_rewards:score", scale=2)) == [1.0, 1.0]


def test_an_exception_of_a_user_s_reward_names_the_reward(mine: Path) -> None:
    mine.write_text("def score(images, prompts, metadata):\n    return 1 / 0\n")
    with pytest.raises(RewardError, match=r"my_rewards.py:score' raised ZeroDivisionError \(division by zero\)"):
        score(build(f"{mine}:score"))


def test_a_missing_file(tmp_path: Path) -> None:
    assert f"{tmp_path}/none.py" in complaint(f"{tmp_path}/none.py:score")


def test_a_module_that_ends_the_program(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.with_name("ends_the_program.py").write_text("raise SystemExit('usage: mine')\n")
    monkeypatch.syspath_prepend(str(mine.parent))
    message = complaint("ends_the_program:score")
    assert "'ends_the_program'" in message and "SystemExit: usage: mine" in message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('weights\\nare gone')", "RuntimeError: weights are gone"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("{}['x']", "KeyError: 'x'"),
        ("int('x')", "invalid literal for int() with base 10: 'x'"),
    ],
)
def test_a_class_that_cannot_be_built(mine: Path, body: str, said: str) -> None:
    mine.write_text(f"class Score:\n    def __init__(self):\n        {body}\n")
    assert complaint(f"{mine}:Score") == f"cannot build {mine}:Score: {said}"


def test_a_missing_module_suggests_a_file() -> None:
    message = complaint("no_such_module:score")
    assert "'no_such_module'" in message and "path/file.py" in message


@pytest.mark.parametrize("name", [":score", "..mine:score"])
def test_an_invalid_module_name(name: str) -> None:
    assert complaint(name).startswith("cannot import module '")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def score(\n", "SyntaxError: '(' was never closed"),
        ("raise RuntimeError('not\\ntoday')\n", "RuntimeError: not today"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    ],
)
def test_a_file_that_cannot_be_imported(mine: Path, text: str, error: str) -> None:
    mine.write_text(text)
    before = set(sys.modules)
    assert complaint(f"{mine}:score").startswith(f"cannot import plugin {mine}: {error}")
    assert set(sys.modules) == before


def test_a_missing_function_suggests_the_nearest(mine: Path) -> None:
    message = complaint(f"{mine}:scor")
    assert str(mine) in message and "'scor' (did you mean 'score'?)" in message


def test_an_attribute_that_is_not_callable(mine: Path) -> None:
    assert complaint(f"{mine}:SCALE") == f"{mine}:SCALE is a float, expected a function or a class"


def test_a_function_with_further_required_arguments(mine: Path) -> None:
    assert "'target'" in complaint(f"{mine}:needs_more")


def test_a_class_without_call(mine: Path) -> None:
    assert "__call__" in complaint(f"{mine}:NotAReward")


@pytest.mark.parametrize(("name", "known"), [("score", "scale"), ("Constant", "value")])
def test_an_unknown_option_of_a_user_s_reward(mine: Path, name: str, known: str) -> None:
    assert complaint(f"{mine}:{name}", size=1) == f"unknown {mine}:{name} option 'size'; known: {known}"


def test_a_decorated_function_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    REWARDS.names()
    monkeypatch.setattr(REWARDS, "_parts", dict(REWARDS._parts))
    (tmp_path / "mine.py").write_text(
        "from stepcredit.rewards import register_reward\n\n\n"
        "@register_reward('brightness')\n"
        "def brightness(images, scale=1.0):\n    return images.mean((1, 2, 3)) * scale\n"
    )
    load_plugin(str(tmp_path / "mine.py"))
    assert score(build("brightness", scale=3.0)) == [1.5, 1.5]
    assert "option 'scal' (did you mean 'scale'?)" in complaint("brightness", scal=1)
