"""A fake `stepcredit train RECIPE --run DIR [--resume]`: it writes the same files without a model.

Rewards depend only on the recipe. Two files in the working directory change the behavior. If `broken` exists, runs
whose path contains its text fail. If `stop` exists, it is a FIFO: in its second epoch every run writes a line to it and
waits with the FIFO open.
"""

import json
import random
import signal
import sys
from pathlib import Path

import yaml


def main(recipe: Path, run: Path, resume: bool) -> int:
    config = yaml.safe_load(recipe.read_text())
    metrics, checkpoints = run / "metrics.jsonl", run / "checkpoints"
    if resume:
        finished = max(int(path.name.removeprefix("epoch_")) for path in checkpoints.iterdir())
        metrics.write_text("".join(line + "\n" for line in metrics.read_text().splitlines()[:finished]))
    else:
        finished = 0
        checkpoints.mkdir(parents=True)
        (run / "config.yaml").write_text(recipe.read_text())
        metrics.touch()
    for epoch in range(finished + 1, config["train"]["epochs"] + 1):
        if epoch == 2:
            wait_or_fail(run)
        with metrics.open("a") as file:
            file.write(json.dumps(row(config, epoch)) + "\n")
        (checkpoints / f"epoch_{epoch:04d}").mkdir()
    return 0


def wait_or_fail(run: Path) -> None:
    broken, stop = Path("broken"), Path("stop")
    if broken.exists() and broken.read_text() in str(run):
        print("some lines\n\nstepcredit: reward 'x' is down\n", file=sys.stderr)
        sys.exit(2)
    if stop.exists():
        signal.alarm(60)  # in case the listener failed
        with stop.open("w") as listener:
            print(f"{run}", file=listener, flush=True)
            signal.pause()


def row(config: dict, epoch: int) -> dict:
    """Rewards rise by 1 per epoch for uniform and by 2 for other rules. 0.01 is the best learning rate."""
    train, seed, rule = config["train"], config["run"]["seed"], config["credit"]["name"]
    noise = random.Random(f"{seed} {epoch}").uniform(-0.1, 0.1)  # noqa: S311
    speed = (1 if rule == "uniform" else 2) * (1 if train["learning_rate"] == 0.01 else 0.5)
    watched = {"alignment": {"mean": 1 - speed * epoch / 10, "std": 0.0}}
    return {
        "epoch": epoch,
        "reward_queries": 64 * epoch,
        "reward_mean": speed * (epoch - 1) + noise,
        "reward_components": watched,
        "seconds_sampling": random.uniform(1, 2),  # noqa: S311
        "seconds_reward": 5.0,
        "seconds_waiting": 0.1,
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--run") + 1]), "--resume" in sys.argv))
