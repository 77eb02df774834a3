"""What the evaluation of a finished run measured: a number for each figure, before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.config import MIXTURE, RewardSection
from stepcredit.errors import InputError, shortened
from stepcredit.evaluation.base_and_tuned import BASE, TUNED
from stepcredit.evaluation.set_statistics import set_statistics
from stepcredit.report.metrics import json_object

REWARDS, PASS_RATES = "rewards", "pass_rates"
_REMEDY = "delete it and give the same command again, which evaluates the run again"

Figures = Mapping[str, float]
"""By `rewards.NAME`, `pass_rates.NAME` or the name of a set statistic."""


@dataclass(frozen=True)
class SetEvaluation:
    """One run on one prompt set.

    Attributes:
        name: of the prompt set.
        prompts: their number.
        images: of all prompts.
        base: the model without its trained weights.
        tuned: the trained model.
        baselines: of the set statistics, by their keys.
    """

    name: str
    prompts: int
    images: int
    base: Figures
    tuned: Figures
    baselines: Mapping[str, float]


def read_evaluation(path: Path, reward: RewardSection, watch: tuple[str, ...]) -> list[SetEvaluation]:
    """Read what `evaluate` wrote about a run.

    Args:
        reward: that the run was trained on, with the watched ones.
        watch: the watched rewards.

    Raises:
        InputError: the file is damaged.
    """
    alone = _is_alone(reward, watch)
    try:
        (evaluation,) = json_object(path, _REMEDY)["evaluations"]
        return [_set(one, alone) for one in evaluation["sets"]]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not what `evaluate` writes ({type(error).__name__}: {shortened(str(error))}); {_REMEDY}"
        ) from error


def figure_label(figure: str) -> str:
    """The name of a figure in tables.

    >>> figure_label("rewards.warmth"), figure_label("pass_rates.composition"), figure_label("diversity")
    ('warmth', 'composition, pass rate', 'diversity')
    """
    kind, _, name = figure.partition(".")
    if kind == REWARDS:
        return name
    if kind == PASS_RATES:
        return f"{name}, pass rate"
    statistic = set_statistics().get(figure)
    return figure if statistic is None else statistic.label


def _is_alone(reward: RewardSection, watch: tuple[str, ...]) -> bool:
    """Whether a mixture equals its only component that is not watched."""
    labels = {name.rpartition(":")[2] for name in watch}
    own = [part for part in reward.components if part.weight != 0 or part.called not in labels]
    return len(own) == 1 and own[0].weight == 1 and own[0].standardize == "none"


def _set(found: Mapping[str, Any], alone: bool) -> SetEvaluation:
    sides = {side: dict(_figures(found, side, alone)) for side in (BASE, TUNED)}
    baselines = [key for statistic in set_statistics().values() for key in statistic.baselines if key in found]
    return SetEvaluation(
        found["name"],
        found["prompts"],
        found["images"],
        sides[BASE],
        sides[TUNED],
        {key: float(found[key]) for key in baselines},
    )


def _figures(found: Mapping[str, Any], side: str, alone: bool) -> Iterator[tuple[str, float]]:
    """The figures that are known. Each reward is followed by its pass rate."""
    for name in found[REWARDS]:
        if alone and name == MIXTURE:
            continue
        label = name.removeprefix(f"{MIXTURE}.")
        yield f"{REWARDS}.{label}", found[REWARDS][name][side]["mean"]
        if name in found[PASS_RATES]:
            yield f"{PASS_RATES}.{label}", found[PASS_RATES][name][side]["mean"]
    for name in set_statistics():
        value = found[name][side] if name in found else None
        number = value["mean"] if isinstance(value, Mapping) else value
        if number is not None:
            yield name, float(number)
