"""Measure how training on one reward changed the other rewards, for each credit rule.

    uv run stepcredit compare benchmark_preferences --run runs/preferences
    OMP_NUM_THREADS=1 uv run python benchmarks/cross_rewards.py runs/preferences --name cross

The second command runs `stepcredit evaluate` on each finished run with fresh seeds. It measures all rewards of the
comparison, prompt alignment and diversity, on training prompts and on held-out prompts, with the same prompts and noise
for all runs. Results are stored in RUN/cross_rewards.json and not measured again. Prints the difference tuned - base
for both prompt sets: the mean over training seeds with its standard error. `--name` writes the tables to
docs/results/log.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _page import DOCS, fill

from stepcredit.comparison.tables import pipes
from stepcredit.runs.versions import result_versions

CHECKER = "alignment"
DIVERSITY = "diversity"
Results = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Tuned - base of each reward and of diversity, by run (REWARD/ARM/lr-RATE/seed-SEED) and prompt set."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the comparison")
    parser.add_argument("--images", type=int, default=2, help="images per prompt")
    parser.add_argument("--seed", type=int, default=0, help="seed of the evaluation's noise")
    parser.add_argument("--name", help="section of docs/results/log.md to replace")
    options = parser.parse_args()
    comparison = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
    rewards = list(comparison["rewards"])
    measured = measure_runs(options.run, rewards, options.images, options.seed)
    text = "\n\n".join(part for name in ("training", "held-out") for part in (heading(name), table(measured, name)))
    print(text)
    if options.name:
        fill(DOCS / "results" / "log.md", options.name, text)


def measure_runs(folder: Path, rewards: Sequence[str], images: int, seed: int) -> Results:
    """The results of all finished runs on fresh seeds in `folder`; earlier ones are read from cross_rewards.json."""
    runs = sorted(path.parent for path in (folder / "runs/fresh").glob("*/*/*/seed-*/finished"))
    file = folder / "cross_rewards.json"
    settings = {"images": images, "seed": seed, "rewards": list(rewards)}
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results: dict[str, Any] = stored.get("found", {}) if stored.get("asked") == settings else {}
    for run in runs:
        name = str(run.relative_to(folder / "runs/fresh"))
        if name not in results:
            print(f"{name}  ({len(results)} of {len(runs)})", file=sys.stderr, flush=True)
            results[name] = evaluate_run(run, rewards, images, seed)
            stored = {"asked": settings, "versions": result_versions(), "found": results}
            file.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return results


def evaluate_run(run: Path, rewards: Sequence[str], images: int, seed: int) -> dict[str, dict[str, float]]:
    names = [word for reward in [*rewards, CHECKER] for word in ("--reward", reward)]
    command = [sys.executable, "-m", "stepcredit", "evaluate", str(run), *names, "--json"]
    process = subprocess.run(
        [*command, "--images", str(images), "--seed", str(seed)], check=True, stdout=subprocess.PIPE
    )
    (evaluation,) = json.loads(process.stdout)["evaluations"]
    return {
        each["name"]: {
            **{reward: each["rewards"][reward]["difference"]["mean"] for reward in [*rewards, CHECKER]},
            DIVERSITY: each["diversity"]["difference"]["mean"],
        }
        for each in evaluation["sets"]
    }


def heading(name: str) -> str:
    return f"Tuned - base on {name} prompts, mean over training seeds ± standard error:"


def table(results: Results, prompts: str) -> str:
    """One row per training reward and arm, one column per measured reward. The training reward is bold."""
    cells: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for run, sets in results.items():
        reward, arm, *_ = run.split("/")
        cells.setdefault((reward, arm), []).append(sets[prompts])
    columns = list(next(iter(results.values()))[prompts])
    rows = [["trained on", "arm", "seeds", *columns]]
    for (reward, arm), seeds in cells.items():
        figures = [estimate([one[column] for one in seeds]) for column in columns]
        highlighted = [
            f"**{figure}**" if column == reward else figure for column, figure in zip(columns, figures, strict=True)
        ]
        rows.append([reward, arm, str(len(seeds)), *highlighted])
    return pipes(rows)


def estimate(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
