"""Standing controls of a comparison of credit rules: arms that are added unless the user leaves them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stepcredit.algorithms.sampling_plan import noisy_steps
from stepcredit.comparison.comparison_file import DROP_LAST
from stepcredit.config import TrainConfig

DEFAULT_K = 2


def control_arms(
    controls: Sequence[str], base: TrainConfig, arms: Mapping[str, TrainConfig]
) -> dict[str, dict[str, Any]]:
    """The control arms to add, by name, as overrides of `base`.

    A control is a credit rule on the base configuration. None is added if all arms have the same credit, because then
    the comparison is about something else. A rule that an arm uses already is not added again.

    Args:
        controls: credit rules.
        arms: the configurations of the arms.
    """
    credits = {config.credit.model_dump_json() for config in arms.values()}
    if len(credits) < 2:
        return {}
    rules = {config.credit.name for config in arms.values()}
    added = [name for name in controls if name not in rules and not _taken(name, arms)]
    overrides = {name: _overrides(name, base) for name in added}
    return {name: keys for name, keys in overrides.items() if keys is not None}


def _taken(name: str, arms: Collection[str]) -> bool:
    """Whether an arm has the name; folders may ignore case."""
    return name.casefold() in {arm.casefold() for arm in arms}


def _overrides(name: str, base: TrainConfig) -> dict[str, Any] | None:
    """`drop-last` drops fewer than 2 steps if only a few are trained, and is None if it would drop all of them."""
    if name != DROP_LAST:
        return {"credit.name": name}
    trained = len(noisy_steps(base.sample, 0)) - 1  # the last step may have no noise
    k = min(DEFAULT_K, trained - 1)
    if k < 1:
        return None
    return {"credit.name": name} | ({} if k == DEFAULT_K else {"credit.options": {"k": k}})
