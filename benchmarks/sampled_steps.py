"""Reward against wall-clock when an update trains on some of the steps, on the embedded pipeline.

    OMP_NUM_THREADS=1 uv run python benchmarks/sampled_steps.py --run runs/sampled_steps

Arms train on all T = 20 steps, on T/2 and T/4 drawn by credit x native scale, and on T/4 drawn evenly; those that train
on fewer get more epochs, so that all have about as many seconds. `stepcredit compare` runs them one at a time, seed by
seed, and goes on where it was stopped. Prints, for each arm and seed, seconds per epoch, the reward (trailing mean of
three epochs) after as many queries and after as many seconds as the arm of all steps had, and the seconds factor.
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

from stepcredit.maths.efficiency import trailing_mean

ALL = "all"
LAST = 3
ARMS: dict[str, tuple[dict[str, Any], float]] = {
    ALL: ({}, 1.0),
    "credit-10": ({"train.sampled_steps": 10}, 1.6),
    "credit-5": ({"train.sampled_steps": 5}, 2.2),
    "even-5": ({"train.sampled_steps": 5, "train.step_sampling": "uniform"}, 2.2),
}
"""Overrides, and how many times the epochs of `all`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--recipe", default="embedded_jpeg")
    parser.add_argument("--epochs", type=int, default=10, help="of the arm of all steps")
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
        "arms": {name: {**given, "train.epochs": round(epochs * more)} for name, (given, more) in ARMS.items()},
        "reference": ALL,
        "fresh_seeds": seeds,
        "criterion": {"last_epochs": LAST},
    }


def table(arms: dict[str, Any]) -> list[str]:
    lines = [f"{'arm':<12}{'seed':>6}{'s/epoch':>9}{'same queries':>14}{'same seconds':>14}{'seconds factor':>16}"]
    whole = {row["seed"]: row for row in arms[ALL]["by_seed"]}
    means = []
    for name, arm in arms.items():
        found = [(row, reached(row, whole[row["seed"]])) for row in arm["by_seed"]]
        for row, figures in found:
            lines.append(line(name, str(row["seed"]), figures))
        means.append(
            line(name, "mean", [statistics.mean(column) for column in zip(*(f for _, f in found), strict=True)])
        )
    return [*lines, *means]


def line(name: str, seed: str, figures: list[float]) -> str:
    each, queries, seconds, factor = figures
    return f"{name:<12}{seed:>6}{each:>9.2f}{queries:>14.4f}{seconds:>14.4f}{factor:>16.2f}"


def reached(row: dict[str, Any], whole: dict[str, Any]) -> list[float]:
    """Seconds per epoch; rewards at the queries and at the seconds that `whole` ended with; the seconds factor."""
    seconds, rewards = row["seconds"], trailing_mean(torch.tensor(row["rewards"]), LAST).tolist()
    if seconds[-1] < whole["seconds"][-1]:
        print(f"seed {row['seed']}: {seconds[-1]:.0f} s are less than {whole['seconds'][-1]:.0f}: its end is taken")
    at_queries = np.interp(whole["queries"][-1], row["queries"], rewards)
    at_seconds = np.interp(whole["seconds"][-1], seconds, rewards)
    return [seconds[-1] / len(seconds), float(at_queries), float(at_seconds), float(row["seconds_factor"])]


if __name__ == "__main__":
    main()
