"""Measure whether training on a subset of the steps gives more reward in the same time, on the embedded pipeline.

    OMP_NUM_THREADS=1 uv run python benchmarks/sampled_steps.py --run runs/sampled_steps

The arms train on all T = 20 steps, on T/2 and T/4 steps drawn by credit x native scale, and on T/4 steps drawn
uniformly. Arms with fewer steps get more epochs, so that all take about the same time. `stepcredit compare` runs them
one at a time. To resume after an interruption, run the same command again.

Prints for each arm:

- the seconds per epoch: the lower quartile over all epochs but the first of each run, because all epochs do the same
  work and other work on the machine only adds time
- the reward (mean of the last three epochs) after the queries, and after the seconds, of the arm with all steps
- how many times fewer queries, and fewer seconds, it needed to reach the final reward of the arm with all steps; 0 if
  it did not
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from stepcredit.stats.efficiency import trailing_mean

ALL = "all"
LAST = 3
ARMS: dict[str, tuple[dict[str, Any], float]] = {
    ALL: ({}, 1.0),
    "credit-10": ({"train.sampled_steps": 10}, 1.6),
    "credit-5": ({"train.sampled_steps": 5}, 2.2),
    "even-5": ({"train.sampled_steps": 5, "train.step_sampling": "uniform"}, 2.2),
}
"""The overrides of each arm, and the factor on the number of epochs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--recipe", default="embedded_jpeg")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the arm with all steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[301, 302])
    options = parser.parse_args()

    file = options.run.parent / f"{options.run.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(comparison(options.recipe, options.epochs, options.seeds), sort_keys=False))
    command = [sys.executable, "-m", "stepcredit", "compare", str(file), "--jobs", "1", "--run", str(options.run)]
    subprocess.run(command, check=True)
    results = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
    for found in results["rewards"].values():
        print("\n".join(table(found["arms"])))


def comparison(recipe: str, epochs: int, seeds: list[int]) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "arms": {
            name: {**overrides, "train.epochs": round(epochs * factor)} for name, (overrides, factor) in ARMS.items()
        },
        "reference": ALL,
        "tuning_seeds": [],
        "fresh_seeds": seeds,
        "criterion": {"last_epochs": LAST},
    }


def table(arms: dict[str, Any]) -> list[str]:
    columns = f"{'s/epoch':>9}{'same queries':>14}{'same seconds':>14}{'by queries':>12}{'by seconds':>12}"
    lines, means, notes = [f"{'arm':<12}{'seed':>6}{columns}"], [], []
    cost = {name: epoch_seconds(arm["by_seed"]) for name, arm in arms.items()}
    full = {row["seed"]: row for row in arms[ALL]["by_seed"]}
    for name, arm in arms.items():
        found = {row["seed"]: figures(row, full[row["seed"]], cost[name], cost[ALL]) for row in arm["by_seed"]}
        lines += [line(name, str(seed), each) for seed, each in found.items()]
        means.append(line(name, "mean", [statistics.mean(column) for column in zip(*found.values(), strict=True)]))
        for row in arm["by_seed"]:
            spent, limit = len(row["queries"]) * cost[name], len(full[row["seed"]]["queries"]) * cost[ALL]
            if spent < limit:
                notes.append(f"{name}, seed {row['seed']}: {spent:.0f} s, less than {limit:.0f} s: final reward used")
    return [*lines, *means, *notes]


def figures(row: dict[str, Any], full: dict[str, Any], cost: float, full_cost: float) -> list[float]:
    """The columns of a run. `full` is the run on all steps with the same seed; costs are seconds per epoch."""
    queries, rewards = np.array(row["queries"]), trailing_mean(torch.tensor(row["rewards"]), LAST).numpy()
    seconds = np.arange(1, len(queries) + 1) * cost
    return [
        cost,
        float(np.interp(full["queries"][-1], queries, rewards)),
        float(np.interp(len(full["queries"]) * full_cost, seconds, rewards)),
        row["factor"],
        row["factor"] * full_cost / cost,
    ]


def epoch_seconds(runs: list[dict[str, Any]]) -> float:
    """The lower quartile over the epochs of `runs`, without the first of each."""
    return float(np.quantile(np.concatenate([np.diff(row["seconds"]) for row in runs]), 0.25))


def line(name: str, seed: str, figures: list[float]) -> str:
    each, queries, seconds, by_queries, by_seconds = figures
    return f"{name:<12}{seed:>6}{each:>9.2f}{queries:>14.3f}{seconds:>14.3f}{by_queries:>12.2f}{by_seconds:>12.2f}"


if __name__ == "__main__":
    main()
