"""The protocol that completes a comparison file, and its errors."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comparison.faked import FILE

from stepcredit.comparison.cells import fresh_cells, tuning_cells
from stepcredit.comparison.comparison_file import parse_comparison
from stepcredit.comparison.protocol import Protocol, add_watched, make_protocol
from stepcredit.comparison.settings import Setting
from stepcredit.comparison.user_files import user_file_digests
from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.rewards import REWARDS, build_reward
from stepcredit.runs import recipes


def protocol(**changes: Any) -> Protocol:
    return make_protocol(parse_comparison(yaml.safe_load(FILE) | changes, "FILE"), {"torch": "1"})


def complaint(**changes: Any) -> str:
    with pytest.raises(InputError) as raised:
        protocol(**changes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_configuration_of_a_run() -> None:
    arms = {"uniform": "uniform", "mine": {"credit": {"name": "discount", "options": {"gamma": 0.8}}}}
    config = protocol(arms=arms, rewards=["warmth"], watch=[]).config("warmth", "mine", Setting(0.02, 0.05), 11)
    asked = [
        "train.epochs=4",
        "credit.name=discount",
        "credit.options.gamma=0.8",
        "train.learning_rate=0.02",
        "train.clip_range=0.05",
    ]
    assert config == recipes.load("embedded_jpeg", [*asked, "run.seed=11", "reward.name=warmth"])


def test_the_cells_of_tuning_and_fresh_seeds() -> None:
    found = protocol(clip_ranges=[0.01, 0.05])
    tuning = [(cell.arm, cell.rate, cell.clip, cell.seed) for cell in tuning_cells(found)]
    assert sorted(tuning) == [
        (arm, rate, clip, seed)
        for arm in ("linear", "uniform")
        for rate in (0.005, 0.01, 0.02)
        for clip in (0.01, 0.05)
        for seed in (1, 2)
    ]
    pair = "jpeg_compressibility"
    fresh = fresh_cells(found, {(pair, "uniform"): Setting(0.02, 0.05), (pair, "linear"): Setting(0.01, 0.01)})
    assert [(cell.arm, cell.rate, cell.clip, cell.seed) for cell in fresh] == [
        (arm, rate, clip, seed)
        for seed in (11, 12, 13)
        for arm, rate, clip in (("uniform", 0.02, 0.05), ("linear", 0.01, 0.01))
    ]
    assert len({cell.name for cell in [*tuning_cells(found), *fresh]}) == 24 + 6
    config = fresh[0].config(found)
    assert (config.train.learning_rate, config.train.clip_range, config.run.seed) == (0.02, 0.05, 11)


def test_an_arm_that_sets_its_rate_is_not_tuned() -> None:
    found = protocol(arms={"uniform": "uniform", "fast": {"credit.name": "uniform", "train.learning_rate": "3e-2"}})
    assert found.grid("fast") == (Setting(0.03, 0.01),)
    assert {cell.arm for cell in tuning_cells(found)} == {"uniform"}
    assert protocol(learning_rates=[], tuning_seeds=[]).grid("uniform") == (Setting(0.012, 0.01),)


def test_both_settings_of_every_arm_are_tuned_by_default_on_seeds_of_their_own() -> None:
    found = protocol(learning_rates=None, clip_ranges=None, tuning_seeds=None, fresh_seeds=[1, 3, 11])
    assert found.tuning_seeds == (2, 4)
    rates, clips = (0.004, 0.012, 0.036), (0.002, 0.01, 0.05)
    assert found.grid("linear") == tuple(Setting(rate, clip) for rate in rates for clip in clips)
    assert len(tuning_cells(found)) == 2 * 9 * 2


def test_the_clip_range_is_fixed_where_an_arm_sets_it_or_an_algorithm_has_none() -> None:
    own = {"credit.name": "linear", "train.clip_range": 0.03}
    other = {"credit.name": "linear", "train.algorithm": "matching"}
    arms = {"uniform": "uniform", "own": own, "other": other}
    found = protocol(arms=arms, clip_ranges=[0.01, 0.05], learning_rates=[0.02])
    assert found.grid("uniform") == (Setting(0.02, 0.01), Setting(0.02, 0.05))
    assert found.grid("own") == (Setting(0.02, 0.03),)
    assert len(found.grid("other")) == 1


@pytest.mark.parametrize("changes", [{"tuning_seeds": []}, {"learning_rates": [], "clip_ranges": [0.05]}])
def test_nothing_is_tuned_without_tuning_seeds_or_choices(changes: dict[str, Any]) -> None:
    found = protocol(**{"learning_rates": None, "clip_ranges": None, "tuning_seeds": None, **changes})
    assert tuning_cells(found) == [] and found.tuning_seeds == ()


def test_a_watched_reward_may_come_from_a_plugin_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REWARDS, "_parts", {name: REWARDS.get(name) for name in REWARDS.names()})
    (tmp_path / "watched.py").write_text(
        'from stepcredit import register_reward\n\n\n@register_reward("watched_red")\n'
        "def red(images):\n    return images[:, 0].mean((1, 2))\n"
    )
    overrides = {"train.epochs": 4, "run.plugins": [str(tmp_path / "watched.py")]}
    assert protocol(overrides=overrides, watch=["watched_red"]).watch == ("watched_red",)


# Controls


def test_drop_last_is_an_arm_of_every_comparison_of_credit_rules() -> None:
    found = protocol(controls=["drop-last"])
    assert found.arms == {
        "uniform": {"credit.name": "uniform"},
        "linear": {"credit.name": "linear"},
        "drop-last": {"credit.name": "drop-last"},
    }
    assert found.grid("drop-last") == found.grid("linear")
    assert parse_comparison(yaml.safe_load(FILE.replace("controls: []", "")), "FILE").controls == ["drop-last"]


@pytest.mark.parametrize(
    "arms",
    [
        {"uniform": "uniform", "mine": {"credit": {"name": "drop-last", "options": {"k": 1}}}},
        {"uniform": "uniform", "Drop-last": "linear"},
        {"uniform": "uniform", "longer": {"credit.name": "uniform", "train.inner_epochs": 2}},
    ],
    ids=["the rule is an arm", "the name is an arm", "the arms do not differ in credit"],
)
def test_no_control_is_added_twice_or_to_a_comparison_of_something_else(arms: dict[str, Any]) -> None:
    assert set(protocol(controls=["drop-last"], arms=arms).arms) == set(arms)


@pytest.mark.parametrize(("steps", "options"), [(3, {"k": 1}), (2, None), (4, {})])
def test_drop_last_keeps_at_least_one_step(steps: int, options: dict[str, int] | None) -> None:
    found = protocol(controls=["drop-last"], overrides={"train.epochs": 4, "sample.steps": steps})
    if options is None:
        assert "drop-last" not in found.arms
    else:
        assert found.config("jpeg_compressibility", "drop-last", None, 0).credit.options == options


def test_any_rule_may_be_a_control() -> None:
    found = protocol(controls=["drop-last", "inverse-native-scale"])
    assert list(found.arms) == ["uniform", "linear", "drop-last", "inverse-native-scale"]
    assert complaint(controls=["drop-lats"]).startswith("arm 'drop-lats': unknown credit rule")


def test_another_rule_does_not_inherit_options() -> None:
    overrides = {"credit.name": "discount", "credit.options": {"gamma": 0.5}}
    arms = {"uniform": {}, "same": {"credit.window": 1}, "linear": "linear"}
    found = protocol(overrides=overrides, arms=arms)
    options = {arm: found.config("jpeg_compressibility", arm, None, 0).credit.options for arm in arms}
    assert options == {"uniform": {"gamma": 0.5}, "same": {"gamma": 0.5}, "linear": {}}


# Watched rewards


def test_alignment_is_watched_on_shapes_models_only() -> None:
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
    watched = build_reward(add_watched(alone, ("jpeg_compressibility",))).scores(images, prompts, [{}] * 6)
    assert torch.equal(plain.values, watched.values)
    assert torch.equal(plain.trained(prompts), watched.trained(prompts))
    assert list(watched.components) == ["warmth", "jpeg_compressibility"]


def test_a_reward_that_is_trained_on_is_not_watched() -> None:
    alone = RewardSection(name="alignment")
    assert add_watched(alone, ("alignment",)) == alone
    mixture = RewardSection.model_validate({"components": [{"name": "warmth"}, {"name": "alignment"}]})
    assert add_watched(mixture, ("alignment",)) == mixture


def test_a_user_function_is_added_once() -> None:
    own = RewardSection(name="mine.py:score")
    assert add_watched(own, ("mine.py:score",)) == own
    watched = add_watched(own, ("mine.py:other", "mine.py:other"))
    assert [part.called for part in watched.components] == ["score", "other"]


@pytest.mark.parametrize(
    ("reward", "watch"),
    [
        ({"name": "mine.py:score"}, ("yours.py:score",)),
        ({"name": "warmth"}, ("mine.py:score", "yours.py:score")),
        ({"components": [{"name": "mine.py:score"}, {"name": "warmth"}]}, ("yours.py:score",)),
        ({"components": [{"name": "mine.py:score", "label": "score"}, {"name": "warmth"}]}, ("yours.py:score",)),
    ],
)
def test_two_rewards_with_one_label_are_refused(reward: dict[str, Any], watch: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"'yours.py:score' and .*'mine.py:score' .*'score'"):
        add_watched(RewardSection.model_validate(reward), watch)


def test_watching_keeps_the_address_and_the_timeout() -> None:
    remote = RewardSection(name="judge", remote="http://127.0.0.1:1", timeout=7.0)
    watched = add_watched(remote, ("alignment",))
    assert (watched.components[0].remote, watched.remote, watched.timeout) == ("http://127.0.0.1:1", None, 7.0)


# Files


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_digests_of_user_code_and_prompts_are_part_of_the_protocol(
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


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    config = recipes.load("embedded_jpeg", [f"prompts.source={tmp_path}/gone.txt"])
    with pytest.raises(InputError, match=r"^cannot read .*gone.txt: No such file or directory$"):
        user_file_digests([config])


# Mistakes


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": {"uniform": "uniform", "b": "contribtion"}}, "arm 'b': unknown credit rule 'contribtion' (did you "),
        ({"rewards": ["warmht"]}, "reward 'warmht': unknown reward 'warmht' (did you mean 'warmth'?)"),
        ({"rewards": ["gone.py:f"]}, "reward 'f': no file gone.py"),
        (
            {"rewards": {"a": {"reward.options": {"qality": 3}}}},
            "reward 'a': unknown jpeg_compressibility option 'qality' (did you mean 'quality'?)",
        ),
        (
            {"arms": {"uniform": "uniform", "b": "contribution", "c": {"credit.window": 5}}},
            "arms 'b' and 'c' are the same",
        ),
        (
            {
                "arms": {
                    "uniform": "uniform",
                    "b": {"credit.name": "uniform", "train.learning_rate": 0.012},
                    "c": {"credit": {"name": "uniform"}, "train": {"learning_rate": 1.2e-2}},
                }
            },
            "arms 'b' and 'c' are the same",
        ),
        (
            {"arms": {"uniform": "uniform", "b": {"prompts.source": "shaeps"}}},
            "arm 'b': unknown prompt list 'shaeps' (did you mean 'shapes'?)",
        ),
        ({"watch": ["alignmnt"]}, "watched reward 'alignmnt': unknown reward 'alignmnt' (did you mean 'alignment'?)"),
        ({"recipe": "embeded_jpeg"}, "unknown recipe 'embeded_jpeg' (did you mean 'embedded_jpeg'?)"),
        ({"overrides": {"train.epoch": 4}}, "unknown key 'train.epoch' in overrides of embedded_jpeg; did you mean"),
        ({"overrides": {"train.epochs.x": 4}}, "cannot set 'train.epochs.x': 'epochs' is a value"),
        ({"overrides": {"run.seed": 4}}, "run.seed does not belong in overrides: give it under tuning_seeds"),
        ({"arms": {"uniform": {"run": {"seed": 1}}, "b": {}}}, "run.seed does not belong in arm 'uniform'"),
        ({"arms": {"uniform": {"reward.name": "warmth"}, "b": {}}}, "reward.name does not belong in arm 'uniform'"),
        ({"arms": {"uniform": {"credit.windw": 1}, "b": {}}}, "unknown key 'credit.windw' in arm 'uniform' on"),
        ({"rewards": {"a": {"train.epochs": 3}}}, "reward 'a' overrides train.epochs: only keys of the reward section"),
        (
            {"criterion": {"last_epochs": 5}},
            "the criterion is the mean of the last 5 epochs, but train.epochs of arm 'uniform' is 4",
        ),
    ],
    ids=str,
)
def test_a_mistake_is_a_one_line_error(changes: dict[str, Any], line: str) -> None:
    assert complaint(**changes).startswith(line)
