"""What a run looks like on a terminal and in a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stepcredit.runs.progress import ConsoleProgress, Progress

ROW = {
    "epoch": 1,
    "reward_queries": 64,
    "reward_mean": -1.0213,
    "reward_std": 0.042,
    "loss": 0.5,
    "clip_fraction": 0.25,
    "credit_profile": [1.5, 0.5],
    "seconds_sampling": 0.5,
    "seconds_reward": 0.25,
    "seconds_training": 1.25,
}


def run(terminal: bool, epochs: int = 3, width: int = 100) -> str:
    """The output of one epoch."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    with ConsoleProgress(epochs, console) as progress:
        progress.start(0)
        for phase in ("sampling", "reward", "training"):
            progress.phase(phase)
        for done in (1, 2):
            progress.tick(done, 2)
        progress.epoch(ROW, {"clip_fraction": "clipped {:.0%}"})
    return written.getvalue()


def test_a_log_file_gets_one_line_per_epoch() -> None:
    assert run(terminal=False) == "epoch   1/3  reward -1.021 ± 0.042  queries 64  clipped 25%  2.0 s\n"


def test_an_epoch_without_updates_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress(3)
    progress.start(0)
    progress.epoch(ROW | {"loss": float("nan")})
    assert "no update made" in capsys.readouterr().out


def test_lines_of_a_log_file_are_not_wrapped() -> None:
    assert run(terminal=False, width=20) == run(terminal=False)


def test_a_terminal_also_shows_a_bar() -> None:
    written = run(terminal=True)
    assert "epoch   1/3  reward -1.021 ± 0.042" in written
    assert "epoch 1/3" in written and "reward -1.021" in written and "left" in written
    assert "32.0 images/s" in written


def test_a_note_is_printed_without_markup_or_wrapping(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]runs/:smile:/" + "x" * 200
    ConsoleProgress(1).note(text)
    assert capsys.readouterr().out == text + "\n"


def test_the_bar_starts_at_the_finished_epochs() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    with ConsoleProgress(4, console) as progress:
        progress.start(2)
    assert "epoch 2/4" in written.getvalue()


def test_a_run_may_have_no_epochs() -> None:
    with ConsoleProgress(0, Console(file=io.StringIO(), force_terminal=True)) as progress:
        progress.start(0)
        progress.phase("sample grid")


def test_the_base_class_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.note("a")
    progress.phase("b")
    progress.tick(1, 2)
    progress.epoch(ROW)
    assert capsys.readouterr() == ("", "")
