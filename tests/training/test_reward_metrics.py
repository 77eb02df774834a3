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
from stepcredit.rewards import Scores, checked
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.timing import Clock
from stepcredit.runs.trackers import TRACKERS
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


def test_means_of_each_tag() -> None:
    assert reward_metrics(TAGGED, Scores(torch.tensor([1.0, 2.0, 10.0, 4.0]))) == {
        "reward_mean": 4.25,
        "reward_std": pytest.approx(3.4911, abs=1e-4),
        "reward_by_tag": {"x": {"mean": 2.5, "images": 2}, "y": {"mean": 2.0, "images": 1}},
    }


def test_without_tags_there_is_no_entry() -> None:
    found = reward_metrics([Prompt("a"), Prompt("b", {"tag": 3})], Scores(torch.tensor([1.0, 2.0])))
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
    training = loop(tmp_path, config, prompts, checked(number, "number"), processes=FakeProcessGroup(rank, 2, gather))
    partition = training.partition(0, 8)
    assert partition.order.tolist() != list(range(8))
    _, scores = training.rollout_and_reward(prompts, partition, 0, Clock())
    found = json.loads(json.dumps(reward_metrics(prompts, scores)["reward_by_tag"]))
    assert found == {"even": {"mean": 3.0, "images": 4}, "odd": {"mean": 4.0, "images": 4}}
