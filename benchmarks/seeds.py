"""Train one recipe with several seeds, and print the mean reward of each run's first and last epoch.

    OMP_NUM_THREADS=1 uv run python benchmarks/seeds.py --seeds 101 102 103 104 105 --run runs/seeds

Each seed is a separate run and process; `--jobs` of them run at a time. Finished runs are not repeated. Overrides
(section.key=value) come last. The gain is the last minus the first reward. With --relative it is also printed as a
fraction of |first|. For JPEG compressibility, whose reward is minus the size in kB, this is the relative decrease of
the mean size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stepcredit.runs.versions import result_versions, versions_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="embedded_jpeg")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--relative", action="store_true", help="also print the gain as a fraction of |first|")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    options = parser.parse_args()

    def one(seed: int) -> list[dict[str, float]]:
        return train(options.recipe, seed, options.run / f"seed-{seed}", options.overrides)

    with ThreadPoolExecutor(options.jobs) as pool:
        curves = dict(zip(options.seeds, pool.map(one, options.seeds), strict=True))
    print(f"{options.recipe} {' '.join(options.overrides)}; {machine()}; {options.jobs} run(s) at a time")
    print(versions_text(result_versions()))
    print("seed    first     last     gain  queries  seconds")
    for seed, rows in curves.items():
        first, last = ends(rows)
        seconds = sum(value for row in rows for key, value in row.items() if key.startswith("seconds_"))
        queries = int(rows[-1]["reward_queries"])
        print(f"{seed:<6} {first:7.3f}  {last:7.3f}  {last - first:+7.3f}  {queries:7d}  {seconds:7.0f}")
    summary("gain", [last - first for first, last in map(ends, curves.values())], "+.3f")
    if options.relative:
        summary("gain / |first|", [(last - first) / abs(first) for first, last in map(ends, curves.values())], "+.1%")


def ends(rows: list[dict[str, float]]) -> tuple[float, float]:
    """Mean reward of the first and the last epoch."""
    return rows[0]["reward_mean"], rows[-1]["reward_mean"]


def summary(name: str, values: list[float], style: str) -> None:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    print(
        f"{name}: mean {statistics.mean(values):{style}}, min {min(values):{style}}, max {max(values):{style}}, "
        f"standard deviation {spread:{style[1:]}}, n = {len(values)}"
    )


def train(recipe: str, seed: int, run: Path, overrides: list[str]) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "stepcredit", "train"]
    if not (run / "report.html").exists():
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        arguments = [recipe, f"run.seed={seed}", *overrides, "--run", str(run), *resume]
        run.parent.mkdir(parents=True, exist_ok=True)
        with (run.parent / f"{run.name}.log").open("w") as log:
            subprocess.run([*command, *arguments], check=True, stdout=log, stderr=subprocess.STDOUT)
    return [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"


if __name__ == "__main__":
    main()
