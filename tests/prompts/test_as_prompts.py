"""What a user passes as `prompts` in Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepcredit.errors import InputError
from stepcredit.prompts import PROMPTS, as_prompts, load_prompts, prompt_names
from stepcredit.types import Prompt


class DataSet:
    """What a data set of the `datasets` library shows of itself."""

    def __init__(self, rows: list[dict[str, Any]], streamed: bool = False) -> None:
        self.rows, self.streamed = rows, streamed

    @property
    def column_names(self) -> list[str] | None:
        return None if self.streamed else list(self.rows[0]) if self.rows else []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class Splits(dict[str, DataSet]):
    @property
    def column_names(self) -> dict[str, list[str]]:
        return {name: ["prompt"] for name in self}


def complaint(prompts: Any, column: str | None = None) -> str:
    with pytest.raises(InputError) as raised:
        as_prompts(prompts, column)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_strings_dicts_and_prompts() -> None:
    rows = ["a cat", {"prompt": "a dog", "count": 2}, Prompt("a fox", {"tag": "x"})]
    assert as_prompts(rows) == [Prompt("a cat"), Prompt("a dog", {"count": 2}), Prompt("a fox", {"tag": "x"})]
    assert as_prompts([{"caption": "a cat", "prompt": 1}], column="caption") == [Prompt("a cat", {"prompt": 1})]


@pytest.mark.parametrize(
    "prompts",
    [
        ("a cat", "a dog"),
        (text for text in ["a cat", "a dog"]),
        map(str, ["a cat", "a dog"]),
        np.array(["a cat", "a dog"]),
        np.array(["a cat", "a dog"], dtype=object),
        [np.str_("a cat"), np.str_("a dog")],
    ],
    ids=lambda prompts: type(prompts).__name__,
)
def test_other_lists_of_strings(prompts: Any) -> None:
    assert as_prompts(prompts) == [Prompt("a cat"), Prompt("a dog")]


def test_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a cat\n")
    assert as_prompts("animals") == load_prompts("animals")
    assert as_prompts(tmp_path / "mine.txt") == as_prompts(str(tmp_path / "mine.txt")) == [Prompt("a cat")]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("chosen", "other"), [("prompt", "text"), ("text", "label"), ("prompt", "label")])
def test_a_data_set(chosen: str, other: str, streamed: bool) -> None:
    rows = [{other: 7, chosen: "a cat"}, {other: 8, chosen: "a dog"}]
    assert as_prompts(DataSet(rows, streamed)) == [Prompt("a cat", {other: 7}), Prompt("a dog", {other: 8})]


def test_a_column_of_a_data_set() -> None:
    rows = [{"prompt": "a cat", "caption": "A cat sits."}]
    assert as_prompts(DataSet(rows), column="caption") == [Prompt("A cat sits.", {"prompt": "a cat"})]


@pytest.mark.parametrize(
    ("prompts", "facts"),
    [
        ([], ["empty"]),
        (DataSet([]), ["empty"]),
        (DataSet([], streamed=True), ["empty"]),
        (3, ["int", "list of strings"]),
        ({"prompt": ["a cat"]}, ["dict", "list of strings"]),
        ({"a cat", "a dog"}, ["set", "list of strings"]),
        (iter([]), ["empty"]),
        (np.array(3), ["int", "list of strings"]),
        (np.array(["a cat", np.nan], dtype=object), ["prompts[1]", "nan of type float"]),
        (np.array([["a cat"]]), ["prompts[0]", "list"]),
        (["a cat", 3], ["prompts[1]", "3", "int"]),
        (["a cat", " "], ["prompts[1]", "blank"]),
        ([{"prompt": None}], ["prompts[0]", "None"]),
        ([{"promt": "a cat", "n": 1}], ["prompts[0]", "'prompt'", "n, promt"]),
        (DataSet([{"promt": "a cat", "n": 1}]), ["did you mean 'promt'", "known: n, promt", "prompt or text"]),
        (DataSet([{"prompt": 3}]), ["prompts[0]", "3"]),
        (Splits(train=DataSet([]), test=DataSet([])), ["train, test"]),
        ("anmals", ["did you mean 'animals'"]),
    ],
)
def test_what_cannot_be_prompts_is_refused(prompts: Any, facts: list[str]) -> None:
    message = complaint(prompts)
    assert all(fact in message for fact in facts), message


@pytest.mark.parametrize("prompts", [DataSet([{"prompt": "a cat"}]), DataSet([{"prompt": "a cat"}], streamed=True)])
def test_a_column_that_does_not_exist(prompts: Any) -> None:
    message = complaint(prompts, "promt")
    assert "'promt'" in message and "did you mean 'prompt'" in message


@pytest.fixture
def registered() -> Iterator[None]:
    """Prompt sources as a plugin registers them."""
    before = dict(PROMPTS._parts)

    @PROMPTS.register("colors")
    def colors(source: str) -> list[str]:
        """Two colors."""
        return ["red", "blue"]

    @PROMPTS.register(".rows")
    def rows(path: str) -> Iterator[dict[str, Any]]:
        """Text and count, separated by a comma."""
        for line in Path(path).read_text().splitlines():
            text, count = line.split(",")
            yield {"prompt": text, "count": int(count)}

    @PROMPTS.register("numbers:")
    def numbers(source: str) -> list[str]:
        """`numbers:N` are the prompts 0 to N - 1."""
        return [str(number) for number in range(int(source.removeprefix("numbers:")))]

    yield
    PROMPTS._parts.clear()
    PROMPTS._parts.update(before)


@pytest.mark.usefixtures("registered")
def test_a_source_is_one_registered_function(tmp_path: Path) -> None:
    path = tmp_path / "mine.rows"
    path.write_text("a cat,2\na dog,3\n")
    assert load_prompts("colors") == [Prompt("red"), Prompt("blue")]
    assert load_prompts(str(path)) == [Prompt("a cat", {"count": 2}), Prompt("a dog", {"count": 3})]
    assert load_prompts("numbers:2") == [Prompt("0"), Prompt("1")]
    assert prompt_names()["colors"] == "Two colors." and ".rows" not in prompt_names()
    assert ".rows" in complaint("mine.row") and "'colors'" in complaint("colrs")


@pytest.mark.usefixtures("registered")
def test_a_registered_source_that_gives_no_prompts() -> None:
    assert "numbers:0 holds no prompts" in complaint("numbers:0")
