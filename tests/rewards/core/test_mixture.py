"""A weighted sum of rewards: how it is written, what it is made of, what it says when a part fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.loop import training_loop
from tests.toy_policy import ToyPolicy, toy_config
from torch import Tensor

from stepcredit.config import RewardSection, TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import InputError, RewardError
from stepcredit.maths._moments import EPSILON
from stepcredit.rewards import Scores, build_reward, checked
from stepcredit.rewards.core.scores import Component, mix
from stepcredit.rewards.jpeg import JpegCompressibility
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs import recipes
from stepcredit.runs.directory import RunDirectory
from stepcredit.training.advantages import Advantages
from stepcredit.types import Prompt

PROMPTS = ["a", "a", "b", "b"]
Part = dict[str, Any]


def section(*parts: Part) -> RewardSection:
    return recipes.validate({"reward": {"components": list(parts)}}, "here").reward


def scored(*parts: Part) -> Scores:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return build_reward(section(*parts)).scores(images, PROMPTS, [{}] * 4)


def complaint(*parts: Part, **others: Any) -> str:
    with pytest.raises(InputError) as raised:
        recipes.validate({"reward": {"components": list(parts), **others}}, "here")
    assert "\n" not in str(raised.value)
    return str(raised.value)


# What it is made of


def test_components_score_as_they_do_alone() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = scored(
        {"name": "warmth", "weight": 2.0, "standardize": "none"},
        {"name": "jpeg_compressibility", "options": {"quality": 50}, "standardize": "fixed", "mean": -1, "scale": 0.5},
    )
    warm, plain = Warmth()(images, PROMPTS, []), JpegCompressibility(50)(images, PROMPTS, [])
    assert torch.equal(found.components["warmth"].scores, warm)
    assert torch.equal(found.components["jpeg_compressibility"].scores, plain)
    assert torch.allclose(found.values, 2 * warm + (plain + 1) / 0.5)
    assert torch.equal(found.trained(PROMPTS), found.values)


def test_standardizing_per_prompt_is_the_default() -> None:
    found = scored({"name": "warmth"}, {"name": "jpeg_compressibility", "weight": 3})
    expected = np.zeros(4)
    for weight, name in ((1, "warmth"), (3, "jpeg_compressibility")):
        for rows in (slice(0, 2), slice(2, 4)):
            values = found.components[name].scores[rows].double().numpy()
            expected[rows] += weight * (values - values.mean()) / (values.std() + EPSILON)
    assert found.trained(PROMPTS).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert torch.allclose(found.values, sum(c.weight * c.scores for c in found.components.values()))


def test_called_as_any_reward_it_gives_the_shown_sum() -> None:
    images = torch.rand(4, 3, 16, 16)
    reward = build_reward(section({"name": "warmth"}, {"name": "jpeg_compressibility"}))
    assert torch.equal(reward(images, PROMPTS, [{}] * 4), reward.scores(images, PROMPTS, [{}] * 4).values)
    one_by_one = [float(reward(images[i : i + 1], PROMPTS[i : i + 1], [{}])) for i in range(4)]
    assert one_by_one == pytest.approx(reward(images, PROMPTS, [{}] * 4).tolist())


def test_functions_of_the_user_s_own_are_components(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def level(images, prompts, metadata, *, by=1.0):\n    return [by * m['n'] for m in metadata]\n"
        "def one(images, prompts, metadata):\n    return [1.0] * len(prompts)\n"
    )
    parts = [
        {"name": f"{file}:level", "options": {"by": 2}, "standardize": "none"},
        {"name": f"{file}:one", "label": "always", "standardize": "none"},
    ]
    found = build_reward(section(*parts)).scores(torch.zeros(2, 3, 4, 4), ["a", "b"], [{"n": 1}, {"n": 5}])
    assert list(found.components) == ["level", "always"]
    assert found.values.tolist() == [3, 11]


# Parts that fail


def failing(what: Callable[[Tensor], Any]) -> Callable[..., Scores]:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        ones = torch.ones(len(prompts))
        return Scores(ones, {"fine": Component(ones), "odd": Component(what(ones))})

    return reward


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda ones: ones[1:], "returned for component 'odd' scores of shape (3,), expected (4,): "),
        (lambda ones: ones * float("nan"), "returned for component 'odd' nan for 4 of 4 images, first for prompt 'a'"),
        (lambda ones: "good", "returned for component 'odd' a str that does not convert to numbers ("),
    ],
)
def test_scores_of_components_are_verified(what: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(RewardError) as raised:
        checked(failing(what), "mine").scores(torch.zeros(4, 3, 4, 4), PROMPTS, [{}] * 4)
    assert str(raised.value).startswith(f"reward 'mine' {message}")


def test_a_sum_that_overflows_is_told() -> None:
    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        return mix({"huge": Component(torch.full((len(prompts),), 1e30), weight=1e30)})

    with pytest.raises(RewardError, match=r"reward 'mine' returned inf for 4 of 4 images, first for prompt 'a'"):
        checked(reward, "mine")(torch.zeros(4, 3, 4, 4), PROMPTS, [{}] * 4)


def test_the_part_that_raised_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(images, prompts, metadata):\n    return 1 / 0\n")
    with pytest.raises(RewardError) as raised:
        scored({"name": "warmth"}, {"name": f"{tmp_path}/mine.py:broken", "label": "theirs"})
    assert str(raised.value) == (
        "reward 'mixture' failed: reward 'theirs' raised ZeroDivisionError (division by zero) on 4 images, "
        "first prompt 'a'"
    )


# How it is written


def test_components_name_the_mixture_and_come_back_as_written() -> None:
    config = recipes.validate({"reward": {"components": [{"name": "warmth", "weight": 2}]}}, "here")
    assert config.reward.name == "mixture"
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def test_errors_of_a_component_name_it() -> None:
    with pytest.raises(InputError, match=r"unknown reward 'warmt' \(did you mean 'warmth'\?\)"):
        build_reward(section({"name": "warmt"}))
    for bare in (section({"name": "mixture"}), RewardSection(name="mixture")):
        with pytest.raises(InputError, match=r"reward\.components"):
            build_reward(bare)
    with pytest.raises(InputError, match="unknown warmth option 'x'"):
        build_reward(section({"name": "warmth", "options": {"x": 1}}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"name": "warmth", "mean": 1}, "mean and scale need standardize: fixed"),
        ({"name": "warmth", "scale": 2, "standardize": "none"}, "standardize is none"),
        ({"name": "warmth", "scale": 0, "standardize": "fixed"}, "reward.components.0.scale = 0 in here"),
        ({"name": "warmth", "weight": float("inf")}, "reward.components.0.weight = inf in here"),
        ({"name": "warmth", "weight": 0}, "every component of reward.components has weight 0"),
        ({"name": "warmth", "standardize": "promt"}, "reward.components.0.standardize = 'promt' in here"),
        ({"weight": 1.0}, "reward.components.0.name"),
    ],
)
def test_a_part_that_makes_no_sense(part: Part, message: str) -> None:
    assert message in complaint(part)


def test_two_parts_of_one_name_need_labels() -> None:
    parts = [{"name": "x.py:f"}, {"name": "y.py:f"}]
    assert "reward.components has two components named 'f'" in complaint(*parts)
    assert len(section(parts[0], {**parts[1], "label": "g"}).components) == 2


def test_a_mixture_and_one_reward_exclude_each_other() -> None:
    assert "but reward.name is 'warmth'" in complaint({"name": "warmth"}, name="warmth")
    assert "with options {'quality': 3}" in complaint({"name": "warmth"}, options={"quality": 3})


def test_components_may_live_elsewhere() -> None:
    parts = section({"name": "theirs", "remote": "http://127.0.0.1:9", "options": {"retries": 0}}, {"name": "warmth"})
    with pytest.raises(
        RewardError, match=r"reward 'mixture' failed: reward 'theirs' failed: no scores after 1 attempt"
    ):
        build_reward(parts)(torch.zeros(1, 3, 4, 4), ["a"], [{}])


# Through the trainer


def parts_of(epochs: int) -> TrainConfig:
    parts = [
        {"name": "warmth", "weight": 1.0},
        {"name": "jpeg_compressibility", "label": "plain", "weight": 0.5},
    ]
    return toy_config(
        train={"epochs": epochs}, sample={"images_per_prompt": 8}, reward={"name": "mixture", "components": parts}
    )


def trained(path: Path, config: TrainConfig) -> RunDirectory:
    run = RunDirectory.create(path, config, ["stepcredit"])
    prompts = [Prompt("a lake"), Prompt("a hill")]
    policy = ToyPolicy(config.sample.steps)
    training_loop(config, policy, build_reward(config.reward), build_credit(config.credit), prompts, run).train()
    return run


def test_each_component_is_recorded_each_epoch(tmp_path: Path) -> None:
    rows = trained(tmp_path, parts_of(3)).metrics()
    assert len(rows) == 3
    for row in rows:
        figures = row["reward_components"]
        assert list(figures) == ["warmth", "plain"] and all(set(f) == {"mean", "std"} for f in figures.values())
        assert row["reward_mean"] == pytest.approx(figures["warmth"]["mean"] + 0.5 * figures["plain"]["mean"])


def test_what_is_trained_on_is_standardized_per_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    real = Advantages.of_images

    def of_images(self: Advantages, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        seen.append(rewards)
        return real(self, prompts, rewards)

    monkeypatch.setattr(Advantages, "of_images", of_images)
    trained(tmp_path, parts_of(1))
    [rewards] = seen
    assert float(rewards[:8].mean()) == pytest.approx(0, abs=1e-5)
    assert 0.5 < float(rewards.std()) < 1.5


def test_a_single_reward_has_no_components(tmp_path: Path) -> None:
    assert "reward_components" not in trained(tmp_path, toy_config(train={"epochs": 1})).metrics()[0]


def test_the_reward_with_weight_rises_on_the_toy_policy(tmp_path: Path) -> None:
    rows = trained(tmp_path, parts_of(25)).metrics()
    first, last = (rows[i]["reward_components"]["warmth"]["mean"] for i in (0, -1))
    assert last > first + 0.2


# Through the embedded pipeline


@pytest.mark.slow
def test_both_rewards_of_the_recipe_rise(tmp_path: Path) -> None:
    """In six of its ten epochs: the last three against the first three."""
    from stepcredit.policy.loading import load_policy
    from stepcredit.prompts import load_prompts

    config = recipes.load("embedded_mixture", ["train.epochs=6", "run.seed=101", "run.grid_every=6"])
    run = RunDirectory.create(tmp_path, config, ["stepcredit"])
    reward, credit = build_reward(config.reward), build_credit(config.credit)
    training_loop(config, load_policy(config), reward, credit, load_prompts(config.prompts.source), run).train()
    for part in config.reward.components:
        means = [row["reward_components"][part.called]["mean"] for row in run.metrics()]
        assert sum(means[-3:]) > sum(means[:3]), f"{part.called}: {means}"
