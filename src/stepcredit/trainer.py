"""The training loop. `Trainer.epoch` reads top to bottom: prompts, rollout, reward, advantage, credit, update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stepcredit import checkpoint
from stepcredit.checkpoint import Checkpoint
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.evaluation import evaluate
from stepcredit.grids import save_grid
from stepcredit.maths.advantage import PromptStatistics, StepStatistics, group_advantages, standardise
from stepcredit.measure import Clock, peak_memory_bytes
from stepcredit.policy.self_check import self_check
from stepcredit.prompts import draw_prompts
from stepcredit.rewards import RewardError
from stepcredit.seeds import Stream, sample_seeds, shuffle_generator
from stepcredit.tracking import RunDirectory
from stepcredit.types import CreditAssigner, Policy, Prompt, RewardFunction, Rollout, Trajectory
from stepcredit.update import update_policy

Metrics = dict[str, float]


class Progress(Protocol):
    """Where a run tells how it goes."""

    def note(self, text: str) -> None: ...

    def phase(self, name: str) -> None: ...

    def tick(self, done: int, total: int) -> None: ...

    def epoch(self, metrics: Metrics) -> None: ...


class Trainer:
    """Trains `policy` on `reward`, spreading each image's advantage over its steps by `credit`.

    Every random number of a run is a function of its seed, the epoch and the image's index, so the state of a run is:
    weights, optimiser, statistics of rewards and step advantages, and two counters.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        reward: RewardFunction,
        credit: CreditAssigner,
        prompts: Sequence[Prompt],
        run: RunDirectory,
        progress: Progress,
    ) -> None:
        self.config = config
        self.policy = policy
        self.reward = reward
        self.credit = credit
        self.prompts = prompts
        self.run = run
        self.progress = progress
        self.finished_epochs = 0
        self.reward_queries = 0
        train = config.train
        self.optimiser = torch.optim.AdamW(
            policy.parameters(),
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.adam_epsilon,
            weight_decay=train.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(enabled=config.model.dtype == "float16")
        self.reward_statistics = PromptStatistics(train.buffer_size, train.min_count)
        self.step_statistics = StepStatistics(train.buffer_size, train.min_count)

    def train(self) -> None:
        """Run the epochs that are left. The run directory is complete when it returns."""
        if self.finished_epochs == 0:
            self.save_checkpoint()
            self.draw_grid()
        while self.finished_epochs < self.config.train.epochs:
            self.epoch(self.finished_epochs)
        self.policy.export(self.run.lora_dir)

    def epoch(self, epoch: int) -> None:
        clock = Clock()
        prompts = self.draw_prompts(epoch)
        with clock("sampling"):
            rollout = self.sample(prompts, epoch)
        with clock("reward"):
            rewards = self.score(rollout.images, prompts)
        advantage = self.advantage(rollout.trajectory.prompts, rewards)
        step_advantages = self.step_advantages(rollout.trajectory, advantage)
        with clock("training"):
            updated = self.update(rollout.trajectory, step_advantages, epoch)

        self.finished_epochs += 1
        self.reward_queries += len(prompts)
        self.record(rewards, updated | self.credit.diagnostics(rollout.trajectory) | clock.metrics())
        self.keep()

    def draw_prompts(self, epoch: int) -> list[Prompt]:
        sample = self.config.sample
        return draw_prompts(
            self.prompts,
            epoch=epoch,
            seed=self.config.run.seed,
            count=sample.prompts_per_epoch,
            order=self.config.prompts.order,
            images_per_prompt=sample.images_per_prompt,
        )

    def sample(self, prompts: Sequence[Prompt], epoch: int) -> Rollout:
        """One image per prompt; before the first update also the self-check."""
        self.progress.phase("sampling")
        seeds = sample_seeds(self.config.run.seed, Stream.TRAINING, epoch * len(prompts), len(prompts))
        rollout = self.policy.rollout(prompts, seeds, keep_x0=self.credit.needs_x0)
        if epoch == 0 and self.config.run.self_check:
            self.progress.phase("self-check")
            self.progress.note(f"self-check: {self_check(self.policy, rollout.trajectory)}")
        return rollout

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Rewards (B,). If the reward fails, the run is checkpointed and RewardError names the epoch."""
        self.progress.phase("reward")
        try:
            return self.reward(images, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts])
        except RewardError as error:
            where = self.save_checkpoint()
            raise RewardError(f"epoch {self.finished_epochs + 1}: {error}; resume from {where}") from error

    def advantage(self, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """A (B,): rewards standardised as `train.advantage` says, then clipped."""
        match self.config.train.advantage:
            case "group":
                advantage = group_advantages(rewards, prompts)
            case "running":
                advantage = self.reward_statistics.update(prompts, rewards)
            case "batch":
                advantage = standardise(rewards)
        return self._clip(advantage)

    def step_advantages(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """M (B, T): the advantage spread over steps, standardised a second time where asked for, clipped.

        The second standardisation pools trainable steps only; the others are not trained on.
        """
        spread = self.credit(trajectory, advantage.to(trajectory.latents.device))
        if self.config.credit.standardise:
            steps = trajectory.trainable.to(spread.device)
            pooled = self.step_statistics.update(trajectory.prompts, spread[:, steps])
            spread[:, steps] = pooled.to(spread.device)
        return self._clip(spread)

    def update(self, trajectory: Trajectory, step_advantages: Tensor, epoch: int) -> Metrics:
        self.progress.phase("training")
        return update_policy(
            self.policy,
            self.optimiser,
            self.scaler,
            trajectory,
            step_advantages,
            self.config.train,
            shuffle_generator(self.config.run.seed, epoch),
            self.progress.tick,
        )

    def record(self, rewards: Tensor, figures: Metrics) -> None:
        """Append the epoch's row to metrics.jsonl."""
        row = {
            "epoch": self.finished_epochs,
            "reward_queries": self.reward_queries,
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std(correction=0)),
            **figures,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.run.append_metrics(row)
        self.progress.epoch(row)

    def keep(self) -> None:
        """Checkpoint and sample grid, where they are due or the run is over."""
        over = self.finished_epochs == self.config.train.epochs
        if over or self.finished_epochs % self.config.run.checkpoint_every == 0:
            self.save_checkpoint()
        if over or self.finished_epochs % self.config.run.grid_every == 0:
            self.draw_grid()

    def draw_grid(self) -> None:
        """Sample the same prompts with the same noise as every time, score them and keep the picture."""
        self.progress.phase("sample grid")
        run = self.config.run
        first = self.draw_prompts(epoch=0)[:: self.config.sample.images_per_prompt]
        seen = evaluate(self.policy, self.score, first, run.grid_images, run.seed)
        save_grid(self.run.grid_path(self.finished_epochs), seen.images, seen.captions())

    def save_checkpoint(self) -> str:
        state = {
            "reward_queries": self.reward_queries,
            "reward_statistics": self.reward_statistics.state_dict(),
            "step_statistics": self.step_statistics.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        weights = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        tensors = weights | checkpoint.optimiser_tensors(self.optimiser)
        saved = Checkpoint(self.finished_epochs, tensors, state)
        return str(checkpoint.save(self.run.checkpoint_root, saved, self.config.run.keep_checkpoints))

    def resume(self) -> None:
        """Go back to the newest checkpoint of the run, forgetting metrics written after it."""
        folders = checkpoint.found(self.run.checkpoint_root)
        if not folders:
            raise InputError(f"{self.run.path} holds no checkpoint to resume from")
        saved = checkpoint.load(folders[-1])
        self.policy.load_state_dict(policy_tensors(saved))
        checkpoint.restore_optimiser(self.optimiser, saved.tensors)
        self.reward_statistics.load_state_dict(saved.state["reward_statistics"])
        self.step_statistics.load_state_dict(saved.state["step_statistics"])
        self.scaler.load_state_dict(saved.state["scaler"])
        self.finished_epochs = saved.epoch
        self.reward_queries = saved.state["reward_queries"]
        self.run.truncate_metrics(saved.epoch)

    def _clip(self, advantage: Tensor) -> Tensor:
        limit = self.config.train.advantage_clip
        return advantage.clamp(-limit, limit)


def policy_tensors(saved: Checkpoint) -> dict[str, Tensor]:
    """The policy's weights in a checkpoint, under the policy's own names."""
    return {name.removeprefix("policy."): value for name, value in saved.tensors.items() if name.startswith("policy.")}
