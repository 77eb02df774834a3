"""Carry out a comparison: protocol, tuning runs, choice of settings, fresh runs, their evaluations, results."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stepcredit.comparison.arm_defaults import settings_text
from stepcredit.comparison.cells import Cell, fresh_cells, tuning_cells
from stepcredit.comparison.comparison_file import ComparisonFile
from stepcredit.comparison.cost import comparison_cost, cost_text
from stepcredit.comparison.curves import Curve, read_curve
from stepcredit.comparison.directory import ComparisonDirectory, open_comparison
from stepcredit.comparison.evaluation_job import EVALUATE, EvaluationJob
from stepcredit.comparison.evaluations import SetEvaluation, read_evaluation
from stepcredit.comparison.process_pool import Failure, ProcessPool, slots
from stepcredit.comparison.progress import Progress
from stepcredit.comparison.protocol import Protocol, make_protocol
from stepcredit.comparison.report import write_comparison_report
from stepcredit.comparison.results import comparison_results
from stepcredit.comparison.tables import markdown
from stepcredit.comparison.training_job import TRAIN, TrainingJob
from stepcredit.comparison.tuning import Choices, choose_settings, chosen_settings
from stepcredit.errors import InputError, StepcreditError, some_of
from stepcredit.runs.directory import environment
from stepcredit.runs.versions import build_versions, result_versions
from stepcredit.utils.files import locked, write_atomically


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        directory: its files.
        results: what results.json holds (see `comparison_results`).
    """

    directory: ComparisonDirectory
    results: Mapping[str, Any]


