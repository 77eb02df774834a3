"""The report of a comparison: its content, escaping, and damaged files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comparison.finished import CLIP, RATE, finished_comparison
from tests.comparison.test_results import REWARD
from tests.report.test_run_page import ATTACK, Balance

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
    return directory.run(Cell("fresh", REWARD, arm, RATE, seed, CLIP))


def error_of(folder: Path) -> str:
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
    html = page(finished_comparison(tmp_path / "a", arms))
    assert "<title>uniform 3 ± 6.572 at reward queries 20</title>" in html, "t_{0.975, 2} sqrt(7 / 3)"
    assert "<title>linear 3 at reward queries 20</title>" in html, "one seed has no band"
    assert "<title>linear 3 at seconds 2</title>" in html
    assert "<title>uniform 0.5 at reward queries 20</title>" in html, "alignment"


def test_tables_caveats_and_rates(tmp_path: Path) -> None:
    html = page(finished_comparison(tmp_path / "a", ARMS))
    assert '<tr><th scope="row">linear</th><td>0.01</td><td>0.05 (not tuned)</td><td>4 ± 0</td><td>+2 ± 0</td>' in html
    assert '<tr><th scope="row">linear</th><td>1.50</td><td>1.50</td><td>1.50</td>' in html
    assert "<li>speed-up: the interval of the median of 3 seeds is [min, max]" in html
    assert '<th scope="col">0.005</th><th scope="col">0.01</th><th scope="col">chosen</th>' in html
    assert '<tr><th scope="row">linear</th><td>0.25</td><td>0.5</td><td>0.01</td></tr>' in html
    assert "stepcredit compare x.yaml" in html and "adam_epsilon" in html


def test_step_credit_of_an_arm_is_the_mean_of_its_runs(tmp_path: Path) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    (run_of(directory, "linear", 12) / "metrics.jsonl").write_text(
        "".join(json.dumps({"epoch": epoch, "credit_profile": [0.0, 0.0, 3.0]}) + "\n" for epoch in (1, 2, 3))
    )
    html = page(directory)
    assert "<title>linear 1 at denoising step 0</title>" in html  # of 1.5, 0 and 1.5
    assert "<title>credit, linear 1.333, epoch 2, step 2</title>" in html  # of 0.5, 3 and 0.5
    assert "<title>credit, uniform 1, epoch 3, step 2</title>" in html
    assert "<title>sampler 2 at denoising step 2</title>" in html


def test_samples_of_one_seed_with_a_shared_first_grid(tmp_path: Path) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    for arm in ARMS:
        shutil.rmtree(run_of(directory, arm, 11) / "samples")
    html = page(directory)
    assert "Seed 12" in html
    names = ["Before training", "uniform, after epoch 3", "linear, after epoch 3"]
    assert [picture["alt"] for picture in Balance(html).named("img")] == [
        f"Grid of captioned samples: {name}" for name in names
    ]
    assert html.count("<script>") == 1 and html.count("<select") == 2


def test_arms_with_different_first_grids(tmp_path: Path) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    samples = run_of(directory, "linear", 11) / "samples"
    shutil.copy(samples / "epoch_0003.png", samples / "epoch_0000.png")
    alts = [str(picture["alt"]) for picture in Balance(page(directory)).named("img")]
    assert [alt.partition(": ")[2] for alt in alts] == [
        "uniform, before training",
        "uniform, after epoch 3",
        "linear, before training",
        "linear, after epoch 3",
    ]


def test_a_comparison_whose_runs_were_deleted(tmp_path: Path) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    shutil.rmtree(directory.path / "runs")
    html = page(directory)
    assert "+2 ± 0" in html and "denoising step" not in html and "<img" not in html


def test_a_comparison_of_version_0_1(tmp_path: Path) -> None:
    """It has no clip ranges, neither in results.json nor in the names of its runs, and no versions or methods."""
    directory = finished_comparison(tmp_path / "a", ARMS)
    for run in directory.path.glob("runs/fresh/*/*/*"):
        run.rename(run.with_name(f"lr-{RATE!r}"))
    old = {"clip_range", "versions", "method", "coverage"}
    results = without(read(directory), old) | {"method": read(directory)["method"]}
    rewrite(directory, json.loads(json.dumps(results).replace('"warning"', '"remark"')))
    html = page(directory)
    assert "<td>0.01</td><td>-</td><td>4 ± 0</td>" in html and "no clip range was tuned" in html
    assert "<title>linear 1.5 at denoising step 0</title>" in html, "read from the run directories"
    assert '<th scope="col">0.005</th>' in html


def without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


def test_an_arm_without_runs(tmp_path: Path) -> None:
    html = page(finished_comparison(tmp_path / "a", {**ARMS, "third": {}}))
    assert '<tr><th scope="row">third</th><td>0.01</td><td>0.05 (not tuned)</td><td>-</td>' in html
    assert "<title>linear 4 ± 0 at reward queries 30</title>" in html and "<title>third" not in html
    assert "third</span>" not in html, "the legend names only lines that are drawn"


def test_strings_from_files_are_escaped(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    directory = finished_comparison(
        tmp_path / "<b>", ARMS, {"command": ["stepcredit", ATTACK], ATTACK: ATTACK}, caption=ATTACK
    )
    results = json.loads(json.dumps(read(directory)).replace('"linear"', json.dumps(name)).replace("alignment", name))
    results["failed"] = [f"x failed: {ATTACK}"]
    results["rewards"] = {name: results["rewards"][REWARD]}
    results["rewards"][name]["arms"]["uniform"]["tuning"]["warning"] = ATTACK
    results["protocol"]["base"]["prompts"]["source"] = ATTACK
    results["protocol"]["base"]["model"]["path"] = ATTACK
    results["method"]["factor"] = ATTACK
    rewrite(directory, results)
    runs = (directory.path / "runs" / "fresh" / REWARD).rename(directory.path / "runs" / "fresh" / name)
    (runs / "linear").rename(runs / name)
    protocol = yaml.safe_load(directory.protocol_path.read_text())
    protocol["protocol"]["arms"][ATTACK] = ATTACK
    directory.protocol_path.write_text(yaml.safe_dump(protocol))
    html = page(directory)
    parsed = Balance(html)
    assert not parsed.named("b") and len(parsed.named("script")) == 1
    assert all(str(picture["src"]).startswith("data:") for picture in parsed.named("img"))
    assert len(parsed.named("img")) == 3 and html.count("&lt;img src=x") > 10 and html.count("&lt;script&gt;") > 6


def test_a_comparison_without_results_is_refused(tmp_path: Path) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    directory.results_path.unlink()
    assert "no results.json" in error_of(directory.path)
    assert not (directory.path / "report.html").exists()
    assert "no protocol.yaml" in error_of(tmp_path)


@pytest.mark.parametrize(
    "change", [{"rewards": 3}, {"rewards": {"x": {}}}, {"protocol": None}, {"last_epochs": [], "method": {}}]
)
def test_other_json_files_are_refused(tmp_path: Path, change: Mapping[str, Any]) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    rewrite(directory, {**read(directory), **change})
    assert "results.json is not what `compare` writes" in error_of(directory.path)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_damaged_results_are_refused(tmp_path: Path, text: str) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    directory.results_path.write_bytes(text.encode("latin-1"))
    assert "results.json is not a JSON object" in error_of(directory.path)


@pytest.mark.parametrize("name", ["..", "../../secret", "/etc", ""])
def test_a_name_that_points_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    directory = finished_comparison(tmp_path / "a", ARMS)
    directory.results_path.write_text(directory.results_path.read_text().replace('"linear"', json.dumps(name)))
    assert "names a run outside its folder" in error_of(directory.path)
