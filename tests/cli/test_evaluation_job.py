"""A comparison evaluates its runs through the command line, including the user's own code and plugins."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command_line import TOY, stepcredit

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.comparison_file import parse_comparison
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.evaluation_job import EvaluationJob
from stepcredit.comparison.evaluations import read_evaluation
from stepcredit.comparison.protocol import make_protocol
from stepcredit.comparison.training_job import TrainingJob
from stepcredit.rewards import REWARDS

pytestmark = pytest.mark.usefixtures("toy")

OWN = """
from stepcredit import register_reward

def bright(images, prompts, metadata, scale=1.0):
    return scale * images.mean((1, 2, 3))

@register_reward("plugin_red")
def red(images, prompts, metadata):
    return images[:, 0].mean((1, 2))
"""


@pytest.mark.parametrize("watch", [[], ["plugin_red"]], ids=["alone", "watched"])
def test_a_run_on_own_code_is_evaluated(here: Path, monkeypatch: pytest.MonkeyPatch, watch: list[str]) -> None:
    monkeypatch.setattr(REWARDS, "_parts", {name: REWARDS.get(name) for name in REWARDS.names()})
    (here / "mine.py").write_text(OWN)
    (here / "mine.txt").write_text("a lake\na hill\n")
    toy = dict(override.split("=") for override in TOY if not override.startswith("reward."))
    tree = {
        "overrides": toy | {"train.epochs": 1, "run.plugins": ["mine.py"], "prompts.source": "mine.txt"},
        "arms": {"uniform": "uniform", "linear": "linear"},
        "reference": "uniform",
        "rewards": {"bright": {"reward.name": "mine.py:bright", "reward.options": {"scale": 2}}},
        "tuning_seeds": [],
        "fresh_seeds": [11],
        "criterion": {"last_epochs": 1},
        "watch": watch,
        "evaluate": {"prompts": ["training", "mine.txt"], "images": 2, "rewards": ["plugin_red", "warmth"]},
    }
    protocol = make_protocol(parse_comparison(tree, "FILE"), {})
    directory, cell = ComparisonDirectory(here / "a"), Cell("fresh", "bright", "linear", 0.05, 11, 0.01)
    assert protocol.evaluate is not None
    evaluation = EvaluationJob(cell, directory, protocol, protocol.evaluate)
    for job in (TrainingJob(cell, directory, protocol), evaluation):
        said = stepcredit(*job.command()[3:])
        assert said.code == 0, said
    assert evaluation.finished()
    sets = read_evaluation(directory.evaluation(cell), cell.config(protocol).reward, protocol.watch)
    assert [(one.name, one.images) for one in sets] == [("training", 4), ("mine.txt", 4)]
    own = "bright" if watch else "mine.py:bright"
    for one in sets:
        assert (
            set(one.base) == set(one.tuned) == {f"rewards.{own}", "rewards.plugin_red", "rewards.warmth", "diversity"}
        )
        assert one.base[f"rewards.{own}"] > 0.5, "twice the brightness"
