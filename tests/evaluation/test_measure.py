"""Sampling and scoring many images, of one policy and of its base and tuned weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.toy_policy import ToyPolicy
from torch import Tensor

from stepcredit.config import ComponentSection
from stepcredit.errors import InputError, RewardError
from stepcredit.evaluation.base_and_tuned import BaseAndTuned
from stepcredit.evaluation.measure import Measurement, measure
from stepcredit.evaluation.prompt_sets import PromptSet
from stepcredit.evaluation.set_statistics import PerPrompt
from stepcredit.rewards import build_reward, checked
from stepcredit.rewards.core.mixture import Mixture
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs import recipes
from stepcredit.types import Plan, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds

LAKE, HILL, TREE = Prompt("a lake", {"number": 0}), Prompt("a hill", {"number": 1}), Prompt("a tree", {"number": 2})
PROMPTS = [LAKE, HILL, TREE]
WARMTH = {"warmth": checked(Warmth(), "warmth")}


def plan(batch: int | None = None) -> Plan:
    return Plan(4, None, batch)


class RecordingReward:
    """A reward that records its input. It fails on the prompt `wrong`, or on every batch of several images."""

    def __init__(self, wrong: str = "", batches: bool = False) -> None:
        self.seen: list[tuple[int, list[str]]] = []
        self.wrong, self.batches = wrong, batches

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        self.seen.append((len(images), list(prompts)))
        if self.wrong in prompts or (self.batches and len(prompts) > 1):
            raise ValueError("no judge")
        return torch.tensor([float(row["number"]) for row in metadata])


def distances(found: Measurement) -> list[float]:
    """The diversity of each prompt."""
    statistic = found.statistics["diversity"]
    assert isinstance(statistic, PerPrompt)
    return [value for value in statistic.values if value is not None]


# One model


def test_scores_have_a_row_per_prompt() -> None:
    found = measure(ToyPolicy(), WARMTH | {"log": checked(RecordingReward(), "log")}, PROMPTS, 2, 0, plan())
    assert found.scores["log"].tolist() == [[0, 0], [1, 1], [2, 2]]
    images = ToyPolicy().rollout([LAKE] * 6, sample_seeds(0, Stream.EVALUATION, 0, 6)).images
    assert torch.equal(found.scores["warmth"].flatten(), Warmth()(images, [""] * 6, [{}] * 6))
    assert len(distances(found)) == 3 and all(distance > 0 for distance in distances(found))


def test_images_that_pass_are_counted_for_rewards_with_a_pass_score() -> None:
    log = checked(RecordingReward(), "log", pass_score=1.0)
    found = measure(ToyPolicy(), WARMTH | {"log": log}, PROMPTS, 2, 0, plan())
    assert {name: values.tolist() for name, values in found.passed.items()} == {
        "log": [[False, False], [True, True], [True, True]]
    }


def test_every_image_has_its_own_noise() -> None:
    policy = ToyPolicy()
    measure(policy, WARMTH, PROMPTS, 2, 5, plan())
    ((texts, seeds),) = policy.rollouts
    assert texts == ["a lake", "a lake", "a hill", "a hill", "a tree", "a tree"]
    assert seeds == sample_seeds(5, Stream.EVALUATION, 0, 6)


def test_all_rewards_score_the_same_batches() -> None:
    policy, log, ticks = ToyPolicy(), RecordingReward(), list[int]()
    found = measure(policy, WARMTH | {"log": checked(log, "log")}, PROMPTS, 3, 0, plan(4), on_images=ticks.append)
    assert [len(texts) for texts, _ in policy.rollouts] == [size for size, _ in log.seen] == ticks == [4, 4, 1]
    whole = measure(ToyPolicy(), WARMTH, PROMPTS, 3, 0, plan())
    assert torch.equal(found.scores["warmth"], whole.scores["warmth"])
    assert distances(found) == distances(whole)


def test_a_mixture_is_measured_with_its_components() -> None:
    parts = [{"name": "warmth"}, {"name": "jpeg_compressibility", "weight": 2.0, "standardize": "none"}]
    reward = build_reward(recipes.validate({"reward": {"components": parts}}, "here").reward)
    scores = measure(ToyPolicy(), {"mixture": reward}, PROMPTS, 2, 0, plan(4)).scores
    assert list(scores) == ["mixture", "mixture.warmth", "mixture.jpeg_compressibility"]
    assert torch.allclose(scores["mixture"], scores["mixture.warmth"] + 2 * scores["mixture.jpeg_compressibility"])


def test_components_of_a_mixture_have_their_own_pass_scores() -> None:
    parts = {"log": checked(RecordingReward(), "log", pass_score=1.0), "warmth": WARMTH["warmth"]}
    mixture = checked(Mixture({name: (one, ComponentSection(name=name)) for name, one in parts.items()}), "mixture")
    found = measure(ToyPolicy(), {"mixture": mixture}, PROMPTS, 2, 0, plan(4))
    assert {name: values.tolist() for name, values in found.passed.items()} == {
        "mixture.log": [[False, False], [True, True], [True, True]]
    }


def test_statistics_that_are_not_defined_for_the_images_are_left_out() -> None:
    assert list(measure(ToyPolicy(), WARMTH, PROMPTS, 2, 0, plan()).statistics) == ["diversity"]


def test_images_that_are_not_finite_are_refused_before_they_are_scored() -> None:
    policy, log = trained(float("nan")), RecordingReward()
    with pytest.raises(InputError, match="not finite"):
        measure(policy, {"log": checked(log, "log")}, PROMPTS, 1, 0, plan())
    assert log.seen == []


# Failing rewards


def failure(reward: RecordingReward) -> str:
    with pytest.raises(RewardError) as caught:
        measure(ToyPolicy(), {"mine": checked(reward, "mine")}, PROMPTS, 2, 0, plan(5))
    return str(caught.value)


def test_an_error_names_the_prompt_that_fails() -> None:
    assert failure(RecordingReward(wrong="a hill")).startswith(
        "image 1 of prompt 'a hill': reward 'mine' raised ValueError"
    )


def test_an_error_names_the_image_of_the_prompt() -> None:
    calls = 0

    def second_only(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.full((len(prompts),), float("nan") if calls in (1, 5) else 0.0)

    with pytest.raises(RewardError, match=r"^image 2 of prompt 'a hill': reward 'mine' returned nan"):
        measure(ToyPolicy(), {"mine": checked(second_only, "mine")}, PROMPTS, 2, 0, plan())


def test_a_batch_of_which_no_image_fails_alone_names_its_prompts() -> None:
    assert "a batch of 5 images of prompts 'a lake', 'a hill', 'a tree'" in failure(RecordingReward(batches=True))


# Base and tuned


def trained(level: float) -> ToyPolicy:
    policy = ToyPolicy()
    with torch.no_grad():
        policy.target.fill_(level)
    return policy


def test_both_sides_have_the_same_noise() -> None:
    policy, prompts = trained(1.0), PromptSet("mine", "mine.txt", PROMPTS)
    sides = BaseAndTuned(WARMTH, 2, 3)(policy, prompts, plan(), True, "toy")
    assert list(sides) == ["base", "tuned"]
    (_, first), (_, second) = policy.rollouts
    assert first == second
    assert (sides["tuned"].scores["warmth"] > sides["base"].scores["warmth"]).all()
    assert float(policy.target.detach().mean()) == 1
    untrained = measure(ToyPolicy(), WARMTH, PROMPTS, 2, 3, plan())
    assert torch.equal(sides["base"].scores["warmth"], untrained.scores["warmth"])


def test_a_model_has_a_base_only() -> None:
    sides = BaseAndTuned(WARMTH, 1, 0)(ToyPolicy(), PromptSet("mine", "mine.txt", PROMPTS), plan(), False, "toy")
    assert list(sides) == ["base"]


def test_a_shared_base_is_measured_once() -> None:
    ticks, prompts = list[int](), PromptSet("mine", "mine.txt", PROMPTS)
    measured = BaseAndTuned(WARMTH, 1, 0, on_images=ticks.append)
    one, other, third, fourth = trained(1.0), trained(-1.0), trained(0.5), trained(0.5)
    first = measured(one, prompts, plan(), True, "toy")
    second = measured(other, prompts, plan(), True, "toy")
    assert first["base"] is second["base"] and first["tuned"] is not second["tuned"]
    assert [len(policy.rollouts) for policy in (one, other)] == [2, 1] and ticks == [3, 3, 3, 3]
    measured(third, prompts, plan(), True, "another model")
    measured(fourth, PromptSet("mine", "yours.txt", [LAKE]), plan(), True, "toy")
    assert [len(policy.rollouts) for policy in (third, fourth)] == [2, 2]


def test_the_tuned_side_uses_averaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    policy = trained(1.0)

    @contextmanager
    def averaged():  # type: ignore[no-untyped-def]
        with torch.no_grad():
            policy.target.fill_(0.5)
            yield
            policy.target.fill_(1.0)

    monkeypatch.setattr(policy, "averaged", averaged)
    sides = BaseAndTuned(WARMTH, 1, 0)(policy, PromptSet("mine", "mine.txt", PROMPTS), plan(), True, "toy")
    half = measure(trained(0.5), WARMTH, PROMPTS, 1, 0, plan())
    assert torch.equal(sides["tuned"].scores["warmth"], half.scores["warmth"])
