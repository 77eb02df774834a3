"""`stepcredit compare` with fakes of training and evaluation; also a program: python faked.py FILE DIR.

They are `fake_train.py` and `fake_evaluate.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stepcredit.cli.compare import RecipeOptions, compare
from stepcredit.errors import StepcreditError

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))
FAKE_EVALUATE = (sys.executable, str(Path(__file__).with_name("fake_evaluate.py")))
FILE = """
recipe: embedded_jpeg
overrides: {train.epochs: 4}
arms:
  uniform: uniform
  linear: linear
reference: uniform
learning_rates: [0.005, 0.01, 0.02]
clip_ranges: []
tuning_seeds: [1, 2]
controls: []
fresh_seeds: [11, 12, 13]
criterion: {last_epochs: 2}
jobs: 2
"""


def fake_compare(file: Path, run: Path, *overrides: str, skip_failed: bool = False, jobs: int | None = None) -> None:
    compare([str(file)], overrides, RecipeOptions(), run, jobs, skip_failed, FAKE, FAKE_EVALUATE)


def results(run: Path) -> Any:
    """results.json without its figures in seconds."""
    return timeless(json.loads((run / "results.json").read_text()))


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if "seconds" not in key}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    try:
        fake_compare(Path(sys.argv[1]), Path(sys.argv[2]))
    except StepcreditError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
