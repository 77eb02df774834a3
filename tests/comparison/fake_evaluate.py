"""A fake `stepcredit evaluate RUN --prompts NAME ... --images N --out FILE`: it writes the same file without a model.

Figures depend only on the run's configuration: tuned warmth is the seed for uniform and twice the seed for other rules.
If a file `broken-evaluation` exists in the working directory, evaluations of runs whose path contains its text fail.
"""

import json
import sys
from pathlib import Path

import yaml


def main(run: Path, arguments: list[str]) -> int:
    broken = Path("broken-evaluation")
    if broken.exists() and broken.read_text() in str(run):
        print("stepcredit: reward 'x' is down", file=sys.stderr)
        return 2
    given = list(zip(arguments[::2], arguments[1::2], strict=True))
    options = dict(given)
    config = yaml.safe_load((run / "config.yaml").read_text())
    tuned = config["run"]["seed"] * (1 if config["credit"]["name"] == "uniform" else 2)
    sets = [
        {
            "name": name,
            "prompts": 3,
            "images": 3 * int(options["--images"]),
            "rewards": {
                "mixture": sides(1.0, tuned),
                "mixture.warmth": sides(1.0, tuned),
                "mixture.alignment": sides(0.5, 0.25),
            },
            "pass_rates": {"mixture.warmth": sides(0.0, 1.0)},
            "diversity": sides(None, None),
            "frechet": {"base": 2.0, "tuned": 2.0 + tuned, "difference": tuned},
            "frechet_of_renders": 0.5,
        }
        for option, name in given
        if option == "--prompts"
    ]
    Path(options["--out"]).write_text(json.dumps({"evaluations": [{"sets": sets}]}))
    return 0


def sides(base: float | None, tuned: float | None) -> dict:
    return {"base": {"mean": base}, "tuned": {"mean": tuned}}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
