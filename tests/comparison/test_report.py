"""The page of a comparison: what results.json, the protocol and the runs say, and nothing that would be obeyed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comparison.finished import RATE, kept
from tests.comparison.test_results import REWARD
from tests.report.test_report import ATTACK, Balance

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.report import write_comparison_report
from stepcredit.errors import InputError

SEEDS = (11, 12, 13)
ARMS = {"uniform": {seed: [0.0, 1.0, 2.0] for seed in SEEDS}, "linear": {seed: [0.0, 2.0, 4.0] for seed in SEEDS}}


def page(directory: ComparisonDirectory) -> str:
    path = write_comparison_report(directory.path)
    assert path == directory.path / "report.html"
    html = path.read_text(encoding="utf-8")
    Balance(html)
    return html


def run_of(directory: ComparisonDirectory, arm: str, seed: int) -> Path:
    return directory.run(Cell("fresh", REWARD, arm, RATE, seed))


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as raised:
        write_comparison_report(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def rewrite(directory: ComparisonDirectory, results: Any) -> None:
    directory.results_path.write_text(json.dumps(results))


def read(directory: ComparisonDirectory) -> Any:
    return json.loads(directory.results_path.read_text())


def test_curves_are_drawn_against_queries_and_seconds(tmp_path: Path) -> None:
    arms = {"uniform": {11: [0, 1], 12: [0, 2], 13: [0, 6]}, "linear": {11: [0.0, 3.0]}}
    html = page(kept(tmp_path / "a", arms))
    low, high = read(ComparisonDirectory(tmp_path / "a"))["rewards"][REWARD]["arms"]["uniform"]["curve"]["low"][1], 6
    assert f"<title>uniform 3 [{low:.4g}, {high}] at reward queries 20</title>" in html
    assert "<title>linear 3 at reward queries 20</title>" in html, "one seed has no band"
    assert "<title>linear 3 at seconds 2</title>" in html
    assert "<title>uniform 0.5 at reward queries 20</title>" in html, "alignment"


def test_tables_remarks_and_rates_are_those_of_the_results(tmp_path: Path) -> None:
    html = page(kept(tmp_path / "a", ARMS))
    assert '<tr><th scope="row">linear</th><td>0.01</td><td>4 ± 0</td><td>+2 ± 0</td>' in html
    assert '<tr><th scope="row">linear</th><td>1.50</td><td>1.50</td><td>1.50</td>' in html
    assert "<li>3 seeds only: the interval is too narrow, a t interval is ± 4.30 standard errors</li>" in html
    assert '<th scope="col">0.005</th><th scope="col">0.01</th><th scope="col">chosen</th>' in html
    assert '<tr><th scope="row">linear</th><td>0.25</td><td>0.5</td><td>0.01</td></tr>' in html
    assert "an arm that is never there counts as 0" in html
    assert "fresh 11, 12, 13; for learning rates 1, 2" in html
    assert "stepcredit compare x.yaml" in html and "adam_epsilon" in html


def test_step_credit_of_each_arm_is_the_mean_of_its_runs(tmp_path: Path) -> None:
    directory = kept(tmp_path / "a", ARMS)
    (run_of(directory, "linear", 12) / "metrics.jsonl").write_text(
        "".join(json.dumps({"epoch": epoch, "credit_profile": [0.0, 0.0, 3.0]}) + "\n" for epoch in (1, 2, 3))
    )
    html = page(directory)
    assert "<title>linear 1 at denoising step 0</title>" in html  # of 1.5, 0 and 1.5
    assert "<title>credit, linear 1.333, epoch 2, step 2</title>" in html  # of 0.5, 3 and 0.5
    assert "<title>credit, uniform 1, epoch 3, step 2</title>" in html
    assert "<title>sampler 2 at denoising step 2</title>" in html


def test_samples_are_of_one_seed_and_the_shared_picture_is_there_once(tmp_path: Path) -> None:
    directory = kept(tmp_path / "a", ARMS)
    for arm in ARMS:
        shutil.rmtree(run_of(directory, arm, 11) / "samples")
    html = page(directory)
    assert "Seed 12: the same prompts" in html
    names = ["Before training", "uniform, after epoch 3", "linear, after epoch 3"]
    assert [picture["alt"] for picture in Balance(html).named("img")] == [
        f"Grid of captioned samples: {name}" for name in names
    ]
    assert html.count("<script>") == 1 and html.count("<select") == 2


def test_arms_that_begin_differently_have_their_own_first_picture(tmp_path: Path) -> None:
    directory = kept(tmp_path / "a", ARMS)
    samples = run_of(directory, "linear", 11) / "samples"
    shutil.copy(samples / "epoch_0003.png", samples / "epoch_0000.png")
    alts = [str(picture["alt"]) for picture in Balance(page(directory)).named("img")]
    assert [alt.partition(": ")[2] for alt in alts] == [
        "uniform, before training",
        "uniform, after epoch 3",
        "linear, before training",
        "linear, after epoch 3",
    ]


def test_without_its_runs_a_comparison_still_has_its_tables(tmp_path: Path) -> None:
    directory = kept(tmp_path / "a", ARMS)
    shutil.rmtree(directory.path / "runs")
    html = page(directory)
    assert "+2 ± 0" in html and "Which steps are trained" not in html and "<img" not in html


def test_an_arm_without_a_run_leaves_a_gap(tmp_path: Path) -> None:
    html = page(kept(tmp_path / "a", {**ARMS, "third": {}}))
    assert '<tr><th scope="row">third</th><td>0.01</td><td>-</td>' in html
    assert "<title>linear 4 ± 0 at reward queries 30</title>" in html and "<title>third" not in html
    assert "third</span>" not in html, "no legend for what is not drawn"


def test_strings_from_outside_do_not_become_tags(tmp_path: Path) -> None:
    quiet = "<img src=x onerror=alert(1)>"
    directory = kept(tmp_path / "<b>", ARMS, {"command": ["stepcredit", ATTACK], ATTACK: ATTACK}, caption=ATTACK)
    results = json.loads(json.dumps(read(directory)).replace('"linear"', json.dumps(quiet)).replace("alignment", quiet))
    results["failed"] = [f"x failed: {ATTACK}"]
    results["rewards"] = {quiet: results["rewards"][REWARD]}
    results["rewards"][quiet]["arms"]["uniform"]["tuning"]["remark"] = ATTACK
    results["protocol"]["base"]["prompts"]["source"] = ATTACK
    results["protocol"]["base"]["model"]["path"] = ATTACK
    results["method"]["factor"] = ATTACK
    rewrite(directory, results)
    runs = (directory.path / "runs" / "fresh" / REWARD).rename(directory.path / "runs" / "fresh" / quiet)
    (runs / "linear").rename(runs / quiet)
    told = yaml.safe_load(directory.protocol_path.read_text())
    told["protocol"]["arms"][ATTACK] = ATTACK
    directory.protocol_path.write_text(yaml.safe_dump(told))
    html = page(directory)
    parsed = Balance(html)
    assert not parsed.named("b") and len(parsed.named("script")) == 1
    assert all(str(picture["src"]).startswith("data:") for picture in parsed.named("img"))
    assert len(parsed.named("img")) == 3 and html.count("&lt;img src=x") > 10 and html.count("&lt;script&gt;") > 6


def test_what_is_not_finished_is_told_in_a_line(tmp_path: Path) -> None:
    directory = kept(tmp_path / "a", ARMS)
    directory.results_path.unlink()
    assert "is not finished (no results.json)" in complaint(directory.path)
    assert not (directory.path / "report.html").exists()
    assert "holds no comparison (no protocol.yaml)" in complaint(tmp_path)


@pytest.mark.parametrize(
    "change", [{"rewards": 3}, {"rewards": {"x": {}}}, {"protocol": None}, {"last_epochs": [], "method": {}}]
)
def test_results_of_something_else_are_refused(tmp_path: Path, change: Mapping[str, Any]) -> None:
    directory = kept(tmp_path / "a", ARMS)
    rewrite(directory, {**read(directory), **change})
    assert "results.json is not what `compare` writes" in complaint(directory.path)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_damaged_results_are_refused(tmp_path: Path, text: str) -> None:
    directory = kept(tmp_path / "a", ARMS)
    directory.results_path.write_bytes(text.encode("latin-1"))
    assert "results.json is not a JSON object" in complaint(directory.path)


@pytest.mark.parametrize("name", ["..", "../../secret", "/etc", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    directory = kept(tmp_path / "a", ARMS)
    directory.results_path.write_text(directory.results_path.read_text().replace('"linear"', json.dumps(name)))
    assert "names a run outside its folder" in complaint(directory.path)
