"""Comparison files, and a one-line error for every mistake in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.comparison.faked import FILE

from stepcredit.comparison.comparison_file import is_comparison, read_comparison
from stepcredit.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def complaint(path: Path, *overrides: str, **changes: object) -> str:
    """The error for the file with some of its entries changed."""
    path.write_text(yaml.safe_dump(yaml.safe_load(FILE) | changes))
    with pytest.raises(InputError) as raised:
        read_comparison(path, overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(str(path), "FILE")


def test_a_file_with_arms_is_a_comparison(path: Path, tmp_path: Path) -> None:
    assert is_comparison(path)
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 2}")
    assert not is_comparison(tmp_path / "recipe.yaml")


def test_overrides_of_the_command_line_win(path: Path) -> None:
    file = read_comparison(path, ["train.epochs=7", "sample.steps=3"], 5)
    assert file.overrides == {"train.epochs": 7, "sample.steps": 3}
    assert file.jobs == 5
    assert read_comparison(path).overrides == {"train.epochs": 4}


def test_rates_in_exponent_notation_are_numbers(path: Path) -> None:
    path.write_text(FILE.replace("[0.005, 0.01, 0.02]", "[4e-3, 1.2e-2]"))
    assert read_comparison(path).learning_rates == [0.004, 0.012]


def test_the_recipe_may_be_relative_to_the_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "near.yaml").write_text("train: {epochs: 2}")
    path.write_text(FILE.replace("embedded_jpeg", "near.yaml"))
    assert Path(read_comparison(path).recipe) == tmp_path / "near.yaml"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("linear: linear", "uniform: linear", "line 6: 'uniform' is given twice"),
        ("reference", "arms: {}\nreference", "line 7: 'arms' is given twice"),
        ("uniform: uniform", "a: {credit.window: 1, credit.window: 2}", "line 5: 'credit.window' is given twice"),
    ],
)
def test_duplicate_keys_are_refused(path: Path, old: str, new: str, line: str) -> None:
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(InputError, match="given twice") as raised:
        read_comparison(path)
    assert str(raised.value).startswith(f"{path} {line}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": {"a": "uniform", "A": "linear"}, "reference": "a"}, "arms has a twice"),
        ({"arms": {"a/b": "uniform", "c": "linear"}}, "arms has 'a/b'"),
        ({"arms": {"..": "uniform", "c": "linear"}}, "arms has '..'"),
        ({"arms": {"a": "uniform"}}, "arms = {'a': 'uniform'} in FILE: dictionary should have at least 2 items"),
        ({"reference": "unifrm"}, "unknown reference arm 'unifrm' (did you mean 'uniform'?)"),
        ({"fresh_seeds": [1, 2, 3]}, "tuning_seeds and fresh_seeds share 1, 2: "),
        ({"fresh_seeds": [4, 4]}, "fresh_seeds has 4 twice"),
        ({"fresh_seeds": []}, "fresh_seeds = [] in FILE"),
        ({"fresh_seeds": [-1]}, "fresh_seeds.0 = -1 in FILE"),
        ({"tuning_seeds": []}, "learning_rates has 3 to choose from: give tuning_seeds"),
        ({"learning_rates": [0.01]}, "tuning_seeds need settings to choose from"),
        ({"learning_rates": [], "clip_ranges": [0.1, 0.2], "tuning_seeds": []}, "clip_ranges has 2 to choose from"),
        ({"clip_ranges": [0.01, 1e-2]}, "clip_ranges has 0.01 twice"),
        ({"clip_ranges": [-1]}, "clip_ranges.0 = -1 in FILE"),
        ({"controls": ["drop/last"]}, "controls has 'drop/last'"),
        ({"learning_rates": [0.01, 1e-2]}, "learning_rates has 0.01 twice"),
        ({"learning_rates": [0.01, 0]}, "learning_rates.1 = 0 in FILE"),
        ({"learning_rate": [0.01]}, "unknown key 'learning_rate' in FILE; did you mean 'learning_rates'?"),
        (
            {"criterion": {"last_epoch": 2}},
            "unknown key 'criterion.last_epoch' in FILE; did you mean 'criterion.last_epochs'?",
        ),
        ({"rewards": ["warmth", "warmth"]}, "rewards has warmth twice"),
        ({"rewards": ["a.py:f", "b.py:f"]}, "rewards has f twice"),
        ({"rewards": {"a b": "warmth"}}, "rewards has 'a b'"),
        ({"jobs": 0}, "jobs = 0 in FILE"),
        ({"evaluate": {"prompts": ["a", "a"]}}, "evaluate.prompts has a twice"),
        ({"evaluate": {"rewards": ["a", "a"]}}, "evaluate.rewards has a twice"),
        ({"evaluate": {"images": 0}}, "evaluate.images = 0 in FILE"),
        ({"evaluate": {"image": 2}}, "unknown key 'evaluate.image' in FILE; did you mean 'evaluate.images'?"),
    ],
    ids=str,
)
def test_a_mistake_is_a_one_line_error(path: Path, changes: dict[str, object], line: str) -> None:
    assert line in complaint(path, **changes)


def test_missing_entries_are_named(path: Path) -> None:
    path.write_text("arms: {a: uniform, b: linear}")
    with pytest.raises(InputError) as raised:
        read_comparison(path)
    assert f"{path} has no reference: " in str(raised.value)
    assert f"{path} has no fresh_seeds: " in str(raised.value)


def test_an_override_without_a_value_is_refused(path: Path) -> None:
    assert complaint(path, "train.epochs").startswith("'train.epochs' is not an override")
