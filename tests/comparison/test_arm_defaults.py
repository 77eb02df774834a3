"""Arms that change the model have the defaults of their own model, as a run of `train` with the same overrides has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comparison.faked import FILE, fake_compare, results
from tests.families import FAMILIES

from stepcredit.comparison import process_pool
from stepcredit.comparison.comparison_file import parse_comparison, read_comparison
from stepcredit.comparison.cost import comparison_cost, cost_text
from stepcredit.comparison.protocol import Protocol, add_watched, make_protocol
from stepcredit.comparison.settings import Setting
from stepcredit.comparison.tables import caveats
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.runs import recipes

REWARD = "jpeg_compressibility"
COMPARISONS = [name for name, path in recipes.packaged().items() if recipes.is_comparison(recipes.read_tree(path))]
SD3_RATES, SD_RATES = (1e-4, 3e-4, 9e-4), (3.3e-5, 1e-4, 3e-4)


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders with nothing but the index of a pipeline, and a recipe for each of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_pool, "POLL_SECONDS", 0.01)
    for name, kind in (("sd", "StableDiffusionPipeline"), ("sd3", "StableDiffusion3Pipeline"), ("odd", "OddPipeline")):
        Path(name).mkdir()
        Path(name, "model_index.json").write_text(json.dumps({"_class_name": kind}))
        recipe = {"model": {"path": name, "device": "cpu"}, "train": {"epochs": 4}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))


def protocol(recipe: str = "sd.yaml", **changes: Any) -> Protocol:
    free = {"overrides": {}, "watch": [], **dict.fromkeys(("learning_rates", "clip_ranges", "tuning_seeds"))}
    return make_protocol(parse_comparison(yaml.safe_load(FILE) | free | {"recipe": recipe} | changes, "FILE"), {})


def trained(recipe: str, *changes: dict[str, Any]) -> TrainConfig:
    """What `stepcredit train` makes of a recipe and overrides."""
    overrides = {key: value for one in changes for key, value in one.items()}
    return recipes.load(recipe, [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


@pytest.mark.parametrize("given", [{}, {"sample.guidance": 2.0, "model.lora_alpha": 3, "sample.call": {"height": 64}}])
@pytest.mark.parametrize("recipe", ["sd.yaml", "sd3.yaml", "embedded_jpeg"])
@pytest.mark.parametrize(
    "arm",
    [
        {"model.path": "sd3"},
        {"model.path": "odd"},
        {"model.path": "embedded"},
        {"model.path": "embedded-flow"},
        {"model.adapter": "full"},
        {"model.lora_rank": 8},
        {"sample.steps": 20},
        {"sample.call.height": 64},
        {"model.path": "sd3", "sample.steps": 3, "credit.window": 2, "train.clip_range": 0.5},
        {"model.path": "sd3", "sample.call.max_sequence_length": 9, "train.learning_rate": "2e-4"},
        {"credit.name": "linear", "prompts.source": "animals", "train.epochs": 5},
    ],
    ids=str,
)
def test_an_arm_trains_as_the_same_overrides_of_train_do(
    recipe: str, arm: dict[str, Any], given: dict[str, Any]
) -> None:
    found = protocol(recipe, overrides=given, arms={"uniform": {"credit.name": "discount"}, "other": arm})
    seed = {"run.seed": 7}
    assert found.config(REWARD, "other", None, 7) == trained(recipe, given, arm, seed)
    assert found.config(REWARD, "uniform", None, 7) == trained(recipe, given, {"credit.name": "discount"}, seed)
    tuned = {"train.learning_rate": 0.5, "train.clip_range": 0.25}
    assert found.config(REWARD, "other", Setting(0.5, 0.25), 7) == trained(recipe, given, arm, tuned, seed)


@pytest.mark.parametrize("name", COMPARISONS)
def test_packaged_comparisons_train_as_the_same_overrides_of_train_do(name: str) -> None:
    file = read_comparison(recipes.find(name))
    found = make_protocol(file, {})
    assert not found.model_defaults and not {"model_defaults", "grids"} & found.tree().keys()
    overrides = {
        f"{section}.{key}" if key else section: value
        for section, keys in file.overrides.items()
        for key, value in (keys.items() if isinstance(keys, dict) else [("", keys)])
    }
    for reward in found.rewards:
        for arm in found.arms:
            setting = found.grid(arm)[-1]
            tuned = {"train.learning_rate": setting.learning_rate, "train.clip_range": setting.clip_range}
            alone = trained(file.recipe, overrides, found.rewards[reward], found.arms[arm], tuned, {"run.seed": 3})
            expected = alone.model_copy(update={"reward": add_watched(alone.reward, found.watch)})
            assert found.config(reward, arm, setting, 3) == expected


# Grids


def test_a_default_grid_lies_around_the_own_value_of_each_arm() -> None:
    arms = {"uniform": "uniform", "other": {"model.path": "sd3"}, "bundled": {"model.path": "embedded"}}
    found = protocol(arms=arms)
    rates = {arm: tuple(sorted({setting.learning_rate for setting in found.grid(arm)})) for arm in arms}
    assert rates == {"uniform": SD_RATES, "other": SD3_RATES, "bundled": (0.004, 0.012, 0.036)}
    assert {setting.clip_range for setting in found.grid("bundled")} == {0.002, 0.01, 0.05}
    assert found.tree()["grids"]["other"] == {"learning_rates": list(SD3_RATES), "clip_ranges": [2e-5, 1e-4, 5e-4]}
    assert "3 learning rates x 3 clip ranges" in cost_text(comparison_cost(found), found)


def test_a_given_grid_is_kept() -> None:
    found = protocol(
        arms={"uniform": "uniform", "other": {"model.path": "sd3"}}, learning_rates=[0.1, 0.2], clip_ranges=[]
    )
    assert found.grid("other") == (Setting(0.1, 1e-4), Setting(0.2, 1e-4)) == found.grid("uniform")
    assert "train.learning_rate" not in found.model_defaults["other"]


def test_without_tuning_an_arm_has_its_own_rate() -> None:
    arms = {"uniform": "uniform", "other": {"model.path": "sd3"}, "set": {"model.path": "sd3", "train": {"epochs": 5}}}
    found = protocol(arms=arms, tuning_seeds=[])
    assert [found.grid(arm)[0].learning_rate for arm in arms] == [1e-4, 3e-4, 3e-4]


def test_a_rate_that_the_recipe_states_is_the_middle_of_every_grid() -> None:
    arms = {"uniform": "uniform", "other": {"model.path": "sd3"}}
    found = protocol(overrides={"train.learning_rate": 0.01}, arms=arms)
    assert {setting.learning_rate for setting in found.grid("other")} == {0.0033, 0.01, 0.03}
    assert "grids" in found.tree() and found.tree()["grids"] == {}


# What is written and said


def test_only_arms_with_other_defaults_are_recorded() -> None:
    arms = {"uniform": "uniform", "longer": {"sample.steps": 100}, "again": {"model.path": "sd"}}
    found = protocol(arms=arms, overrides={"sample.guidance": 2.0})
    assert found.model_defaults == {"longer": {"credit.window": 10}}
    assert protocol(arms={"uniform": "uniform", "again": {"model.path": "sd"}}).tree().keys() == (
        found.tree().keys() - {"model_defaults", "grids"}
    )


def test_models_with_other_windows_are_no_comparison_of_credit() -> None:
    assert set(protocol(arms={"uniform": {}, "b": {"model.path": "sd3"}}, controls=["drop-last"]).arms) == {
        "uniform",
        "b",
    }


def test_an_arm_without_its_model_is_one_line() -> None:
    with pytest.raises(InputError) as raised:
        protocol(arms={"uniform": "uniform", "b": {"model.path": "no-such/model"}})
    assert str(raised.value).startswith("arm 'b': no folder 'no-such/model'") and "\n" not in str(raised.value)


@pytest.fixture
def pipelines() -> None:
    """Tiny pipelines of both families in place of their indices."""
    for name in ("sd", "sd3"):
        FAMILIES[name].build(0).save_pretrained(name)


MINE = {
    "recipe": "sd.yaml",
    "overrides": {"sample.prompts_per_epoch": 4, "sample.images_per_prompt": 4},
    "arms": {"uniform": {"credit.name": "uniform"}, "other": {"credit.name": "uniform", "model.path": "sd3"}},
    "watch": ["alignment"],
    "tuning_seeds": [],
    "learning_rates": [],
}


@pytest.mark.usefixtures("pipelines")
def test_every_run_gets_the_defaults_of_its_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = Path("mine.yaml"), Path("a")
    file.write_text(yaml.safe_dump(yaml.safe_load(FILE) | MINE))
    fake_compare(file, folder)
    cost, defaults, *_ = capsys.readouterr().err.splitlines()
    assert cost.startswith("6 runs, ")
    assert defaults.startswith("defaults of other: ")
    assert "train.learning_rate=0.0003" in defaults and 'sample.call={"height": 512, "width": 512}' in defaults
    runs = [yaml.safe_load(path.read_text()) for path in folder.glob("runs/fresh/*/other/*/seed-11/config.yaml")]
    expected = trained("sd.yaml", MINE["overrides"], MINE["arms"]["other"], {"run.seed": 11})  # type: ignore[index, arg-type]
    reward = add_watched(expected.reward, ("alignment",))
    assert runs == [expected.model_copy(update={"reward": reward}).model_dump(mode="json")]
    page = (folder / "report.html").read_text()
    assert "<dt>Defaults of other</dt>" in page and "train.learning_rate=0.0003" in page
    found = results(folder)
    assert any("model.path" in line and "sample.guidance" in line for line in caveats(found, found["rewards"][REWARD]))
    monkeypatch.setattr(process_pool.ProcessPool, "_start", lambda *_: pytest.fail("nothing is left to run"))
    fake_compare(file, folder)
    assert results(folder) == found


@pytest.mark.usefixtures("pipelines")
def test_other_defaults_of_an_arm_are_another_protocol() -> None:
    file, folder = Path("mine.yaml"), Path("a")
    file.write_text(yaml.safe_dump(yaml.safe_load(FILE) | MINE))
    fake_compare(file, folder)
    written = yaml.safe_load((folder / "protocol.yaml").read_text())
    del written["protocol"]["model_defaults"], written["protocol"]["grids"]  # as if the arm had those of the base
    (folder / "protocol.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(InputError, match=r"another protocol \(.*model_defaults.other.credit.window: absent there"):
        fake_compare(file, folder)
