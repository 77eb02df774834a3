"""benchmarks/scaling.py: its fits, its page, and one measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any
from xml.etree import ElementTree

import pytest


def costs(scaling: Any, milliseconds: float, spread: float = 0.0) -> list[Any]:
    """Three rounds around the given cost of sampling. Training costs twice as much; wall time is 1.5 times CPU time."""
    middle = scaling.Seconds(1.5 * milliseconds, milliseconds)

    def times(seconds: Any, factor: float) -> Any:
        return scaling.Seconds(*(factor * value for value in seconds))

    return [scaling.Cost(times(middle, 1 + off), times(middle, 2 * (1 + off)), 500.0) for off in (-spread, 0.0, spread)]


def test_fit_minimizes_the_relative_error(module: Any) -> None:
    page = module("_scaling_page")
    exact = page.fit([1, 2, 4], [5.0, 7.0, 11.0])
    assert (exact.intercept, exact.slope) == pytest.approx((3.0, 2.0))
    assert exact.deviation < 1e-9 and exact(10) == pytest.approx(23.0)
    relative = page.fit([1, 1, 2, 2], [1.0, 3.0, 10.0, 30.0])  # through (1, 1.2) and (2, 12)
    assert relative == pytest.approx((-9.6, 10.8, 1.5))


@pytest.mark.parametrize(
    ("cost", "linear"), [(lambda value: 3 + 0.5 * value, True), (lambda value: 1 + value**2, False)]
)
def test_deviation_from_the_fitted_line(module: Any, cost: Callable[[int], float], linear: bool) -> None:
    scaling, page = module("scaling"), module("_scaling_page")
    law = scaling.LAWS[1]
    line = page.fits(law, [costs(scaling, cost(value), 0.1) for value in law.values])["sampling"]
    assert (line.deviation <= page.LINEAR) is linear
    if linear:
        assert (line.intercept, line.slope) == pytest.approx((3.0, 0.5))


def test_the_law_of_processes_uses_wall_time(module: Any) -> None:
    scaling, page = module("scaling"), module("_scaling_page")
    law = next(law for law in scaling.LAWS if law.name == "processes")
    line = page.fits(law, [costs(scaling, 4.0 / value) for value in law.values])["sampling"]
    assert (line.intercept, line.slope) == pytest.approx((0.0, 6.0), abs=1e-9)


def test_cost_of_several_processes(module: Any) -> None:
    """Two processes of 5 queries each: CPU time adds up, wall time and peak memory are maxima."""
    scaling = module("scaling")
    first = scaling.Report(scaling.Seconds(2.0, 1.0), scaling.Seconds(4.0, 3.0), 10_000_000)
    second = scaling.Report(scaling.Seconds(3.0, 2.0), scaling.Seconds(1.0, 1.0), 30_000_000)
    cost = scaling.cost(scaling.Point(images=5, processes=2), [first, second])
    assert cost.sampling == pytest.approx((300.0, 300.0))
    assert cost.training == pytest.approx((400.0, 400.0))
    assert cost.peak == 30.0


def test_every_second_round_is_reversed(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = module("scaling")
    seen: list[int] = []

    def run_processes(point: Any) -> list[Any]:
        seen.append(point.steps)
        seconds = scaling.Seconds(float(point.steps), 1.0)
        return [scaling.Report(seconds, seconds, 1)]

    monkeypatch.setattr(scaling, "run_processes", run_processes)
    measured = scaling.measure_law(replace(scaling.LAWS[1], values=(5, 10, 20)), rounds=2)
    assert seen == [5, 10, 20, 20, 10, 5]
    assert [len(rounds) for rounds in measured] == [2, 2, 2]
    assert [rounds[1].sampling.wall for rounds in measured] == [625.0, 1250.0, 2500.0]


def test_page_and_plot(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = module("scaling")

    def run_processes(point: Any) -> list[Any]:
        seconds = scaling.Seconds(0.3 + 0.01 * point.steps * point.images, 0.2 + 0.01 * point.steps * point.images)
        return [scaling.Report(seconds, seconds, 600_000_000)] * point.processes

    monkeypatch.setattr(scaling, "run_processes", run_processes)
    scaling.main(["--rounds", "2", "--write", str(tmp_path), "--note", "a <shared> machine"])
    page = (tmp_path / "scaling.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == sum(len(law.values) for law in scaling.LAWS)
    assert "a <shared> machine; 2 rounds" in page and "](images/scaling.svg)" in page
    svg = ElementTree.fromstring((tmp_path / "images" / "scaling.svg").read_text())
    panels = svg.findall("{http://www.w3.org/2000/svg}svg")
    assert len(panels) == len(scaling.LAWS)
    lines = [group for group in panels[0] if group.tag.endswith("}g")]
    assert len(lines) == 4, "sampling and training, measured and fitted"
    assert ".line" in svg.findtext("{http://www.w3.org/2000/svg}style", ""), "the SVG is self-contained"
    assert rows[0] in capsys.readouterr().out


def test_more_steps_cost_more(module: Any) -> None:
    """CPU time grows with the number of steps in both phases."""
    scaling = module("scaling")
    small = scaling.Point(images=2, batch=2, steps=2)
    short, long = (scaling.measure(point, Barrier(1)) for point in (small, replace(small, steps=8)))
    for phase in ("sampling", "training"):
        assert getattr(long, phase).cpu > 1.5 * getattr(short, phase).cpu > 0
    assert short.peak_bytes > 100e6


@pytest.mark.slow
def test_quick_command(benchmarks: Path, tmp_path: Path) -> None:
    command = [sys.executable, benchmarks / "scaling.py", "--quick", "--only", "processes", "--write", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert output.count("| processes |") == 2
    assert (tmp_path / "scaling.md").exists()
