"""Evaluate runs and models: which prompts, which rewards, base against tuned weights, runs against rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepcredit.algorithms.sampling_plan import evaluation_plan
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, RewardError
from stepcredit.evaluation.base_and_tuned import BaseAndTuned
from stepcredit.evaluation.cross_table import cross_tables
from stepcredit.evaluation.long_prompts import long_prompt_notes
from stepcredit.evaluation.measure import BATCH
from stepcredit.evaluation.prompt_sets import PromptSet, choose_prompt_sets
from stepcredit.evaluation.results import METHOD, prompt_set_results
from stepcredit.evaluation.reward_set import choose_rewards
from stepcredit.evaluation.set_statistics import set_statistics
from stepcredit.evaluation.source import Source, open_source
from stepcredit.runs.versions import result_versions
from stepcredit.types import Policy


def evaluate_sources(
    names: Sequence[str],
    prompts: Sequence[str | PromptSet] = (),
    rewards: Sequence[str] = (),
    *,
    images: int = 4,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    cross: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score runs and models on the same prompts and noise. Nothing is printed or written.

    Args:
        names: run directories, or models. Several names must all be runs.
        prompts: bundled lists, files, prompt sets, or `training` and `held-out` of each run, which are the default.
        rewards: in addition to those that the runs were trained on: names, NAME@URL of a reward server, or user code as
            `module:function` or `path/file.py:function`.
        images: per prompt, at least 1.
        seed: of the noise and of the bootstrap.
        steps: denoising steps. None uses those of each source.
        guidance: guidance scale. None uses that of each source.
        cross: add the table of runs against rewards. Several runs always get it.
        on_progress: called with the number of images done and the number of all images.
        on_note: called with each note, such as that a prompt is longer than the model reads.

    Returns:
        What `stepcredit evaluate --json` prints: `evaluations`, one for each name (see `evaluate_policy`), `cross`,
        `seed`, `images_per_prompt`, the methods in words as `uncertainty` and under the name of each set statistic, and
        `versions` (see `result_versions`).

    Raises:
        InputError: a bad source, prompt set or reward; raised before anything is sampled.
        RewardError: a reward failed on an image.
    """
    sources = [open_source(name, "to evaluate") for name in dict.fromkeys(names)]
    cross = cross or len(sources) > 1
    if cross:
        _require_runs(sources)
    sets = {source.name: choose_prompt_sets(source, prompts) for source in sources}
    chosen = choose_rewards(sources, rewards)
    total = images * sum(len(one.prompts) * (1 + source.is_run) for source in sources for one in sets[source.name])
    measure = BaseAndTuned(chosen.rewards, images, seed, on_images=_cumulative(on_progress, total))
    evaluations = []
    for source in sources:
        policy, config = source.load(steps=steps, guidance=guidance)
        _note_long_prompts(policy, sets[source.name], measure, on_note)
        scores = evaluate_policy(policy, config, sets[source.name], measure, name=source.name, trained=source.is_run)
        evaluations.append(_about(source, config, chosen.trained_on.get(source.name)) | scores)
    return _results(evaluations, images, seed, cross)


def _results(evaluations: Sequence[dict[str, Any]], images: int, seed: int, cross: bool) -> dict[str, Any]:
    """What `evaluate_sources` returns."""
    return {
        "seed": seed,
        "images_per_prompt": images,
        "uncertainty": METHOD,
        **_meanings(evaluations),
        "versions": result_versions(),
        "evaluations": evaluations,
        "cross": cross_tables(evaluations) if cross else [],
    }


def _note_long_prompts(
    policy: Policy, sets: Sequence[PromptSet], measure: BaseAndTuned, on_note: Callable[[str], None]
) -> None:
    """Call `on_note` with each note about prompts that the model or a reward does not read to the end."""
    for note in long_prompt_notes(policy, [prompt for one in sets for prompt in one.prompts], measure.rewards.values()):
        on_note(note)


def _meanings(evaluations: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What the set statistics mean that a prompt set has."""
    sets = [one for evaluation in evaluations for one in evaluation["sets"]]
    return {name: statistic.meaning for name, statistic in set_statistics().items() if any(name in one for one in sets)}


def _about(source: Source, config: TrainConfig, trained_on: str | None) -> dict[str, str | None]:
    """Which source an evaluation is of."""
    checkpoint = source.checkpoint.name if source.checkpoint is not None else None
    return {"source": source.name, "model": config.model.path, "trained_on": trained_on, "checkpoint": checkpoint}


def evaluate_policy(
    policy: Policy,
    config: TrainConfig,
    prompts: Sequence[PromptSet],
    measure: BaseAndTuned,
    *,
    name: str,
    trained: bool = True,
) -> dict[str, Any]:
    """Score a policy that is in memory.

    Args:
        config: the configuration that the policy was built with; it sets steps, guidance and batch.
        measure: the rewards, the number of images and the seed. Use one object for several policies, so that a base
            model that they share is measured once.
        name: of the policy in error messages.
        trained: whether to score the tuned weights in addition to the base.

    Returns:
        `steps`, `guidance` and `sets`, one for each prompt set (see `prompt_set_results`).

    Raises:
        RewardError: a reward failed on an image.
    """
    plan = evaluation_plan(config, (trained and config.images_per_epoch) or BATCH)
    model = config.model.model_dump_json() + config.sample.model_dump_json()
    sets = []
    for prompt_set in prompts:
        try:
            sides = measure(policy, prompt_set, plan, trained, model)
        except RewardError as error:
            raise RewardError(f"{name}, {prompt_set.name} prompts, {error}") from error
        sets.append(prompt_set_results(prompt_set, sides, measure.seed))
    return {"steps": plan.steps, "guidance": config.sample.guidance, "sets": sets}


def _cumulative(on_progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Turn a report of (images done, all images) into one of the images of a batch."""
    done = 0

    def add(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, total)

    add(0)
    return add


def _require_runs(sources: Sequence[Source]) -> None:
    for source in sources:
        if not source.is_run:
            raise InputError(f"{source.name} is a model: a cross table compares runs; evaluate models one at a time")
