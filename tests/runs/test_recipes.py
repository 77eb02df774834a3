"""Recipes: the packaged ones are valid, overrides are applied, and a mistake is a one-line error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stepcredit.bundled import BUNDLED
from stepcredit.comparison.comparison_file import read_comparison
from stepcredit.comparison.protocol import make_protocol
from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import InputError
from stepcredit.prompts import load_prompts
from stepcredit.rewards import REWARDS
from stepcredit.runs import recipes

PACKAGED = recipes.packaged()
COMPARISONS = [name for name, path in PACKAGED.items() if "arms" in yaml.safe_load(path.read_text())]
NAMES = [name for name in PACKAGED if name not in COMPARISONS]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def complaint(source: str | Path | None, *overrides: str) -> str:
    with pytest.raises(InputError) as raised:
        recipes.load(source, overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_valid_and_survives_a_round_trip(name: str) -> None:
    config = recipes.load(name)
    assert recipes.validate(yaml.safe_load(recipes.dump(config)), "dump") == config
    build_credit(config.credit)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison_is_valid(name: str) -> None:
    protocol = make_protocol(read_comparison(PACKAGED[name]), {})
    assert len(protocol.rewards) >= 1 and len(protocol.fresh_seeds) >= 2
    assert not set(protocol.tuning_seeds) & set(protocol.fresh_seeds)
    assert f"stepcredit compare {name}" in complaint(name)


@pytest.mark.parametrize("name", PACKAGED)
def test_recipe_names_its_source_and_result(name: str) -> None:
    text = PACKAGED[name].read_text()
    assert text.partition("\n")[0].endswith("."), "`stepcredit list` shows the first line"
    assert "# Source: " in text and "# Recorded result: " in text


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("embedded")])
def test_embedded_recipe_needs_no_download(name: str) -> None:
    config = recipes.load(name)
    assert config.model.path in BUNDLED
    names = [component.name for component in config.reward.components] or [config.reward.name]
    assert set(names) <= set(REWARDS.names()) and not config.reward.remote
    assert len(load_prompts(config.prompts.source)) >= (config.sample.prompts_per_epoch or 1)


def test_default_recipe_equals_the_defaults() -> None:
    assert recipes.load(recipes.DEFAULT) == TrainConfig() == recipes.load(None)


def test_overrides_are_yaml_and_replace_values_of_the_file(recipe: Path) -> None:
    recipe.write_text("train:\n  epochs: 3\n  clip_range: 0.5\n")
    config = recipes.load(recipe, ["train.epochs=4", "train.learning_rate=1e-4", "sample.call.height=64"])
    assert (config.train.epochs, config.train.clip_range, config.train.learning_rate) == (4, 0.5, 1e-4)
    assert config.sample.call == {"height": 64}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("sample.batch=null", None),
        ("reward.name=mine.py:score", "mine.py:score"),
        ("prompts.source=a=b.txt", "a=b.txt"),
    ],
)
def test_override_values(override: str, value: object) -> None:
    section, name = override.partition("=")[0].split(".")
    assert recipes.load(None, [override]).model_dump()[section][name] == value


@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\n", "\ufefftrain: {}\n"])
def test_empty_files_and_sections_give_the_defaults(recipe: Path, text: str) -> None:
    recipe.write_text(text, encoding="utf-8")
    assert recipes.load(recipe) == TrainConfig()


def test_override_of_an_empty_section(recipe: Path) -> None:
    recipe.write_text("train:\n")
    assert recipes.load(recipe, ["train.epochs=3"]).train.epochs == 3


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("credit.windw=3", ("'credit.windw'", "did you mean 'credit.window'?")),
        ("trian.epochs=3", ("'trian'", "did you mean 'train'?")),
        ("epochs=3", ("'epochs'", "did you mean 'train.epochs'?")),
        ("zzz=3", ("'zzz'",)),
        ("train.epochs", ("'train.epochs'", "section.key=value")),
        ("train.=3", ("'train.=3'", "section.key=value")),
        ("run.seed=-1", ("run.seed", "-1", "0")),
        ("train.learning_rate=.nan", ("train.learning_rate", "nan", "finite")),
        ("sample.eta=-1", ("sample.eta", "-1", "0")),
        ("credit.alpha=2", ("credit.alpha", "2", "1")),
        ("train.betas=[0.9, 1.0]", ("train.betas.1", "1.0")),
        ("model.dtype=int8", ("model.dtype", "'int8'", "'float32'", "'bfloat16'", "'float16'")),
        ("train.updates_per_epoch=100", ("train.updates_per_epoch", "100", "64")),
    ],
)
def test_bad_override_names_key_value_and_expectation(override: str, parts: tuple[str, ...]) -> None:
    message = complaint(None, override)
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("override", ["train.epochs=[", "train.epochs=2024-13-45"])
def test_override_with_invalid_yaml(override: str) -> None:
    assert override in complaint(None, override)


def test_override_below_a_value() -> None:
    assert "'credit.window'" in complaint(None, "credit=contribution", "credit.window=3")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a", "list"),
        ("a: [", "YAML"),
        ("run: {seed: 2024-13-45}", "YAML"),
        ("1: 2", "1"),
        ("train: 3", "train"),
        ("train: {epochs: many}", "'many'"),
        ("sample: {windw: 3}\ncredit: {widow: 3}", "'credit.widow'"),
    ],
)
def test_bad_file(recipe: Path, text: str, part: str) -> None:
    recipe.write_text(text)
    assert part in (message := complaint(recipe)) and "mine.yaml" in message


def test_file_that_is_not_text(recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    assert str(recipe) in complaint(recipe)


def test_unknown_recipe_suggests_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'embedded_jpeg'?" in complaint("embedded_jpg")
    missing = tmp_path / "none.yaml"
    assert str(missing) in complaint(missing)


@pytest.mark.parametrize("override", ["train.microbatch=autoo", "reward.remote=3", "train.epochs=x"])
def test_a_wrong_value_is_reported_once(override: str) -> None:
    assert complaint(None, override).count(override.partition("=")[0]) == 1


def test_a_wrong_override_is_not_blamed_on_the_recipe() -> None:
    assert "defaults" not in complaint(None, "train.epochs=two") and "defaults" not in complaint(None, "train.epoch=2")
    assert "embedded_jpeg" not in complaint("embedded_jpeg", "train.epochs=two")


@pytest.mark.parametrize(("section", "key"), [("model", "model.path"), ("prompts", "prompts.source")])
def test_a_section_that_is_given_a_value_names_a_key(section: str, key: str) -> None:
    assert key in complaint(None, f"{section}=mine") and "Section" not in complaint(None, f"{section}=mine")


def test_a_list_of_prompts_is_one_complaint() -> None:
    line = complaint(None, 'prompts.source=["a cat","a dog"]')
    assert "Undefined" not in line and line.count("prompts.") == 1