def compare(
    file: ComparisonFile,
    folder: Path,
    *,
    skip_failed: bool = False,
    command: Sequence[str] = ("stepcredit", "compare"),
    train: Sequence[str] | None = None,
    evaluate: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Execute every run that is not finished, and write results.json, summary.md and report.html into `folder`.

    A comparison that was interrupted continues where it stopped. Nothing is printed.

    Args:
        file: from `read_comparison` or `compare_rules`.
        folder: holds all files of the comparison; created if it does not exist.
        skip_failed: report without the runs that fail. Otherwise a failed run is an error.
        command: the command that is recorded as the origin of the results.
        train: the command that trains, by default `python -m stepcredit train`.
        evaluate: the command that evaluates a run, by default `python -m stepcredit evaluate`.
        progress: is notified of every run.

    Raises:
        InputError: the comparison or its folder is wrong; raised before anything runs.
        StepcreditError: runs failed, and `skip_failed` is False. All other runs are finished.
    """
    begun = environment(command)
    protocol = make_protocol(file, build_versions())
    directory = open_comparison(folder, protocol, begun)
    places, progress = slots(protocol.base, file.jobs), progress or Progress()
    programs = _Programs(train or TRAIN, evaluate or EVALUATE)
    with (
        _exclusive(directory) as lock,
        progress,
        ProcessPool(places, progress, lock) as pool,
    ):
        executed = _execute(protocol, directory, pool, programs, progress, skip_failed)
    _require_unchanged(protocol)
    if executed.failures and not skip_failed:
        raise StepcreditError(_failed(executed.failures))
    results = {
        **comparison_results(
            protocol,
            executed.choices,
            _curves(protocol, directory, executed.cells),
            _evaluations(protocol, executed.evaluations),
        ),
        "protocol": protocol.tree(),
        "versions": result_versions(),
        "failed": [str(failure) for failure in executed.failures],
        "jobs": len(places),
    }
    directory.write_json(directory.results_path, results)
    write_atomically(directory.summary_path, markdown(results, shlex.join(begun["command"])).encode())
    write_comparison_report(directory.path)
    return Comparison(directory, results)


@dataclass(frozen=True)
class _Programs:
    """The commands that train and evaluate a run."""

    train: Sequence[str]
    evaluate: Sequence[str]


@dataclass(frozen=True)
class _Executed:
    """What was executed: the fresh runs, their evaluations, and the jobs that failed."""

    choices: Choices
    cells: Sequence[Cell]
    evaluations: Sequence[EvaluationJob]
    failures: Sequence[Failure]


def _execute(
    protocol: Protocol,
    directory: ComparisonDirectory,
    pool: ProcessPool,
    programs: _Programs,
    progress: Progress,
    skip_failed: bool,
) -> _Executed:
    """Tune, train the fresh runs and evaluate them."""
    cost = comparison_cost(protocol)
    progress.start(cost.tuning_runs + cost.fresh_runs + cost.evaluations, cost.epochs)
    progress.note("\n".join([cost_text(cost, protocol), *_default_lines(protocol), *_evaluation_lines(protocol)]))
    job = partial(TrainingJob, directory=directory, protocol=protocol, program=programs.train)
    choices, failures = _tune(protocol, directory, pool, job, skip_failed)
    progress.note("\n".join(_chosen_lines(choices)))
    cells = fresh_cells(protocol, chosen_settings(choices))
    failures += pool.run([job(cell) for cell in cells])
    evaluations = _evaluation_jobs(protocol, directory, cells, programs.evaluate)
    return _Executed(choices, cells, evaluations, failures + pool.run(evaluations))


@contextmanager
def _exclusive(directory: ComparisonDirectory) -> Iterator[tuple[int, ...]]:
    """Lock the folder. Runs inherit the lock, so that a run that outlived its comparison still keeps others out."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(directory.path))
        except BlockingIOError:
            raise InputError(
                f"{directory.path} is in use by another comparison, or by a run of one that was killed; wait until it "
                "ends, or end it"
            ) from None
        yield lock


def _tune(
    protocol: Protocol,
    directory: ComparisonDirectory,
    pool: ProcessPool,
    job: Callable[[Cell], TrainingJob],
    skip_failed: bool,
) -> tuple[Choices, list[Failure]]:
    """Choose the settings, and write them before the first run that uses them."""
    cells = tuning_cells(protocol)
    failures = pool.run([job(cell) for cell in cells])
    criteria = {
        cell: curve.criterion(protocol.last_epochs) for cell, curve in _curves(protocol, directory, cells).items()
    }
    choices = choose_settings(protocol, criteria, skip_failed)
    by_reward: dict[str, Any] = {reward: {} for reward in protocol.rewards}
    for (reward, arm), choice in choices.items():
        by_reward[reward][arm] = choice.as_json()
    directory.write_json(directory.rates_path, by_reward)
    return choices, failures


def _default_lines(protocol: Protocol) -> list[str]:
    """A line for each arm that has other defaults than the base configuration."""
    return [f"defaults of {arm}: {settings_text(values)}" for arm, values in protocol.model_defaults.items()]


def _evaluation_lines(protocol: Protocol) -> list[str]:
    return [f"every fresh run is evaluated on {protocol.evaluate.text()}"] if protocol.evaluate else []


def _chosen_lines(choices: Choices) -> list[str]:
    """A line for each reward."""
    by_reward: dict[str, list[str]] = {}
    for (reward, arm), choice in choices.items():
        by_reward.setdefault(reward, []).append(f"{arm}: {choice.setting or 'none'}")
    return [f"settings on {reward}: {'; '.join(arms)}" for reward, arms in by_reward.items()]


def _curves(protocol: Protocol, directory: ComparisonDirectory, cells: Sequence[Cell]) -> Mapping[Cell, Curve]:
    """The curves of the finished runs."""
    return {
        cell: read_curve(directory.run(cell), protocol.watch, cell.config(protocol).train.epochs)
        for cell in cells
        if directory.finished(cell)
    }


def _evaluation_jobs(
    protocol: Protocol, directory: ComparisonDirectory, cells: Sequence[Cell], program: Sequence[str]
) -> list[EvaluationJob]:
    """The evaluations of the finished runs."""
    plan = protocol.evaluate
    finished = [cell for cell in cells if directory.finished(cell)]
    return [EvaluationJob(cell, directory, protocol, plan, program) for cell in finished] if plan else []


def _evaluations(protocol: Protocol, jobs: Sequence[EvaluationJob]) -> dict[Cell, list[SetEvaluation]] | None:
    """What the finished evaluations found; None if the comparison evaluates nothing."""
    if protocol.evaluate is None:
        return None
    return {
        job.cell: read_evaluation(job.directory.evaluation(job.cell), job.cell.config(protocol).reward, protocol.watch)
        for job in jobs
        if job.finished()
    }


def _require_unchanged(protocol: Protocol) -> None:
    current = protocol.file_digests()
    changed = [name for name, digest in current.items() if digest != protocol.files[name]]
    if changed:
        raise StepcreditError(
            f"{some_of(changed)} changed during the comparison, so the runs may have used different versions: compare "
            "again with another --run"
        )


def _failed(failures: Sequence[Failure]) -> str:
    return (
        f"{len(failures)} of the runs failed, the others are finished: {some_of([*map(str, failures)])}; fix this and "
        "give the same command again (if the comparison itself changes, with another --run), or report without them "
        "with --skip-failed"
    )
