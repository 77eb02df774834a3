"""`stepcredit evaluate`: what runs and models score on given prompts and noise, with and without training."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from stepcredit.cli._evaluated import Judges, chosen_prompts, chosen_rewards
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, RewardError
from stepcredit.evaluation.base_and_tuned import SideBySide
from stepcredit.evaluation.cross_table import cross_tables
from stepcredit.evaluation.diversity import SPACE
from stepcredit.evaluation.measure import BATCH, PromptSet
from stepcredit.evaluation.results import METHOD, findings
from stepcredit.evaluation.source import Source, open_source
from stepcredit.evaluation.tables import cross_text, evaluation_text
from stepcredit.runs.progress import live_bar
from stepcredit.training.sampling_plan import evaluation_plan
from stepcredit.utils.files import write_atomically


def evaluate(
    names: Sequence[str],
    prompts: Sequence[str],
    rewards: Sequence[str],
    out: Path | None,
    images: int,
    seed: int,
    asked: Mapping[str, float | None],
    cross: bool,
    as_json: bool,
) -> None:
    """Print what runs and models score, as tables or as one JSON object, and write the object to `out`.

    Args:
        names: of run directories or models; of several, all must be runs.
        prompts: bundled lists, files, or `training` and `held-out` of each run, which are the default.
        rewards: besides those the runs were trained on: names, NAME@URL of a reward server, user functions.
        images: per prompt.
        asked: `steps` and `guidance`; None is the source's own.
        cross: add the table of runs against rewards, as several runs always do.

    Raises:
        InputError: whatever is wrong with a source, prompts, a reward or `out`; told before anything is sampled.
        RewardError: a reward failed on an image.
    """
    sources = [open_source(name, "to evaluate") for name in dict.fromkeys(names)]
    cross = cross or len(sources) > 1
    if cross:
        _require_runs(sources)
    sets = {source.name: chosen_prompts(source, prompts) for source in sources}
    _require_writable(out)
    judges = chosen_rewards(sources, rewards)
    total = images * sum(len(found.prompts) * _sides(source) for source in sources for found in sets[source.name])
    with _progress(total) as tick:
        side_by_side = SideBySide(judges.rewards, images, seed, tick=tick)
        found = [_evaluation(source, sets[source.name], side_by_side, judges, asked) for source in sources]
    result = {
        "seed": seed,
        "images_per_prompt": images,
        "uncertainty": METHOD,
        "diversity": f"mean distance of the images of one prompt: {SPACE}",
        "evaluations": found,
        "cross": cross_tables(found) if cross else [],
    }
    _tell(result, as_json)
    _write(result, out)


def _evaluation(
    source: Source, sets: Sequence[PromptSet], measured: SideBySide, judges: Judges, asked: Mapping[str, float | None]
) -> dict[str, Any]:
    """Everything about one run or model."""
    policy, config = source.load(asked)
    plan = (
        evaluation_plan(config, config.images_per_epoch or BATCH) if source.trained else evaluation_plan(config, BATCH)
    )
    found = []
    for prompts in sets:
        try:
            sides = measured(policy, prompts, plan, source.trained, _model(config))
        except RewardError as error:
            raise RewardError(f"{source.name}, {prompts.name} prompts, {error}") from error
        found.append(findings(prompts, sides, measured.seed))
    return {
        "source": source.name,
        "model": config.model.path,
        "trained_on": judges.trained_on.get(source.name),
        "checkpoint": source.weights.name if source.weights is not None else None,
        "steps": plan.steps,
        "guidance": config.sample.guidance,
        "sets": found,
    }


def _model(config: TrainConfig) -> str:
    """Equal for runs whose base models are the same and sample the same way."""
    return config.model.model_dump_json() + config.sample.model_dump_json()


def _sides(source: Source) -> int:
    return 2 if source.trained else 1


def _require_runs(sources: Sequence[Source]) -> None:
    for source in sources:
        if not source.trained:
            raise InputError(f"{source.name} is a model: a cross table compares runs; evaluate models one at a time")


def _require_writable(out: Path | None) -> None:
    """Refuse early what `_write` would fail on after all images; nothing is created."""
    if out is None:
        return
    if out.is_dir():
        raise InputError(f"cannot write to {out}: it is a folder; choose another --out")
    place = next(folder for folder in (out.absolute().parent, *out.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"cannot write to {out}: {place} is not a folder that can be written; choose another --out")


def _write(result: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    try:
        write_atomically(out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from error


def _tell(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return
    blocks = [*map(evaluation_text, result["evaluations"]), *map(cross_text, result["cross"])]
    notes = [f"mean ± standard error [interval]: {result['uncertainty']}", f"diversity: {result['diversity']}"]
    print("\n\n".join([*blocks, *(textwrap.fill(note, 110) for note in notes)]))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A line on the terminal, on stderr so that stdout is the result alone; nothing where there is no terminal."""
    console = Console(stderr=True)
    with live_bar(console, "images", "{task.completed:.0f}/{task.total:.0f}") as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)
