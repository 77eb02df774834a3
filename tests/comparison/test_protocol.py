"""What runs a comparison file asks for, and what it cannot ask for."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comparison.faked import FILE

from stepcredit.comparison.cells import fresh_cells, tuning_cells
from stepcredit.comparison.comparison_file import comparison
from stepcredit.comparison.protocol import Protocol, make_protocol, watching
from stepcredit.comparison.user_files import own_files
from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.rewards import build_reward
from stepcredit.runs import recipes


def protocol(**changes: Any) -> Protocol:
    return make_protocol(comparison(yaml.safe_load(FILE) | changes, "FILE"), {"torch": "1"})


def complaint(**changes: Any) -> str:
    with pytest.raises(InputError) as raised:
        protocol(**changes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_run_is_the_recipe_with_overrides_reward_arm_rate_and_seed() -> None:
    arms = {"uniform": "uniform", "mine": {"credit": {"name": "discount", "options": {"gamma": 0.8}}}}
    config = protocol(arms=arms, rewards=["warmth"], watch=[]).config("warmth", "mine", 0.02, 11)
    asked = ["train.epochs=4", "credit.name=discount", "credit.options.gamma=0.8", "train.learning_rate=0.02"]
    assert config == recipes.load("embedded_jpeg", [*asked, "run.seed=11", "reward.name=warmth"])


def test_every_arm_has_the_same_grid_on_tuning_seeds_and_one_rate_on_fresh_ones() -> None:
    found = protocol()
    tuning = [(cell.arm, cell.rate, cell.seed) for cell in tuning_cells(found)]
    assert sorted(tuning) == [
        (arm, rate, seed) for arm in ("linear", "uniform") for rate in (0.005, 0.01, 0.02) for seed in (1, 2)
    ]
    pair = "jpeg_compressibility"
    fresh = fresh_cells(found, {(pair, "uniform"): 0.02, (pair, "linear"): 0.01})
    assert [(cell.arm, cell.rate, cell.seed) for cell in fresh] == [
        (arm, rate, seed) for seed in (11, 12, 13) for arm, rate in (("uniform", 0.02), ("linear", 0.01))
    ]
    assert len({cell.name for cell in [*tuning_cells(found), *fresh]}) == 12 + 6


def test_an_arm_with_a_rate_of_its_own_is_not_tuned() -> None:
    found = protocol(arms={"uniform": "uniform", "fast": {"credit.name": "uniform", "train.learning_rate": "3e-2"}})
    assert found.grid("fast") == (0.03,)
    assert {cell.arm for cell in tuning_cells(found)} == {"uniform"}
    assert protocol(learning_rates=[], tuning_seeds=[]).grid("uniform") == (0.012,)


def test_options_of_another_rule_or_reward_are_left_behind() -> None:
    overrides = {"credit.name": "discount", "credit.options": {"gamma": 0.5}}
    arms = {"uniform": {}, "same": {"credit.window": 1}, "linear": "linear"}
    found = protocol(overrides=overrides, arms=arms)
    options = {arm: found.config("jpeg_compressibility", arm, None, 0).credit.options for arm in arms}
    assert options == {"uniform": {"gamma": 0.5}, "same": {"gamma": 0.5}, "linear": {}}


# Watched rewards


def test_the_checker_watches_where_it_can_judge() -> None:
    assert protocol().watch == ("alignment",)
    assert protocol(watch=[]).watch == ()
    assert protocol(overrides={"prompts.source": "animals"}).watch == ()
    assert protocol(recipe="sd15_pickscore", overrides={}, arms={"uniform": {}, "linear": "linear"}).watch == ()
    reward = protocol().config("jpeg_compressibility", "linear", None, 0).reward
    assert [(part.name, part.weight) for part in reward.components] == [("jpeg_compressibility", 1), ("alignment", 0)]


def test_a_watched_reward_changes_no_score() -> None:
    import torch

    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle on a blue background", "a green square on a red background"] * 3
    alone = RewardSection(name="warmth")
    plain = build_reward(alone).scores(images, prompts, [{}] * 6)
    beside = build_reward(watching(alone, ("jpeg_compressibility",))).scores(images, prompts, [{}] * 6)
    assert torch.equal(plain.values, beside.values)
    assert torch.equal(plain.trained(prompts), beside.trained(prompts))
    assert list(beside.components) == ["warmth", "jpeg_compressibility"]


def test_what_is_trained_on_is_not_watched_as_well() -> None:
    alone = RewardSection(name="alignment")
    assert watching(alone, ("alignment",)) == alone
    mixture = RewardSection.model_validate({"components": [{"name": "warmth"}, {"name": "alignment"}]})
    assert watching(mixture, ("alignment",)) == mixture


def test_a_function_of_a_file_is_trained_on_or_watched_once() -> None:
    own = RewardSection(name="mine.py:score")
    assert watching(own, ("mine.py:score",)) == own
    beside = watching(own, ("mine.py:other", "mine.py:other"))
    assert [part.called for part in beside.components] == ["score", "other"]


@pytest.mark.parametrize(
    ("reward", "watch"),
    [
        ({"name": "mine.py:score"}, ("yours.py:score",)),
        ({"name": "warmth"}, ("mine.py:score", "yours.py:score")),
        ({"components": [{"name": "mine.py:score"}, {"name": "warmth"}]}, ("yours.py:score",)),
        ({"components": [{"name": "mine.py:score", "label": "score"}, {"name": "warmth"}]}, ("yours.py:score",)),
    ],
)
def test_two_rewards_of_one_name_cannot_be_told_apart(reward: dict[str, Any], watch: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        watching(RewardSection.model_validate(reward), watch)
    line = "watched reward 'yours.py:score': 'mine.py:score' is called 'score' too; rename one of them"
    assert str(caught.value) == line


def test_where_a_reward_lives_and_how_long_it_may_take_stays() -> None:
    remote = RewardSection(name="judge", remote="http://127.0.0.1:1", timeout=7.0)
    beside = watching(remote, ("alignment",))
    assert (beside.components[0].remote, beside.remote, beside.timeout) == ("http://127.0.0.1:1", None, 7.0)


# Files


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_code_and_prompts_of_the_user_s_are_part_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, prompts, module = (tmp_path / name for name in ("mine.py", "prompts.txt", "mine_as_module.py"))
    code.write_text("def score(images, prompts, metadata):\n    return images.mean((1, 2, 3))\n")
    module.write_text(code.read_text())
    prompts.write_text("a red circle\n")
    (tmp_path / "shapes").write_text("not the prompts of that name")
    rewards = {"own": {"reward.name": "mine.py:score"}, "module": {"reward.name": "mine_as_module:score"}}
    rewards["far"] = {"reward.name": "gone.py:score", "reward.remote": "http://127.0.0.1:1"}
    asked: dict[str, Any] = {"rewards": rewards, "overrides": {"train.epochs": 4, "prompts.source": "prompts.txt"}}
    first = protocol(**asked).tree()
    assert first["files"] == {
        "mine.py": digest(code),
        "mine_as_module": digest(module),
        "prompts.txt": digest(prompts),
    }
    assert protocol(**asked).tree() == first and protocol().tree()["files"] == {}
    for file, name in ((code, "mine.py"), (prompts, "prompts.txt")):
        file.write_text(f"{file.read_text()}\n\n")
        assert protocol(**asked).tree()["files"][name] == digest(file) != first["files"][name]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    config = recipes.load("embedded_jpeg", [f"prompts.source={tmp_path}/gone.txt"])
    with pytest.raises(InputError, match=r"^cannot read .*gone.txt: No such file or directory$"):
        own_files([config])


# Mistakes


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": {"uniform": "uniform", "b": "contribtion"}}, "arm 'b': unknown credit rule 'contribtion' (did you "),
        ({"rewards": ["warmht"]}, "reward 'warmht': unknown reward 'warmht' (did you mean 'warmth'?)"),
        ({"rewards": ["gone.py:f"]}, "reward 'f': no plugin file gone.py"),
        (
            {"rewards": {"a": {"reward.options": {"qality": 3}}}},
            "reward 'a': unknown jpeg_compressibility option 'qality' (did you mean 'quality'?)",
        ),
        (
            {"arms": {"uniform": "uniform", "b": "contribution", "c": {"credit.window": 5}}},
            "arms 'b' and 'c' are the same; leave one of them out",
        ),
        (
            {
                "arms": {
                    "uniform": "uniform",
                    "b": {"credit.name": "uniform", "train.learning_rate": 0.012},
                    "c": {"credit": {"name": "uniform"}, "train": {"learning_rate": 1.2e-2}},
                }
            },
            "arms 'b' and 'c' are the same; leave one of them out",
        ),
        (
            {"arms": {"uniform": "uniform", "b": {"prompts.source": "shaeps"}}},
            "arm 'b': unknown prompt list 'shaeps' (did you mean 'shapes'?)",
        ),
        ({"watch": ["alignmnt"]}, "watched reward 'alignmnt': unknown reward 'alignmnt' (did you mean 'alignment'?)"),
        ({"recipe": "embeded_jpeg"}, "unknown recipe 'embeded_jpeg' (did you mean 'embedded_jpeg'?)"),
        ({"overrides": {"train.epoch": 4}}, "unknown key 'train.epoch' in overrides of embedded_jpeg; did you mean"),
        ({"overrides": {"train.epochs.x": 4}}, "'train.epochs.x' goes through 'epochs', which holds a value"),
        ({"overrides": {"run.seed": 4}}, "run.seed does not belong in overrides: give it under tuning_seeds"),
        ({"arms": {"uniform": {"run": {"seed": 1}}, "b": {}}}, "run.seed does not belong in arm 'uniform'"),
        ({"arms": {"uniform": {"reward.name": "warmth"}, "b": {}}}, "reward.name does not belong in arm 'uniform'"),
        ({"arms": {"uniform": {"credit.windw": 1}, "b": {}}}, "unknown key 'credit.windw' in arm 'uniform' on"),
        ({"rewards": {"a": {"train.epochs": 3}}}, "reward 'a' overrides train.epochs: only keys of the reward section"),
        ({"criterion": {"last_epochs": 5}}, "the criterion is the mean of the last 5 epochs, but arm 'uniform' has 4"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_anything_runs(changes: dict[str, Any], line: str) -> None:
    assert complaint(**changes).startswith(line)
