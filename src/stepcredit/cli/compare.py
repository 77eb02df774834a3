"""`stepcredit compare`: credit rules against each other on one recipe, with nothing left to choose afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepcredit.comparison.comparison_file import ComparisonFile, comparison, is_comparison, read_comparison
from stepcredit.errors import InputError, Interrupted
from stepcredit.runs import recipes
from stepcredit.utils.signals import interruptible

RUNS = Path("runs")
SEEDS, TUNING_SEEDS = 5, 2
FIRST_TUNING_SEED, FIRST_FRESH_SEED = 1, 101
REFERENCE = "uniform"


@dataclass(frozen=True)
class Asked:
    """A comparison given as options instead of a file; None is left to the defaults."""

    credit: str | None = None
    reward: str | None = None
    reference: str | None = None
    seeds: int | None = None
    learning_rates: str | None = None
    tuning_seeds: int | None = None
    last_epochs: int | None = None
    watch: str | None = None

    def given(self) -> list[str]:
        """The options that were, as they are typed."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]


def compare(
    sources: Sequence[str],
    overrides: Sequence[str],
    asked: Asked,
    run: Path | None,
    jobs: int | None,
    skip_failed: bool,
    train: Sequence[str] | None = None,
) -> None:
    """Do every run that is not finished, then print what they amount to and write it beside them.

    Args:
        sources: one comparison file, or one recipe, whose arms are then those `asked` for.
        overrides: `section.key=value` for every run.
        run: the folder; `runs/<name of the source>` by default.
        jobs: runs at a time.
        skip_failed: report without the runs that fail, which are named, instead of ending with an error.
        train: the command that trains, by default this program's.

    Raises:
        InputError: whatever is wrong with the comparison or its folder; told before anything runs.
        StepcreditError: runs failed; all others are finished.
        Interrupted: by Ctrl-C or SIGTERM; no run is left behind.
    """
    if len(sources) != 1:
        raise InputError(f"give one comparison file or recipe, not {len(sources)}; overrides are section.key=value")
    source = sources[0]
    path = recipes.find(source)
    written = is_comparison(path)
    if written and asked.given():
        raise InputError(f"{source} is a comparison, which says itself what {asked.given()[0]} would: leave it out")
    file = read_comparison(path, overrides, jobs) if written else _of_recipe(source, overrides, asked, jobs)
    folder = run or RUNS / (path.stem if written else f"{path.stem}-compare")
    if "=" in str(folder):
        raise InputError(
            f"{folder} has a '=' in it, which the runs in it could not be named with; choose another --run"
        )
    try:
        with interruptible():
            from stepcredit.comparison.run import carry_out  # torch takes seconds to import

            carry_out(file, folder, skip_failed, train)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; no run is left behind, and the same command goes on from here") from None


def _of_recipe(source: str, overrides: Sequence[str], asked: Asked, jobs: int | None) -> ComparisonFile:
    """The comparison that the options describe."""
    if asked.credit is None:
        raise InputError(f"{source} is a recipe: say what to compare on it with --credit NAME,NAME,...")
    arms = _names("credit", asked.credit)
    rates = _names("learning-rates", asked.learning_rates or "")
    tuning = asked.tuning_seeds if asked.tuning_seeds is not None or len(rates) < 2 else TUNING_SEEDS
    tree = {
        "recipe": source,
        "overrides": dict(map(recipes.parsed, overrides)),
        "arms": {name: name for name in arms},
        "reference": asked.reference or (REFERENCE if REFERENCE in arms else arms[0]),
        "rewards": _names("reward", asked.reward or ""),
        "learning_rates": rates,
        "tuning_seeds": _count(FIRST_TUNING_SEED, tuning or 0),
        "fresh_seeds": _count(FIRST_FRESH_SEED, SEEDS if asked.seeds is None else asked.seeds),
        "criterion": {} if asked.last_epochs is None else {"last_epochs": asked.last_epochs},
        "watch": None if asked.watch is None else _names("watch", asked.watch),
        "jobs": jobs,
    }
    return comparison(tree, "the command line")


def _count(first: int, number: int) -> list[int]:
    return list(range(first, first + number))


def _names(option: str, text: str) -> list[str]:
    """Of `a,b,c`; none of an empty text."""
    names = [name.strip() for name in text.split(",")] if text else []
    if "" in names:
        raise InputError(f"--{option} {text} has an empty name in it; separate names by one comma")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--{option} names {twice} twice; each must be given once")
    return names
