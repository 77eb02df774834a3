"""`stepcredit compare`: compare credit rules, or the arms of a comparison file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepcredit.comparison.comparison_file import ComparisonFile, compare_rules, is_comparison, read_comparison
from stepcredit.errors import InputError, Interrupted
from stepcredit.runs import recipes
from stepcredit.utils.signals import interruptible

RUNS = Path("runs")


@dataclass(frozen=True)
class RecipeOptions:
    """The options that describe a comparison on a recipe, as they are typed. None uses the default."""

    credit: str | None = None
    reward: str | None = None
    reference: str | None = None
    seeds: int | None = None
    learning_rates: str | None = None
    clip_ranges: str | None = None
    tuning_seeds: int | None = None
    last_epochs: int | None = None
    watch: str | None = None
    controls: str | None = None

    def given(self) -> list[str]:
        """The options that are not None, as they are typed."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]


def compare(
    sources: Sequence[str],
    overrides: Sequence[str],
    options: RecipeOptions,
    run: Path | None,
    jobs: int | None,
    skip_failed: bool,
    train: Sequence[str] | None = None,
    evaluate: Sequence[str] | None = None,
) -> None:
    """Execute every run that is not finished, then print the results.

    Args:
        sources: one comparison file, or one recipe.
        overrides: `section.key=value`, for every run.
        options: of a recipe only.
        run: the folder; `runs/<name of the source>` by default.
        jobs: runs at a time.
        skip_failed: report without the runs that fail.
        train: the command that trains, by default `python -m stepcredit train`.
        evaluate: the command that evaluates a run, by default `python -m stepcredit evaluate`.

    Raises:
        InputError: the comparison or its folder is wrong; raised before anything runs.
        StepcreditError: runs failed; all others are finished.
        Interrupted: by Ctrl-C or SIGTERM; all runs are stopped.
    """
    if len(sources) != 1:
        raise InputError(f"give one comparison file or recipe, not {len(sources)}; overrides are section.key=value")
    path = recipes.find(sources[0])
    from_file = is_comparison(path)
    if from_file and options.given():
        raise InputError(f"{sources[0]} is a comparison: write {options.given()[0]} into the file instead")
    file = read_comparison(path, overrides, jobs) if from_file else _of_recipe(sources[0], overrides, options, jobs)
    folder = run or RUNS / (path.stem if from_file else f"{path.stem}-compare")
    if "=" in str(folder):
        raise InputError(f"{folder} contains '=', which `train` reads as an override; choose another --run")
    try:
        with interruptible():
            _compare(file, folder, skip_failed, train, evaluate)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; all runs are stopped, and the same command resumes the comparison") from None


def _compare(
    file: ComparisonFile,
    folder: Path,
    skip_failed: bool,
    train: Sequence[str] | None,
    evaluate: Sequence[str] | None,
) -> None:
    from stepcredit.comparison import run, tables  # torch takes seconds to import
    from stepcredit.comparison.progress import ConsoleProgress

    command = ["stepcredit", *sys.argv[1:]]
    finished = run.compare(
        file,
        folder,
        skip_failed=skip_failed,
        command=command,
        train=train,
        evaluate=evaluate,
        progress=ConsoleProgress(),
    )
    files = finished.directory
    print(tables.text(finished.results))
    print(f"\nall figures: {files.results_path}\nsummary:     {files.summary_path}\nreport:      {files.report_path}")


def _of_recipe(recipe: str, overrides: Sequence[str], options: RecipeOptions, jobs: int | None) -> ComparisonFile:
    if options.credit is None:
        raise InputError(f"{recipe} is a recipe: give the credit rules to compare with --credit NAME,NAME,...")
    return compare_rules(
        recipe,
        _names("credit", options.credit),
        overrides=overrides,
        rewards=_names("reward", options.reward or ""),
        reference=options.reference,
        seeds=options.seeds,
        learning_rates=_optional_names("learning-rates", options.learning_rates),
        clip_ranges=_optional_names("clip-ranges", options.clip_ranges),
        tuning_seeds=options.tuning_seeds,
        last_epochs=options.last_epochs,
        watch=_optional_names("watch", options.watch),
        controls=[] if options.controls == "none" else _optional_names("controls", options.controls),
        jobs=jobs,
        where="the command line",
    )


def _optional_names(option: str, text: str | None) -> list[str] | None:
    return None if text is None else _names(option, text)


def _names(option: str, text: str) -> list[str]:
    """The names in `a,b,c`; none for an empty text."""
    names = [name.strip() for name in text.split(",")] if text else []
    if "" in names:
        raise InputError(f"--{option} {text} has an empty name; separate names by one comma")
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise InputError(f"--{option} has {duplicate} twice; give each once")
    return names
