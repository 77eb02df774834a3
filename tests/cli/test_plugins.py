"""`--plugin FILE` makes parts of the user's own code available by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tests.cli.command_line import TOY, only_line, refused, rows, stepcredit

from stepcredit.credit import CREDIT
from stepcredit.rewards import REWARDS

pytestmark = pytest.mark.usefixtures("toy")

PLUGIN = """
from stepcredit import register_credit, register_reward

@register_reward("plugin_warmth")
def plugin_warmth(images, prompts, metadata):
    means = images.mean((2, 3))
    return means[:, 0] - means[:, 2]

@register_credit("plugin_uniform")
def plugin_uniform(trajectory, advantage):
    return advantage[:, None].expand(-1, trajectory.steps)
"""


@pytest.fixture
def plugin(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A plugin file, whose parts are forgotten after the test."""
    for registry in (CREDIT, REWARDS):
        monkeypatch.setattr(registry, "_parts", {name: registry.get(name) for name in registry.names()})
    (here / "mine.py").write_text(PLUGIN)
    return "mine.py"


def test_a_plugin_is_recorded_and_loaded_again_on_resume(here: Path, plugin: str) -> None:
    words = [*TOY, "reward.name=plugin_warmth", "credit.name=plugin_uniform"]
    said = stepcredit("train", *words, "train.epochs=2", "--plugin", plugin, "--run", "a")
    assert said.code == 0, said.err
    assert yaml.safe_load((here / "a" / "config.yaml").read_text())["run"]["plugins"] == ["mine.py"]
    assert stepcredit("train", "--resume", "--run", "a", "train.epochs=3").code == 0
    assert [row["epoch"] for row in rows(here / "a")] == [1, 2, 3]


def test_a_run_is_resumed_after_its_plugin_has_moved(here: Path, plugin: str) -> None:
    words = [*TOY, "reward.name=plugin_warmth", "train.epochs=1", "--plugin", plugin, "--run", "a"]
    assert stepcredit("train", *words).code == 0
    (here / "new").mkdir()
    (here / plugin).rename(here / "new" / plugin)
    for registry in (CREDIT, REWARDS):
        registry._parts.pop("plugin_warmth", None)
        registry._parts.pop("plugin_uniform", None)
    complaint = refused("train", "--resume", "--run", "a", "train.epochs=2")
    assert "no plugin file mine.py" in complaint and "run.plugins=" in complaint
    said = stepcredit("train", "--resume", "--run", "a", "train.epochs=2", "--plugin", "new/mine.py")
    assert said.code == 0, said.err
    assert yaml.safe_load((here / "a" / "config.yaml").read_text())["run"]["plugins"] == ["new/mine.py"]


def test_evaluate_knows_the_rewards_of_a_plugin(plugin: str) -> None:
    assert stepcredit("train", *TOY, "--run", "a").code == 0
    said = stepcredit(
        "evaluate", "a", "--reward", "plugin_warmth", "--plugin", plugin, "--images", "1", "--json", "--steps", "4"
    )
    assert said.code == 0, said.err
    figures = json.loads(said.out)["evaluations"][0]["sets"][0]["rewards"]
    assert figures["plugin_warmth"]["tuned"]["mean"] == pytest.approx(figures["warmth"]["tuned"]["mean"], abs=1e-6)


def test_list_shows_the_parts_of_a_plugin(plugin: str) -> None:
    assert "plugin_warmth" in stepcredit("list", "reward", "--plugin", plugin).out


def test_score_knows_the_rewards_of_a_plugin(here: Path, plugin: str) -> None:
    Image.new("RGB", (8, 8), "red").save(here / "red.png")
    said = stepcredit("score", "plugin_warmth", "red.png", "--prompt", "red", "--plugin", plugin, "--json")
    assert json.loads(said.out)[0]["score"] == 1


def test_a_plugin_that_cannot_be_imported_is_one_line(here: Path) -> None:
    (here / "broken.py").write_text("import math\nmath.nothing\n")
    for command in (
        ["train"],
        ["sample", "embedded", "--prompt", "x"],
        ["evaluate", "embedded"],
        ["compare", "x"],
        ["score", "warmth", "x.png", "--prompt", "x"],
        ["serve-reward", "warmth"],
    ):
        said = stepcredit(*command, "--plugin", "broken.py")
        assert said.code == 2
        assert "broken.py" in only_line(said) and "nothing" in only_line(said)
        assert only_line(said).endswith(" (traceback: stepcredit.log)")
        log = (here / "stepcredit.log").read_text()
        assert log.count("Traceback") == 1 and log.rstrip().endswith("has no attribute 'nothing'")
        (here / "stepcredit.log").unlink()
    assert "gone.py" in refused("train", "--plugin", "gone.py")
