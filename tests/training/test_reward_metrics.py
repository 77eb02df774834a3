"""What metrics.jsonl says about the rewards of an epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.test_process_group import FakeProcessGroup
from tests.loop import training_loop
from tests.toy_policy import ToyPolicy, toy_config

from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.rewards import Scores, as_reward, checked
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.timing import Clock
from stepcredit.runs.trackers import TRACKERS
from stepcredit.training import trainer
from stepcredit.training.reward_metrics import reward_metrics
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Prompt

TAGGED = [Prompt("a", {"tag": "x"}), Prompt("b", {"tag": "y"}), Prompt("c"), Prompt("d", {"tag": "x"})]


def number(images: Any, prompts: Any, metadata: Sequence[dict[str, Any]]) -> list[float]:
    return [float(row["number"]) for row in metadata]


def loop(path: Path, config: TrainConfig, prompts: Sequence[Prompt], reward: Any, **options: Any) -> TrainingLoop:
    run = RunDirectory.create(path, config, ["stepcredit"])
    policy = ToyPolicy(config.sample.steps)
    return training_loop(config, policy, reward, build_credit(config.credit), prompts, run, **options)


NUMBER = checked(number, "number")


def test_means_of_each_tag() -> None:
    assert reward_metrics(NUMBER, TAGGED, Scores(torch.tensor([1.0, 2.0, 10.0, 4.0]))) == {
        "reward_mean": 4.25,
        "reward_std": pytest.approx(3.4911, abs=1e-4),
        "reward_by_tag": {"x": {"mean": 2.5, "images": 2}, "y": {"mean": 2.0, "images": 1}},
    }


def test_without_tags_there_is_no_entry() -> None:
    found = reward_metrics(NUMBER, [Prompt("a"), Prompt("b", {"tag": 3})], Scores(torch.tensor([1.0, 2.0])))
    assert found == {"reward_mean": 1.5, "reward_std": 0.5}


def test_every_epoch_and_every_tracker_has_the_tags_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []

    class Tracker:
        def __init__(self, *_: Any) -> None: ...

        def log_metrics(self, epoch: int, metrics: dict[str, float]) -> None:
            logged.append(metrics)

        def log_images(self, *_: Any) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setitem(TRACKERS._parts, "listing", Tracker)
    config = toy_config(run={"trackers": ["listing"]}, prompts={"order": "shuffled"})
    prompts = [Prompt(str(n), {"tag": "low" if n < 3 else "high", "number": n}) for n in range(6)]
    loop(tmp_path, config, prompts, number).train()
    rows = RunDirectory(tmp_path).metrics()
    assert len(rows) == len(logged) == 3
    for row, metrics in zip(rows, logged, strict=True):
        tags = row["reward_by_tag"]
        assert sum(figure["images"] for figure in tags.values()) == 8
        assert row["reward_mean"] == pytest.approx(sum(part["mean"] * part["images"] for part in tags.values()) / 8)
        for tag, figure in tags.items():
            assert metrics[f"reward_by_tag/{tag}_mean"] == figure["mean"]
            assert metrics[f"reward_by_tag/{tag}_images"] == figure["images"]
    assert {tag for row in rows for tag in row["reward_by_tag"]} == {"low", "high"}


@pytest.mark.parametrize("rank", [0, 1])
def test_scores_of_two_processes_belong_to_the_right_tags(rank: int, tmp_path: Path) -> None:
    """Each process scores images from all over the epoch."""
    prompts = [Prompt(str(n), {"tag": "even" if n % 2 == 0 else "odd", "number": n}) for n in range(8)]
    numbers = torch.arange(8.0)

    def gather(value: Any) -> list[Any]:
        if not isinstance(value, Scores):
            return [value, value]
        parts = [Scores(numbers[(partition.owners == owner).nonzero().flatten()]) for owner in (0, 1)]
        assert torch.equal(value.values, parts[rank].values)
        return parts

    config = toy_config(sample={"prompts_per_epoch": 8, "images_per_prompt": 1}, train={"advantage": "batch"})
    training = loop(tmp_path, config, prompts, NUMBER, processes=FakeProcessGroup(rank, 2, gather))
    partition = training.partition(0, 8)
    assert partition.order.tolist() != list(range(8))
    _, scores = training.rollout_and_reward(prompts, partition, 0, Clock())
    found = json.loads(json.dumps(reward_metrics(NUMBER, prompts, scores)["reward_by_tag"]))
    assert found == {"even": {"mean": 3.0, "images": 4}, "odd": {"mean": 4.0, "images": 4}}


# Images that pass


def test_the_share_of_images_that_pass() -> None:
    reward = checked(number, "number", pass_score=0.5)
    found = reward_metrics(reward, [Prompt("a")] * 4, Scores(torch.tensor([0.0, 0.5, 0.25, 1.0])))
    assert found["pass_rate"] == 0.5


class Warm(Warmth):
    CARD = RewardCard(pass_score=0.0)


def test_a_run_records_how_many_images_pass_and_marks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[torch.Tensor] = []
    monkeypatch.setattr(trainer, "save_grid", lambda *_, passed: marked.append(passed))
    training = loop(tmp_path, toy_config(train={"epochs": 2}), [Prompt("a"), Prompt("b")], as_reward(Warm()))
    scores: list[torch.Tensor] = []
    training.callbacks = [lambda row, images: scores.append(images.scores)]
    training.train()
    rates = [row["pass_rate"] for row in RunDirectory(tmp_path).metrics()]
    assert rates == [float((values >= 0).float().mean()) for values in scores]
    assert [found.shape for found in marked] == [(2,)] * 2 and all(found.dtype == torch.bool for found in marked)
    assert torch.equal(marked[-1], training.evaluate().scores >= 0)


def test_a_run_without_a_pass_score_marks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[Any] = []
    monkeypatch.setattr(trainer, "save_grid", lambda *_, passed: marked.append(passed))
    loop(tmp_path, toy_config(train={"epochs": 1}), [Prompt("a"), Prompt("b")], as_reward(Warmth())).train()
    assert "pass_rate" not in RunDirectory(tmp_path).metrics()[0] and marked == [None, None]
