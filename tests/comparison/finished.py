"""A finished comparison on disk, made from given curves without any training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.comparison.test_protocol import protocol
from tests.comparison.test_results import REWARD, curve, stand_ins

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory, open_comparison
from stepcredit.comparison.results import comparison_results
from stepcredit.comparison.settings import Setting
from stepcredit.comparison.tuning import Choice
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.image_grid import save_grid
from stepcredit.runs.versions import result_versions

RATE, CLIP = 0.01, 0.05
CREDIT = {"uniform": [1.0, 1.0, 1.0], "linear": [1.5, 1.0, 0.5], "third": [2.0, 0.7, 0.3]}
COLORS = {"uniform": (1.0, 0.0, 0.0), "linear": (0.0, 0.0, 1.0), "third": (0.0, 1.0, 0.0)}
"""Of the last sample grid of each arm; the first grid is gray."""


def finished_comparison(
    folder: Path,
    arms: Mapping[str, Mapping[int, Sequence[float]]],
    begun: Mapping[str, Any] | None = None,
    caption: str = "a red circle",
) -> ComparisonDirectory:
    """Write a comparison, from the rewards of each arm and seed. Every run has profiles and two sample grids."""
    made = protocol(arms=stand_ins(arms), criterion={"last_epochs": 1})
    directory = open_comparison(folder, made, begun or {"command": ["stepcredit", "compare", "x.yaml"]})
    choices = {
        (REWARD, arm): Choice(Setting(RATE, CLIP), {Setting(0.005, CLIP): {1: 0.25}, Setting(RATE, CLIP): {1: 0.5}})
        for arm in arms
    }
    curves = {
        Cell("fresh", REWARD, arm, RATE, seed, CLIP): curve(
            rewards, watched=[1 / (1 + epoch) for epoch in range(len(rewards))]
        )
        for arm, runs in arms.items()
        for seed, rewards in runs.items()
    }
    for cell, found in curves.items():
        _write_run(RunDirectory(directory.run(cell)), cell.arm, len(found.rewards), caption)
    results = comparison_results(made, choices, curves)
    directory.write_json(
        directory.results_path,
        results | {"protocol": made.tree(), "versions": result_versions(), "failed": [], "jobs": 1},
    )
    return directory


def _write_run(run: RunDirectory, arm: str, epochs: int, caption: str) -> None:
    color = torch.tensor(COLORS[arm]).view(1, 3, 1, 1).expand(4, 3, 32, 32)
    save_grid(run.grid_path(0), torch.full((4, 3, 32, 32), 0.5), [caption] * 4)
    save_grid(run.grid_path(epochs), color, [caption] * 4)
    native = [0.5, 0.5, 2.0]
    rows = [
        {"epoch": epoch, "credit_profile": CREDIT[arm], "native_scale": native, "update_profile": CREDIT[arm]}
        for epoch in range(1, epochs + 1)
    ]
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
