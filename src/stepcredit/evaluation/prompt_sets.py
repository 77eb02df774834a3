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
    return own_prompt_sets(source.config, source.prompt_source, load_prompts(source.prompt_source))


def own_prompt_sets(config: TrainConfig, source: str, prompts: Sequence[Prompt]) -> list[PromptSet]:
    """The prompts that a run is trained on, and the bundled held-out list that belongs to them, if there is one.

    Args:
        source: where `prompts`, all of the run's, come from.
    """
    training, held_out = PromptSet(TRAINING, source, trained_prompts(config, prompts)), held_out_list(config)
    if held_out not in prompt_names():
        return [training]
    return [training, PromptSet(HELD_OUT, held_out, load_prompts(held_out))]


def _load(source: Source, name: str) -> PromptSet:
    if name not in (TRAINING, HELD_OUT):
        return PromptSet(name, name, load_prompts(name))
    if not source.is_run:
        raise InputError(f"{source.name} is a model, which has no {name} prompts: give --prompts NAME or FILE")
    training, held_out = source.prompt_source, held_out_list(source.config)
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


def held_out_list(config: TrainConfig) -> str:
    """The bundled list that would hold the held-out prompts; it need not exist."""
    return f"{config.prompts.source}-held-out"
