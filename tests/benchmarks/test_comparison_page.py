"""benchmarks/comparison_page.py: the tables in the page and the SVG of the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.comparison.finished import finished_comparison
from tests.comparison.test_results import REWARD

PAGE = "# Benchmark\n\n<!-- one -->\nold\n<!-- /one -->\n\nKept.\n\n<!-- two -->\n<!-- /two -->\n"
ARMS = {"uniform": {11: [0.0, 1.0, 2.0], 12: [0.0, 1.0, 2.5]}, "linear": {11: [0.0, 2.0, 3.0], 12: [0.0, 2.0, 3.5]}}


def written(module: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> str:
    """Run the script, and return the new benchmark.md."""
    (folder / "docs/images").mkdir(parents=True)
    (folder / "docs/results").mkdir()
    (folder / "docs/results/log.md").write_text(PAGE)
    run = finished_comparison(folder / "run", ARMS).path
    monkeypatch.setattr("sys.argv", ["comparison_page.py", str(run), "--name", name, "--docs", str(folder / "docs")])
    module("comparison_page").main()
    return (folder / "docs/results/log.md").read_text()


def test_only_the_named_section_changes(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = written(module, monkeypatch, tmp_path, "one")
    assert page.startswith("# Benchmark\n\n<!-- one -->\n4 runs on fresh seeds")
    assert page.endswith("<!-- /one -->\n\nKept.\n\n<!-- two -->\n<!-- /two -->\n") and "old" not in page
    assert f"### {REWARD}" in page and "| linear | 0.01 | 0.05 (not tuned) | 3.25" in page


def test_svg_is_self_contained(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(module, monkeypatch, tmp_path, "two")
    svg = ElementTree.fromstring((tmp_path / "docs/images/benchmark_two.svg").read_text())
    panels = svg.findall("{http://www.w3.org/2000/svg}svg")
    assert len(panels) == 1 and len(panels[0].findall(".//*[@class='line']")) == len(ARMS)
    assert ".band" in svg.findtext("{http://www.w3.org/2000/svg}style", "")
    assert "linear" in "".join(svg.itertext())


def test_a_missing_section_is_an_error(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="<!-- three -->"):
        written(module, monkeypatch, tmp_path, "three")
    assert (tmp_path / "docs/results/log.md").read_text() == PAGE
