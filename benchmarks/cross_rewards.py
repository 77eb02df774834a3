"""What training on one reward did to the others, by credit rule, on training and on unseen prompts.

    uv run stepcredit compare benchmark_preferences --run runs/preferences
    OMP_NUM_THREADS=1 uv run python benchmarks/cross_rewards.py runs/preferences --name cross

has `stepcredit evaluate` measure every finished run on fresh seeds with every reward of the comparison, the prompt
checker and diversity, on the prompts it was trained on and on held-out ones, the same prompts and noise for all. What
was found is kept in RUN/cross_rewards.json and not measured again. For both prompt sets prints tuned - base, the mean
over training seeds with its standard error; with `--name` the tables go into their place in docs/results/log.md.
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

CHECKER = "alignment"
DIVERSITY = "diversity"
Found = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By run, as REWARD/ARM/lr-RATE/seed-SEED, and prompt set: tuned - base of each reward and of diversity."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the comparison")
    parser.add_argument("--images", type=int, default=2, help="of every prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the evaluation's noise")
    parser.add_argument("--name", help="of the place in docs/results/log.md")
    options = parser.parse_args()
    results = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
    rewards = list(results["rewards"])
    found = measured(options.run, rewards, options.images, options.seed)
    text = "\n\n".join(part for name in ("training", "held-out") for part in (heading(name), table(found, name)))
    print(text)
    if options.name:
        fill(DOCS / "results" / "log.md", options.name, text)


def measured(folder: Path, rewards: Sequence[str], images: int, seed: int) -> Found:
    """Of every finished fresh run in `folder`; those that were measured before are read from cross_rewards.json."""
    runs = sorted(path.parent for path in (folder / "runs/fresh").glob("*/*/*/seed-*/finished"))
    kept = folder / "cross_rewards.json"
    asked = {"images": images, "seed": seed, "rewards": list(rewards)}
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    found: dict[str, Any] = before.get("found", {}) if before.get("asked") == asked else {}
    for run in runs:
        name = str(run.relative_to(folder / "runs/fresh"))
        if name not in found:
            print(f"{name}  ({len(found)} of {len(runs)})", file=sys.stderr, flush=True)
            found[name] = evaluated(run, rewards, images, seed)
            kept.write_text(json.dumps({"asked": asked, "found": found}, indent=1) + "\n", encoding="utf-8")
    return found


def evaluated(run: Path, rewards: Sequence[str], images: int, seed: int) -> dict[str, dict[str, float]]:
    wanted = [word for reward in [*rewards, CHECKER] for word in ("--reward", reward)]
    command = [sys.executable, "-m", "stepcredit", "evaluate", str(run), *wanted, "--json"]
    said = subprocess.run([*command, "--images", str(images), "--seed", str(seed)], check=True, stdout=subprocess.PIPE)
    (evaluation,) = json.loads(said.stdout)["evaluations"]
    return {
        found["name"]: {
            **{reward: found["rewards"][reward]["difference"]["mean"] for reward in [*rewards, CHECKER]},
            DIVERSITY: found["diversity"]["difference"]["mean"],
        }
        for found in evaluation["sets"]
    }


def heading(name: str) -> str:
    return f"Tuned - base on {name} prompts, mean over training seeds ± standard error:"


def table(found: Found, prompts: str) -> str:
    """A row for each reward trained on and each arm, a column for each reward measured; the one trained on is bold."""
    cells: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for run, sets in found.items():
        reward, arm, *_ = run.split("/")
        cells.setdefault((reward, arm), []).append(sets[prompts])
    columns = list(next(iter(found.values()))[prompts])
    rows = [["trained on", "arm", "seeds", *columns]]
    for (reward, arm), seeds in cells.items():
        figures = [estimate([one[column] for one in seeds]) for column in columns]
        marked = [
            f"**{figure}**" if column == reward else figure for column, figure in zip(columns, figures, strict=True)
        ]
        rows.append([reward, arm, str(len(seeds)), *marked])
    return pipes(rows)


def estimate(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
