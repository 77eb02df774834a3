"""Epochs of this project's trainer, for `against_trl.py`: the trainer of `stepcredit train`, with clocks around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _alike import Measured, read_order
from safetensors.torch import load_file

from stepcredit.algorithms import build_algorithm
from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.policy.loading import load_policy
from stepcredit.prompts import load_prompts
from stepcredit.rewards import build_reward
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.recipes import validate
from stepcredit.training.parts import Parts
from stepcredit.training.trainer import TrainingLoop
from stepcredit.utils.logging import quiet_libraries


def configuration(order: dict[str, Any]) -> TrainConfig:
    """The order as this project's configuration: uniform credit and batch advantages make it DDPO."""
    return validate(
        {
            "model": {"path": order["folder"], "device": "cpu", "lora_rank": order["lora_rank"]},
            "sample": {
                "steps": order["steps"],
                "guidance": order["guidance"],
                "prompts_per_epoch": len(order["prompts"]),
                "images_per_prompt": 1,
                "batch": order["sample_batch"],
            },
            "train": {
                "epochs": order["epochs"] + 1,  # what a run's last epoch adds, checkpoint and grid, TRL does not do
                "learning_rate": order["learning_rate"],
                "weight_decay": order["weight_decay"],
                "max_grad_norm": order["max_grad_norm"],
                "updates_per_epoch": order["updates"],
                "microbatch": order["microbatch"],
                "clip_range": order["clip_range"],
                "advantage": "batch",
            },
            "credit": {"name": "uniform", "standardize": False},
            "prompts": {"source": order["prompts_file"]},
            "run": {
                "seed": order["seed"],
                "checkpoint_every": 1000,
                "grid_every": 1000,
                "self_check": order["epochs"] > 1,  # never in an epoch that is timed
            },
        },
        "against_trl",
    )


def main() -> None:
    order, report = read_order()
    quiet_libraries()
    config = configuration(order)
    policy = load_policy(config)
    policy.load_state_dict(load_file(order["lora"]))
    reward, credit = build_reward(config.reward), build_credit(config.credit, config.run.seed)
    run = RunDirectory.create(Path(f"{report}.run"), config, ["against_trl"])
    trainer: Any = TrainingLoop(
        config, Parts(policy, reward, credit, build_algorithm(config.train), load_prompts(config.prompts.source)), run
    )
    measured = Measured()
    measured.watch_norms()
    trainer.rollout = measured.timed("sampling", trainer.rollout)
    trainer.update = measured.timed("training", trainer.update)
    advantage = trainer.advantage

    def remembered(prompts: Any, scores: Any) -> Any:
        measured.rewards.append(scores.values.tolist())
        return advantage(prompts, scores)

    trainer.advantage = remembered
    for epoch in range(order["epochs"]):
        trainer.epoch(epoch)
    measured.write(report)


if __name__ == "__main__":
    main()
