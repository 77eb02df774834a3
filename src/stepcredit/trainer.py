"""The training loop: `Trainer.epoch` reads top to bottom."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepcredit import checkpoint
from stepcredit.checkpoint import Checkpoint
from stepcredit.config import TrainConfig
from stepcredit.credit.profiles import step_profiles
from stepcredit.errors import InputError
from stepcredit.evaluation import evaluate
from stepcredit.grids import save_grid
from stepcredit.maths.advantage import PromptStatistics, StepStatistics, group_advantages, standardise
from stepcredit.measure import Clock, peak_memory_bytes
from stepcredit.plans import evaluation_plan, microbatch, training_plan
from stepcredit.policy.self_check import TOLERANCE, self_check
from stepcredit.progress import Progress
from stepcredit.prompts import draw_prompts
from stepcredit.rewards import RewardError, Scores, checked
from stepcredit.scoring import Scoring
from stepcredit.seeds import Stream, epoch_generator, sample_seeds
from stepcredit.tracking import RunDirectory
from stepcredit.types import CreditAssigner, Policy, Prompt, RewardFunction, Trajectory
from stepcredit.update import update_policy


class Trainer:
    """Trains `policy` on `reward`, spreading each image's advantage over its steps by `credit`.

    Every random number of a run is a function of its seed, the epoch and the image's index, so the state of a run is:
    weights, optimiser, statistics of rewards and step advantages, and two counters. Nothing is written before `train`.

    Args:
        prompts: the whole prompt source; each epoch draws from it.
        weights_dir: where the trained weights are exported to, `run.lora_dir` by default.

    Raises:
        InputError: the prompts are too few for the epoch that `config` asks for.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        reward: RewardFunction,
        credit: CreditAssigner,
        prompts: Sequence[Prompt],
        run: RunDirectory,
        progress: Progress | None = None,
        weights_dir: Path | None = None,
    ) -> None:
        self.config = config
        self.policy = policy
        self.reward = checked(reward, config.reward.name)
        self.credit = credit
        self.prompts = prompts
        self.run = run
        self.progress = progress or Progress()
        self.weights_dir = weights_dir or run.lora_dir
        self.finished_epochs = 0
        self.reward_queries = 0
        self.replays = not config.run.self_check
        train = config.train
        self.optimiser = torch.optim.AdamW(
            policy.parameters(),
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.adam_epsilon,
            weight_decay=train.weight_decay,
        )
        self.optimiser.register_step_post_hook(lambda *_: policy.stepped())  # not for steps that the scaler skips
        device = policy.parameters()[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=config.model.dtype == "float16")
        self.reward_statistics = PromptStatistics(train.buffer_size, train.min_count)
        self.step_statistics = StepStatistics(train.buffer_size, train.min_count)
        self._require_images()

    def train(self) -> Path:
        """Run the epochs that are left, export the weights and return where they are: the run directory is complete."""
        if self.finished_epochs == 0:
            self.save_checkpoint()
        if self._due(self.config.run.grid_every) and not self.run.grid_path(self.finished_epochs).exists():
            self.draw_grid()
        while self.finished_epochs < self.config.train.epochs:
            self.epoch(self.finished_epochs)
        return self.policy.export(self.weights_dir)

    def epoch(self, epoch: int) -> None:
        clock = Clock()
        prompts = self.draw_prompts(epoch)
        with self.scoring(prompts, overlap=self.config.reward.overlap) as scoring:
            with clock("sampling"), self.checkpoint_if_reward_fails(f"epoch {epoch + 1}"):
                trajectory, images = self.sample(prompts, epoch, scoring)
            with clock("waiting"), self.checkpoint_if_reward_fails(f"epoch {epoch + 1}"):
                scores = self.score(images, scoring)
        clock.add("reward", scoring.seconds)
        advantage = self.advantage(trajectory.prompts, scores.trained(trajectory.prompts))
        step_advantages = self.step_advantages(trajectory, advantage)
        credited = self.credit.diagnostics(trajectory) | step_profiles(trajectory, step_advantages)
        trajectory = replace(trajectory, x0=None)  # only credit needs it; the update can use its memory
        with clock("training"):
            updated = self.update(trajectory, step_advantages, epoch)

        self.finished_epochs += 1
        self.reward_queries += len(prompts)
        self.record(scores, updated | credited | clock.metrics())
        if self._due(self.config.run.checkpoint_every):
            self.save_checkpoint()
        if self._due(self.config.run.grid_every):
            self.draw_grid()

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

    def sample(self, prompts: Sequence[Prompt], epoch: int, scoring: Scoring) -> tuple[Trajectory, Tensor]:
        """One walk and one image (B,3,H,W) per prompt; every batch goes to `scoring` as soon as it is finished.

        The first epoch after a start or resume is replayed to check.
        """
        self.progress.phase("sampling")
        seeds = sample_seeds(self.config.run.seed, Stream.TRAINING, epoch * len(prompts), len(prompts))
        plan = training_plan(self.config, len(prompts), epoch)
        rollout = self.policy.rollout(prompts, seeds, plan, keep_x0=self.credit.needs_x0, on_batch=scoring.add)
        if not self.replays:
            self.progress.phase("self-check")
            trained_at_once = microbatch(self.config.train, len(prompts))
            found = self_check(self.policy, rollout.trajectory, plan.batch, trained_at_once)
            self.progress.note(f"self-check: {found}")
            self.replays = True
        return rollout.trajectory, rollout.images

    def score(self, images: Tensor, scoring: Scoring) -> Scores:
        """The scores of the epoch's images, those that are not there yet waited for."""
        self.progress.phase("reward")
        return scoring.scores(images)

    def values(self, images: Tensor, prompts: Sequence[Prompt], where: str) -> Tensor:
        """Scores (B,) of images that are not trained on."""
        self.progress.phase("reward")
        with self.checkpoint_if_reward_fails(where), self.scoring(prompts, overlap=False) as scoring:
            return scoring.scores(images).values

    def scoring(self, prompts: Sequence[Prompt], *, overlap: bool) -> Scoring:
        return Scoring(self.reward, prompts, overlap=overlap, timeout=self.config.reward.timeout)

    @contextmanager
    def checkpoint_if_reward_fails(self, where: str) -> Iterator[None]:
        """If the reward fails: a checkpoint, and RewardError says `where` and how to go on."""
        try:
            yield
        except RewardError as error:
            self.save_checkpoint()
            raise RewardError(f"{where}: {error}; mend it and go on with: {resume_command(self.run.path)}") from error

    def advantage(self, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """A (B,): rewards standardised as `train.advantage` says, then clipped."""
        match self.config.train.advantage:
            case "group":
                advantage = group_advantages(rewards, prompts)
            case "running":
                advantage = self.reward_statistics.update(prompts, rewards)
            case "batch":
                advantage = standardise(rewards)
        if not advantage.any():
            self.progress.note(
                f"epoch {self.finished_epochs + 1}: nothing to learn, every image scored as those it is compared with "
                f"(train.advantage={self.config.train.advantage})"
            )
        return self._clip(advantage)

    def step_advantages(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """M (B, T): the advantage spread over steps, standardised a second time where asked for, clipped again.

        The second standardisation pools trainable steps only; the others are not trained on.
        """
        spread = self.credit(trajectory, advantage.to(trajectory.latents.device))
        if self.config.credit.standardise:
            steps = trajectory.trainable.to(spread.device)
            pooled = self.step_statistics.update(trajectory.prompts, spread[:, steps])
            spread = spread.index_copy(1, steps.nonzero().flatten(), pooled)
        return self._clip(spread)

    def update(self, trajectory: Trajectory, step_advantages: Tensor, epoch: int) -> dict[str, float]:
        """Update the policy; says so if the first ratios were further from 1 than replays may be."""
        self.progress.phase("training")
        figures = update_policy(
            self.policy,
            self.optimiser,
            self.scaler,
            trajectory,
            step_advantages,
            self.config.train,
            epoch_generator(self.config.run.seed, Stream.SHUFFLE, epoch),
            self.progress.tick,
        )
        deviation, allowed = figures["ratio_max_deviation"], TOLERANCE[trajectory.latents.dtype]
        if not deviation <= allowed:
            self.progress.note(
                f"epoch {epoch + 1}: first ratios deviate from 1 by {deviation:.1e} (allowed {allowed:.0e})"
            )
        return figures

    def record(self, scores: Scores, figures: dict[str, Any]) -> None:
        """Append the epoch's row to metrics.jsonl; `reward_components` is there for mixtures only."""
        components = scores.statistics()
        row = {
            "epoch": self.finished_epochs,
            "reward_queries": self.reward_queries,
            "reward_mean": float(scores.values.mean()),
            "reward_std": float(scores.values.std(correction=0)),
            **({"reward_components": components} if components else {}),
            **figures,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.run.append_metrics(row)
        self.progress.epoch(row)

    def draw_grid(self) -> None:
        """Sample the same prompts with the same noise as every time, score them and keep the picture."""
        self.progress.phase("sample grid")
        run = self.config.run
        where = f"sample grid after epoch {self.finished_epochs}" if self.finished_epochs else "first sample grid"
        first = self.draw_prompts(epoch=0)[:: self.config.sample.images_per_prompt]
        plan = evaluation_plan(self.config, len(self.draw_prompts(epoch=0)))
        seen = evaluate(self.policy, partial(self.values, where=where), first, run.grid_images, run.seed, plan)
        save_grid(self.run.grid_path(self.finished_epochs), seen.images, seen.captions())

    def save_checkpoint(self) -> None:
        state = {
            "reward_queries": self.reward_queries,
            "reward_statistics": self.reward_statistics.state_dict(),
            "step_statistics": self.step_statistics.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        weights = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        tensors = weights | checkpoint.optimiser_tensors(self.optimiser)
        saved = Checkpoint(self.finished_epochs, tensors, state)
        checkpoint.save(self.run.checkpoint_root, saved, self.config.run.keep_checkpoints)

    def resume(self) -> None:
        """Go back to the newest checkpoint of the run, forgetting metrics written after it."""
        folders = checkpoint.found(self.run.checkpoint_root)
        if not folders:
            raise InputError(f"{self.run.path} holds no checkpoint to resume from")
        saved = checkpoint.load(folders[-1])
        if saved.epoch > self.config.train.epochs:
            raise InputError(
                f"{self.run.path} has finished {saved.epoch} epochs already: "
                f"train.epochs={self.config.train.epochs} cannot take any back"
            )
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

    def _due(self, every: int) -> bool:
        """Whether what is done `every` so many epochs is due: every so many, and when the run is over."""
        return self.finished_epochs % every == 0 or self.finished_epochs == self.config.train.epochs

    def _require_images(self) -> None:
        images, updates = len(self.draw_prompts(epoch=0)), self.config.train.updates_per_epoch
        if updates > images:
            raise InputError(f"train.updates_per_epoch is {updates} but an epoch has only {images} images")


def resume_command(run: Path) -> str:
    """What to type to go on with a run."""
    return f"stepcredit train --resume --run {shlex.quote(str(run))}"


def policy_tensors(saved: Checkpoint) -> dict[str, Tensor]:
    """The policy's weights in a checkpoint, under the policy's own names."""
    return {name.removeprefix("policy."): value for name, value in saved.tensors.items() if name.startswith("policy.")}
