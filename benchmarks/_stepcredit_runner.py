"""Run and measure epochs of stepcredit for `against_trl.py`, with the training loop of `stepcredit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _measured import Measured, read_job
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


def configuration(job: dict[str, Any]) -> TrainConfig:
    """The configuration of a job. Uniform credit with batch advantages is DDPO."""
    return validate(
        {
            "model": {"path": job["folder"], "device": "cpu", "lora_rank": job["lora_rank"]},
            "sample": {
                "steps": job["steps"],
                "guidance": job["guidance"],
                "prompts_per_epoch": len(job["prompts"]),
                "images_per_prompt": 1,
                "batch": job["sample_batch"],
            },
            "train": {
                "epochs": job["epochs"] + 1,  # no last epoch, whose checkpoint and grid TRL does not write
                "learning_rate": job["learning_rate"],
                "weight_decay": job["weight_decay"],
                "max_grad_norm": job["max_grad_norm"],
                "updates_per_epoch": job["updates"],
                "microbatch": job["microbatch"],
                "clip_range": job["clip_range"],
                "advantage": "batch",
            },
            "credit": {"name": "uniform", "standardize": False},
            "prompts": {"source": job["prompts_file"]},
            "run": {
                "seed": job["seed"],
                "checkpoint_every": 1000,
                "grid_every": 1000,
                "self_check": job["epochs"] > 1,  # only in an epoch that is not timed
            },
        },
        "against_trl",
    )


def main() -> None:
    job, report = read_job()
    quiet_libraries()
    config = configuration(job)
    policy = load_policy(config)
    policy.load_state_dict(load_file(job["lora"]))
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

    def recorded(prompts: Any, scores: Any) -> Any:
        measured.rewards.append(scores.values.tolist())
        return advantage(prompts, scores)

    trainer.advantage = recorded
    for epoch in range(job["epochs"]):
        trainer.epoch(epoch)
    measured.write(report)


if __name__ == "__main__":
    main()
