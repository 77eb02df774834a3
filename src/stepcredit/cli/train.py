"""`stepcredit train`: start a run or resume one.

Nothing here imports torch at the top, so that a mistyped key is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, Interrupted
from stepcredit.runs import recipes
from stepcredit.runs.directory import RunDirectory, next_run_path
from stepcredit.training.resume import require_same_run
from stepcredit.utils.signals import interruptible

RUNS = Path("runs")


def train(
    recipe: Sequence[str],
    overrides: Sequence[str],
    run: Path | None,
    resume: bool,
    plugins: Sequence[str] = (),
    weights: Path | None = None,
    allow_change: bool = False,
) -> None:
    """Train as the command line asks.

    Args:
        recipe: at most one recipe.
        overrides: `section.key=value`.
        run: the run directory.
        resume: resume the run in `run`, or the newest one.
        plugins: to import, in addition to `run.plugins`.
        weights: a run to take the starting weights from, and without a recipe its configuration.
        allow_change: resume with a configuration that changes the results.

    Raises:
        StepcreditError: the run cannot start, or has stopped.
    """
    if len(recipe) > 1:
        raise InputError(f"give one recipe, not {len(recipe)}: {' '.join(recipe)}; overrides are section.key=value")
    if allow_change and not resume:
        raise InputError("--allow-change is only for --resume: add --resume, or leave out --allow-change")
    if weights is not None and resume:
        raise InputError("--from starts a new run, and --resume continues one: give only one of them")
    name = recipe[0] if recipe else None
    with _interruptible():
        if resume:
            _resume(name, overrides, run or _newest_run(), plugins, allow_change)
        else:
            _start(name, overrides, run, plugins, weights)


def _start(
    recipe: str | None, overrides: Sequence[str], run: Path | None, plugins: Sequence[str], weights: Path | None
) -> None:
    base = recipe if recipe is not None or weights is None else RunDirectory.open(weights).config_path
    config = _with_plugins(recipes.load(base, overrides, model_defaults=recipe is not None or weights is None), plugins)
    stem = Path(recipe or (weights.name if weights else recipes.DEFAULT)).stem
    from stepcredit.runs.progress import ConsoleProgress
    from stepcredit.training.run import start_run

    start_run(config, lambda: run or next_run_path(RUNS, stem), weights=weights, progress=ConsoleProgress)


def _resume(
    recipe: str | None, overrides: Sequence[str], run: Path, plugins: Sequence[str], allow_change: bool
) -> None:
    """Resume with the run's own configuration, or with a recipe, and the overrides on top."""
    directory = RunDirectory.open(run)
    config = _with_plugins(
        recipes.load(recipe or directory.config_path, overrides, model_defaults=recipe is not None), plugins
    )
    require_same_run(directory, config, allow_change=allow_change)
    from stepcredit.runs.progress import ConsoleProgress
    from stepcredit.training.run import resume_run

    resume_run(config, directory, allow_change=allow_change, progress=ConsoleProgress)


def _with_plugins(config: TrainConfig, plugins: Sequence[str]) -> TrainConfig:
    """Record the plugins, so that the run can be resumed without naming them again.

    A file takes the place of a recorded one of the same name, which may have moved.
    """
    files = {Path(name).name for name in plugins}
    names = [*dict.fromkeys([*(name for name in config.run.plugins if Path(name).name not in files), *plugins])]
    return config.model_copy(update={"run": config.run.model_copy(update={"plugins": names})})


def _newest_run() -> Path:
    runs = sorted(RUNS.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise InputError(f"no run under {RUNS}/ to resume; name one with --run")
    return runs[-1].parent


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted before training began; nothing was written") from None
