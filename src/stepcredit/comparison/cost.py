"""What a comparison costs, which is said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from stepcredit.comparison.cells import pairs, tuned
from stepcredit.comparison.protocol import Protocol
from stepcredit.config import TrainConfig
from stepcredit.prompts import load_prompts


@dataclass(frozen=True)
class Cost:
    """Numbers of runs, and of epochs and reward queries of all runs together.

    Attributes:
        tuning_runs: on tuning seeds.
        fresh_runs: on fresh seeds.
        evaluations: of fresh runs after training; their reward queries are not counted.
    """

    tuning_runs: int
    fresh_runs: int
    epochs: int
    queries: int
    evaluations: int = 0


def comparison_cost(protocol: Protocol) -> Cost:
    """Count the runs of a comparison, whether or not some of them are finished."""
    tuning = fresh = epochs = queries = 0
    for reward, arm in pairs(protocol):
        runs = len(protocol.tuning_seeds) * len(protocol.grid(arm)) if tuned(protocol, arm) else 0
        config = protocol.config(reward, arm, None, 0)
        tuning += runs
        fresh += len(protocol.fresh_seeds)
        epochs += (runs + len(protocol.fresh_seeds)) * config.train.epochs
        queries += (runs + len(protocol.fresh_seeds)) * config.train.epochs * _images(config)
    return Cost(tuning, fresh, epochs, queries, fresh if protocol.evaluate else 0)


def cost_text(cost: Cost, protocol: Protocol) -> str:
    """One line: how many runs, why, and how to make them fewer."""
    runs = f"{cost.tuning_runs + cost.fresh_runs} runs, {cost.epochs:,} epochs, {cost.queries:,} reward queries"
    fresh = (
        f"{cost.fresh_runs} to compare {_plural(len(protocol.arms), 'arm')} ({', '.join(protocol.arms)}) on "
        f"{_plural(len(protocol.rewards), 'reward')} with {_plural(len(protocol.fresh_seeds), 'seed')}"
    )
    if not cost.tuning_runs:
        return f"{runs}: {fresh}; nothing is tuned"
    grids = [protocol.grid(arm) for arm in protocol.arms]
    rates = max(len({setting.learning_rate for setting in grid}) for grid in grids)
    clips = max(len({setting.clip_range for setting in grid}) for grid in grids)
    tried = [_plural(count, name) for count, name in ((rates, "learning rate"), (clips, "clip range")) if count > 1]
    return (
        f"{runs}: {cost.tuning_runs} to choose from {' x '.join(tried)} for each arm on "
        f"{_plural(len(protocol.tuning_seeds), 'tuning seed')}, then {fresh}"
    )


def _images(config: TrainConfig) -> int:
    """Images of an epoch."""
    return config.images_per_epoch or len(load_prompts(config.prompts.source)) * config.sample.images_per_prompt


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
