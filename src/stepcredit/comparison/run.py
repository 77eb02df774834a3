"""Carries a comparison out: protocol, tuning runs, choice of rates, fresh runs, findings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stepcredit.comparison.cells import Cell, fresh_cells, pairs, tuned, tuning_cells
from stepcredit.comparison.comparison_file import ComparisonFile
from stepcredit.comparison.curves import Curve, read_curve
from stepcredit.comparison.directory import ComparisonDirectory, open_comparison
from stepcredit.comparison.learning_rates import Choices, choose, chosen
from stepcredit.comparison.process_pool import TRAIN, Failure, Runner, slots
from stepcredit.comparison.progress import Display
from stepcredit.comparison.protocol import Protocol, make_protocol
from stepcredit.comparison.report import write_comparison_report
from stepcredit.comparison.results import comparison_findings
from stepcredit.comparison.tables import markdown, printed
from stepcredit.comparison.user_files import own_files
from stepcredit.errors import InputError, StepcreditError, some_of
from stepcredit.runs.directory import environment
from stepcredit.utils.files import locked, write_atomically


def carry_out(
    file: ComparisonFile,
    folder: Path,
    skip_failed: bool,
    train: Sequence[str] | None = None,
) -> None:
    """From a comparison file to results.json, summary.md, report.html and the printed tables.

    Raises:
        InputError: the comparison or its folder is wrong; told before anything runs.
        StepcreditError: runs failed, and `skip_failed` is not asked for; all others are finished.
    """
    begun = environment(["stepcredit", *sys.argv[1:]])
    protocol = make_protocol(file, begun["packages"])
    directory = open_comparison(folder, protocol, begun)
    places = slots(protocol.base, file.jobs)
    with (
        _alone(directory) as lock,
        Display(*_extent(protocol)) as display,
        Runner(directory, protocol, places, display, lock, train or TRAIN) as runner,
    ):
        choices, failures = _tune(protocol, directory, runner, skip_failed)
        display.note("\n".join(_rates(choices)))
        cells = fresh_cells(protocol, chosen(choices))
        failures += runner(cells)
    _require_unchanged(protocol)
    if failures and not skip_failed:
        raise StepcreditError(_failed(failures))
    results = {
        **comparison_findings(protocol, choices, _curves(protocol, directory, cells)),
        "protocol": protocol.tree(),
        "failed": [str(failure) for failure in failures],
        "jobs": len(places),
    }
    directory.write_json(directory.results_path, results)
    write_atomically(directory.summary_path, markdown(results, shlex.join(begun["command"])).encode())
    print(printed(results))
    page = write_comparison_report(directory.path)
    print(f"\n{directory.results_path} and {directory.summary_path} have it all, {page} shows it")


@contextmanager
def _alone(directory: ComparisonDirectory) -> Iterator[tuple[int, ...]]:
    """What holds the folder's lock, for the runs to inherit: those that a kill has left behind keep others out."""
    with ExitStack() as held:
        try:
            lock = held.enter_context(locked(directory.path))
        except BlockingIOError:
            raise InputError(
                f"{directory.path} is in use: another comparison, or a run that one left behind when it was killed, "
                "is still at work there; wait for it or end it"
            ) from None
        yield lock


def _tune(
    protocol: Protocol, directory: ComparisonDirectory, runner: Runner, skip_failed: bool
) -> tuple[Choices, list[Failure]]:
    """The learning rates, written down before the first run that uses them."""
    cells = tuning_cells(protocol)
    failures = runner(cells)
    criteria = {
        cell: curve.criterion(protocol.last_epochs) for cell, curve in _curves(protocol, directory, cells).items()
    }
    choices = choose(protocol, criteria, skip_failed)
    plain: dict[str, Any] = {reward: {} for reward in protocol.rewards}
    for (reward, arm), choice in choices.items():
        plain[reward][arm] = choice.plain()
    directory.write_json(directory.rates_path, plain)
    return choices, failures


def _rates(choices: Choices) -> list[str]:
    """A line per reward."""
    chosen_at: dict[str, list[str]] = {}
    for (reward, arm), choice in choices.items():
        chosen_at.setdefault(reward, []).append(f"{arm} {'none' if choice.rate is None else f'{choice.rate:g}'}")
    return [f"learning rates on {reward}: {', '.join(rates)}" for reward, rates in chosen_at.items()]


def _curves(protocol: Protocol, directory: ComparisonDirectory, cells: Sequence[Cell]) -> Mapping[Cell, Curve]:
    """Of the runs that are finished."""
    return {
        cell: read_curve(directory.run(cell), protocol.watch, cell.config(protocol).train.epochs)
        for cell in cells
        if directory.finished(cell)
    }


def _require_unchanged(protocol: Protocol) -> None:
    changed = [name for name, digest in own_files(protocol.configs()).items() if digest != protocol.files[name]]
    if changed:
        raise StepcreditError(
            f"{some_of(changed)} changed while the runs were made, and which of them read what is not known: "
            "compare again with another --run"
        )


def _extent(protocol: Protocol) -> tuple[int, int]:
    """Runs, and the epochs of all of them, whatever rates are chosen."""
    runs = {
        (reward, arm): len(protocol.fresh_seeds)
        + (len(protocol.tuning_seeds) * len(protocol.grid(arm)) if tuned(protocol, arm) else 0)
        for reward, arm in pairs(protocol)
    }
    epochs = sum(number * protocol.config(*pair, None, 0).train.epochs for pair, number in runs.items())
    return sum(runs.values()), epochs


def _failed(failures: Sequence[Failure]) -> str:
    return (
        f"{len(failures)} of the runs failed, all that could be are finished: {some_of([*map(str, failures)])}; "
        "mend it and give the same command again (a comparison that changes needs another --run), or report without "
        "them with --skip-failed"
    )
