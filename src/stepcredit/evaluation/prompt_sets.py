"""Prompt sets to evaluate on: those that a run was trained on, its held-out list, or any other list or file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.evaluation.source import Source
from stepcredit.prompts import load_prompts, prompt_names
from stepcredit.prompts.draw import seen_prompts
from stepcredit.types import Prompt

TRAINING, HELD_OUT = "training", "held-out"
"""Names of the prompts that a run was trained on, and of the bundled held-out list that belongs to them."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts with a name.

    Attributes:
        name: the name in tables: `training`, `held-out`, or the source.
        source: the bundled list or the file that the prompts come from.
        prompts: at least one.
    """

    name: str
    source: str
    prompts: Sequence[Prompt]


def choose_prompt_sets(source: Source, names: Sequence[str | PromptSet]) -> list[PromptSet]:
    """Load prompt sets for a run or a model, each once.

    Args:
        names: `training`, `held-out`, bundled lists, files, or ready sets. If empty, the prompts that the run was
            trained on, and the held-out list if there is one.

    Raises:
        InputError: no names for a model, or a list or file that does not exist or holds no prompts.
    """
    if names:
        unique = dict.fromkeys(name for name in names if isinstance(name, str))
        loaded = {name: _load(source, name) for name in unique}
        ready = [name for name in names if isinstance(name, PromptSet)]
        return [*loaded.values(), *ready]
    if not source.is_run:
        raise InputError(f"{source.name} is a model, which has no prompts of its own: give --prompts NAME or FILE")
    defaults = [TRAINING, HELD_OUT] if _held_out_list(source) in prompt_names() else [TRAINING]
    return [_load(source, name) for name in defaults]


def _load(source: Source, name: str) -> PromptSet:
    if name not in (TRAINING, HELD_OUT):
        return PromptSet(name, name, load_prompts(name))
    if not source.is_run:
        raise InputError(f"{source.name} is a model, which has no {name} prompts: give --prompts NAME or FILE")
    training, held_out = source.prompt_source, _held_out_list(source)
    if name == HELD_OUT:
        if held_out not in prompt_names():
            raise InputError(
                f"{source.name} is trained on {training}, which has no held-out list: give --prompts NAME or FILE"
            )
        return PromptSet(name, held_out, load_prompts(held_out))
    return PromptSet(name, training, trained_prompts(source.config, load_prompts(training)))


def trained_prompts(config: TrainConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The part of `prompts`, the whole source of a run, that its epochs train on."""
    return seen_prompts(
        prompts,
        epochs=config.train.epochs,
        seed=config.run.seed,
        count=config.sample.prompts_per_epoch,
        order=config.prompts.order,
    )


def _held_out_list(source: Source) -> str:
    """The bundled list that would hold the held-out prompts; it need not exist."""
    return f"{source.config.prompts.source}-held-out"
