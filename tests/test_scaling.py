"""benchmarks/scaling.py: what it makes of its measurements, and one measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.test_benchmarks import BENCHMARKS, module

__all__ = ["module"]


def costs(scaling: Any, milliseconds: float, spread: float = 0.0) -> list[Any]:
    """Three rounds around a cost of sampling; training costs twice that, the clock runs half as long again."""
    middle = scaling.Seconds(1.5 * milliseconds, milliseconds)

    def times(seconds: Any, factor: float) -> Any:
        return scaling.Seconds(*(factor * value for value in seconds))

    return [scaling.Cost(times(middle, 1 + off), times(middle, 2 * (1 + off)), 500.0) for off in (-spread, 0.0, spread)]


def test_the_line_with_the_least_relative_error(module: Any) -> None:
    page = module("_scaling_page")
    exact = page.fit([1, 2, 4], [5.0, 7.0, 11.0])
    assert (exact.intercept, exact.slope) == pytest.approx((3.0, 2.0))
    assert exact.deviation < 1e-9 and exact(10) == pytest.approx(23.0)
    relative = page.fit([1, 1, 2, 2], [1.0, 3.0, 10.0, 30.0])  # through (1, 1.2) and (2, 12)
    assert relative == pytest.approx((-9.6, 10.8, 1.5))


def test_a_linear_law_is_called_linear_with_its_constants(module: Any) -> None:
    scaling, page = module("scaling"), module("_scaling_page")
    law = scaling.LAWS[1]
    lines = list(page.sentences(law, [costs(scaling, 3 + 0.5 * value, 0.1) for value in law.values]))
    assert "3 + 0.5 × (T) CPU-ms a query, linear: within 0%. " in lines[1]
    assert "From 5 to 40 CPU a query changes 4.18-fold, T 8-fold: power 0.69." in lines[1]
    assert "6 + 1 × (T)" in lines[2]
    assert lines[3] == "- peak memory: 500 MB at 5, 500 MB at 40."


def test_a_law_that_bends_is_called_so_and_a_flat_one_flat(module: Any) -> None:
    scaling, page = module("scaling"), module("_scaling_page")
    law = scaling.LAWS[1]
    bent = list(page.sentences(law, [costs(scaling, 1 + value**2) for value in law.values]))
    assert ", not linear: off by up to " in bent[1]
    flat = list(page.sentences(law, [costs(scaling, 10.0) for _ in law.values]))
    assert flat[1].endswith("From 5 to 40 CPU a query stays within 10%.")


def test_processes_that_share_the_machine_are_judged_by_the_clock(module: Any) -> None:
    scaling, page = module("scaling"), module("_scaling_page")
    law = next(law for law in scaling.LAWS if law.name == "processes")
    line = page.fits(law, [costs(scaling, 4.0 / value) for value in law.values])["sampling"]
    assert (line.intercept, line.slope) == pytest.approx((0.0, 6.0), abs=1e-9)


def test_the_cost_of_several_processes(module: Any) -> None:
    """Two processes of 5 queries: CPU adds up, the slower decides when they are done, the larger is the peak."""
    scaling = module("scaling")
    first = scaling.Report(scaling.Seconds(2.0, 1.0), scaling.Seconds(4.0, 3.0), 10_000_000)
    second = scaling.Report(scaling.Seconds(3.0, 2.0), scaling.Seconds(1.0, 1.0), 30_000_000)
    found = scaling.cost(scaling.Point(images=5, processes=2), [first, second])
    assert found.sampling == pytest.approx((300.0, 300.0))
    assert found.training == pytest.approx((400.0, 400.0))
    assert found.peak == 30.0


def test_points_are_measured_in_turn_and_back(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = module("scaling")
    seen: list[int] = []

    def together(point: Any) -> list[Any]:
        seen.append(point.steps)
        seconds = scaling.Seconds(float(point.steps), 1.0)
        return [scaling.Report(seconds, seconds, 1)]

    monkeypatch.setattr(scaling, "together", together)
    found = scaling.in_turn(replace(scaling.LAWS[1], values=(5, 10, 20)), rounds=2)
    assert seen == [5, 10, 20, 20, 10, 5]
    assert [len(rounds) for rounds in found] == [2, 2, 2]
    assert [rounds[1].sampling.wall for rounds in found] == [625.0, 1250.0, 2500.0]
    assert "round 2, steps 5" in capsys.readouterr().out


def test_page_and_plot_are_written(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = module("scaling")

    def together(point: Any) -> list[Any]:
        seconds = scaling.Seconds(0.3 + 0.01 * point.steps * point.images, 0.2 + 0.01 * point.steps * point.images)
        return [scaling.Report(seconds, seconds, 600_000_000)] * point.processes

    monkeypatch.setattr(scaling, "together", together)
    scaling.main(["--rounds", "2", "--write", str(tmp_path), "--note", "a <shared> machine"])
    page = (tmp_path / "scaling.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == sum(len(law.values) for law in scaling.LAWS)
    assert "a <shared> machine; 2 rounds" in page and "](images/scaling.svg)" in page
    drawn = ElementTree.fromstring((tmp_path / "images" / "scaling.svg").read_text())
    panels = drawn.findall("{http://www.w3.org/2000/svg}svg")
    assert len(panels) == len(scaling.LAWS)
    lines = [group for group in panels[0] if group.tag.endswith("}g")]
    assert len(lines) == 4, "sampling and training, measured and fitted"
    assert ".line" in drawn.findtext("{http://www.w3.org/2000/svg}style", ""), "it stands alone"
    assert rows[0] in capsys.readouterr().out


def test_a_measurement_does_the_work_of_its_point(module: Any) -> None:
    """More steps cost more of both phases: four times as many, at least half as much again."""
    scaling = module("scaling")
    small = scaling.Point(images=2, batch=2, steps=2)
    short, long = (scaling.measure(point, Barrier(1)) for point in (small, replace(small, steps=8)))
    for phase in ("sampling", "training"):
        assert getattr(long, phase).cpu > 1.5 * getattr(short, phase).cpu > 0
    assert short.peak_bytes > 100e6


@pytest.mark.slow
def test_the_command_measures_in_processes_of_their_own(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "scaling.py", "--quick", "--only", "processes", "--write", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert said.count("| processes |") == 2
    assert (tmp_path / "scaling.md").exists()
