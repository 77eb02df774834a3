"""The generated pages are up to date, and CI runs the command of the README."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

from tests.loop import training_loop
from tests.toy_policy import ToyPolicy, toy_config

from stepcredit.algorithms.metrics import RUN_METRICS
from stepcredit.credit import build_credit
from stepcredit.rewards import build_reward
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Prompt

ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_configuration_page_is_generated_from_the_schema() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == GENERATOR["configuration"](), "run: python docs/generate.py"


def test_page_on_model_defaults_is_generated_from_the_families() -> None:
    page = ROOT / "docs" / "guides" / "model-defaults.md"
    assert page.read_text(encoding="utf-8") == GENERATOR["model_defaults"](), "run: python docs/generate.py"


def test_page_on_other_trainers_is_generated_from_the_table() -> None:
    page = ROOT / "docs" / "guides" / "other-trainers.md"
    assert page.read_text(encoding="utf-8") == GENERATOR["other_trainers"](), "run: python docs/generate.py"


def test_every_configuration_key_has_a_description() -> None:
    rows = [line for line in GENERATOR["configuration"]().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row for row in rows if not row.rstrip("| ").rpartition(" | ")[2].strip()] == []


def test_metrics_page_has_every_key_of_a_run(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 1, "kl_weight": 0.1})
    run = RunDirectory.create(tmp_path, config, ["stepcredit"])
    prompts = [Prompt("a", {"tag": "x"}), Prompt("b")]
    training_loop(config, ToyPolicy(), build_reward(config.reward), build_credit(config.credit), prompts, run).train()
    named = set(re.findall(r"`([\w]+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    assert {*run.metrics()[0], *RUN_METRICS} <= named


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"test_command=\$\((sed .*)\)", script)
    assert extract is not None
    command = subprocess.run(["bash", "-c", extract[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command == "pip install uv && uv run --group dev pytest -n 2\n"
