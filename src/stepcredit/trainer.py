"""The training loop: `Trainer.epoch` reads top to bottom."""

from __future__ import annotations

import heapq
import operator
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepcredit import checkpoint
from stepcredit.checkpoint import Checkpoint, newest_sound
from stepcredit.config import TrainConfig
from stepcredit.credit.profiles import step_profiles
from stepcredit.durable import sweep, written_whole
from stepcredit.errors import InputError, shortened
from stepcredit.evaluation import evaluate
from stepcredit.faults import Guard, Stopped, out_of_memory, require_finite
from stepcredit.grids import save_grid
from stepcredit.interruption import finished_first
from stepcredit.maths.advantage import PromptStatistics, StepStatistics, group_advantages, standardise
from stepcredit.measure import Clock, peak_memory_bytes
from stepcredit.plans import evaluation_plan, largest_update, microbatch, training_plan
from stepcredit.policy.self_check import SINGLE_TOLERANCE, TOLERANCE, self_check
from stepcredit.profiling import profiled, profiled_epoch
from stepcredit.progress import Progress
from stepcredit.prompts import draw_prompts
from stepcredit.rewards import RewardError, Scores, checked
from stepcredit.scoring import Scoring
from stepcredit.seeds import Stream, epoch_generator, sample_seeds
from stepcredit.tracking import RunDirectory, changed_versions, package_versions
from stepcredit.types import CreditAssigner, Policy, Prompt, RewardFunction, Trajectory
from stepcredit.update import update_policy


class Trainer:
    """Trains `policy` on `reward`, spreading each image's advantage over its steps by `credit`.

    Every random number of a run is a function of its seed, the epoch and the image's index, so that no generator has
    a state to keep. The state of a run is: weights and their averages, optimiser, loss scaler, statistics of rewards
    and step advantages, and counters. It changes in one part of an epoch only, from the moment when the scores are
    there until the metrics are recorded; whatever stops the run elsewhere leaves a checkpoint of it. Nothing is written
    before `train`.

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
        self.guard = Guard(config.train.max_skipped_updates, self.progress.note)
        self._intact = True  # the state is that after `finished_epochs`
        self._saved: int | None = None  # the epoch of the newest checkpoint
        train, device = config.train, policy.parameters()[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=config.model.dtype == "float16")
        self.optimiser = torch.optim.AdamW(
            policy.parameters(),
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.adam_epsilon,
            weight_decay=train.weight_decay,
            fused=device == "cuda" and not self.scaler.is_enabled(),  # fused, it counts steps that the scaler skips
        )
        self.optimiser.register_step_post_hook(lambda *_: policy.stepped())  # not for steps that the scaler skips
        self.reward_statistics = PromptStatistics(train.buffer_size, train.min_count)
        self.step_statistics = StepStatistics(train.buffer_size, train.min_count)
        self._require_images()

    def train(self) -> Path:
        """Run the epochs that are left, export the weights and return where they are: the run directory is complete.

        However it stops before that, no finished epoch is lost, unless in the middle of an update.

        Raises:
            RewardError, Stopped: the run can go on once what the line says is mended.
            OSError: the run directory cannot be written; what is in it is whole.
        """
        with self._kept_if_stopped():
            if self.finished_epochs == 0:
                self.save_checkpoint()
            if self._due(self.config.run.grid_every) and not self.run.grid_path(self.finished_epochs).exists():
                self.draw_grid()
            looked_at = profiled_epoch(self.finished_epochs, self.config.train.epochs)
            while self.finished_epochs < self.config.train.epochs:
                with self._profiled(self.finished_epochs == looked_at):
                    self.epoch(self.finished_epochs)
            return self._export()

    def epoch(self, epoch: int) -> None:
        clock = Clock()
        prompts = self.draw_prompts(epoch)
        with self._placed(f"epoch {epoch + 1}"), self.scoring(prompts, self.config.reward.overlap) as scoring:
            with clock("sampling"):
                trajectory, images = self.sample(prompts, epoch, scoring)
            with clock("waiting"):
                scores = self.score(images, scoring)
        clock.add("reward", scoring.seconds)

        with self._placed(f"epoch {epoch + 1}"), self._indivisible():
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
            checked_at_once = trained_at_once if self.guard.microbatch is None else plan.batch
            found = self_check(self.policy, rollout.trajectory, plan.batch, checked_at_once)
            self.progress.note(f"self-check: {found}")
            self._require_mixing(trained_at_once, len(prompts))
            self.replays = True
        require_finite("the latents that the model draws", rollout.trajectory.final)
        return rollout.trajectory, rollout.images

    def score(self, images: Tensor, scoring: Scoring) -> Scores:
        """The scores of the epoch's images, those that are not there yet waited for."""
        self.progress.phase("reward")
        return scoring.scores(images)

    def values(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Scores (B,) of images that are not trained on."""
        self.progress.phase("reward")
        with self.scoring(prompts, overlap=False) as scoring:
            return scoring.scores(images).values

    def scoring(self, prompts: Sequence[Prompt], overlap: bool) -> Scoring:
        return Scoring(self.reward, prompts, overlap=overlap, timeout=self.config.reward.timeout)

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
        """Update the policy; says so if updates were skipped, or first ratios further from 1 than replays may be."""
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
            self.guard,
        )
        require_finite("the weights", *self.policy.parameters())
        if figures["skipped_updates"]:
            skipped, asked = (
                figures["skipped_updates"],
                self.config.train.updates_per_epoch * self.config.train.inner_epochs,
            )
            self.progress.note(
                f"epoch {epoch + 1}: updates skipped because their loss or gradient is not finite: {skipped} of {asked}"
            )
        deviation, allowed = figures["ratio_max_deviation"], TOLERANCE[trajectory.latents.dtype]
        if self.guard.microbatch is not None:
            allowed = SINGLE_TOLERANCE
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
        complaint = self.run.append_metrics(row)
        self.progress.epoch(row)
        if complaint:
            self.progress.note(complaint)

    def draw_grid(self) -> None:
        """Sample the same prompts with the same noise as every time, score them and keep the picture."""
        self.progress.phase("sample grid")
        run = self.config.run
        where = f"sample grid after epoch {self.finished_epochs}" if self.finished_epochs else "first sample grid"
        first = self.draw_prompts(epoch=0)[:: self.config.sample.images_per_prompt]
        plan = evaluation_plan(self.config, len(self.draw_prompts(epoch=0)))
        with self._placed(where):
            seen = evaluate(self.policy, self.values, first, run.grid_images, run.seed, plan)
        save_grid(self.run.grid_path(self.finished_epochs), seen.images, seen.captions())

    def save_checkpoint(self) -> None:
        weights = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        state = {
            "reward_queries": self.reward_queries,
            "reward_statistics": self.reward_statistics.state_dict(),
            "step_statistics": self.step_statistics.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped_in_a_row": self.guard.skipped_in_a_row,
            "microbatch": {"asked": self.config.train.microbatch, "halved": self.guard.microbatch},
            "config": self.config.model_dump(mode="json"),
            "versions": package_versions(),
        }
        tensors = weights | checkpoint.optimiser_tensors(self.optimiser)
        saved, run = Checkpoint(self.finished_epochs, tensors, state), self.config.run
        checkpoint.save(self.run.checkpoint_root, saved, run.keep_checkpoints, self._best(run.keep_best))
        self._saved = self.finished_epochs

    def resume(self) -> None:
        """Go back to the newest sound checkpoint of the run, forgetting metrics written after it."""
        found = newest_sound(self.run.checkpoint_root, self.progress.note)
        if found is None:
            raise InputError(f"{self.run.path} holds no checkpoint to resume from")
        folder, saved = found
        if saved.epoch > self.config.train.epochs:
            raise InputError(
                f"{self.run.path} has finished {saved.epoch} epochs already: "
                f"train.epochs={self.config.train.epochs} cannot take any back"
            )
        try:
            self._restore(saved)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"checkpoint {folder} does not fit this run: {type(error).__name__}: {shortened(str(error))}"
            ) from error
        changed = changed_versions(saved.state.get("versions"))
        if changed:
            self.progress.note(f"resuming with other versions, which may round otherwise: {changed}")
        sweep(self.run.path)
        self.run.truncate_metrics(saved.epoch)

    @contextmanager
    def _kept_if_stopped(self) -> Iterator[None]:
        """Whatever stops the run: a checkpoint of the epochs that are finished, where there is none yet."""
        try:
            yield
        except BaseException:
            if self._intact and self._saved != self.finished_epochs:
                with suppress(OSError):
                    self.save_checkpoint()
            raise

    @contextmanager
    def _indivisible(self) -> Iterator[None]:
        """The state changes inside: a signal waits for the end of it, what fails leaves the newest checkpoint only."""
        with finished_first(lambda: self.progress.note("stopping when this epoch's updates are made; again: at once")):
            self._intact = False
            yield
            self._intact = True

    @contextmanager
    def _placed(self, where: str) -> Iterator[None]:
        """Errors of which a run can be mended say `where` they came up and how to go on."""
        resume = resume_command(self.run.path)
        try:
            yield
        except RewardError as error:
            raise RewardError(f"{where}: {error}; mend it and go on with: {resume}") from error
        except Stopped as error:
            raise Stopped(f"{where}: {error}, go on with: {f'{resume} {error.overrides}'.strip()}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            doing = "sampling or decoding" if self._intact else "the optimiser's step"
            raise Stopped(
                f"{where}: out of memory in {doing}; free some, or lower sample.batch, and go on with: {resume}"
            ) from error

    def _require_mixing(self, pairs: int, images: int) -> None:
        """Refuse what would train every image of an update several times over, to no use."""
        largest = largest_update(self.config.train, images)
        if pairs > largest and not self.policy.mixes_steps:
            raise InputError(
                f"train.microbatch is {pairs} but an update has only {largest} images, and this pipeline replays one "
                f"step at a time ({self.policy.replay_mode}): give at most {largest}"
            )

    def _restore(self, saved: Checkpoint) -> None:
        self.policy.load_state_dict(policy_tensors(saved))
        checkpoint.restore_optimiser(self.optimiser, saved.tensors)
        self.reward_statistics.load_state_dict(saved.state["reward_statistics"])
        self.step_statistics.load_state_dict(saved.state["step_statistics"])
        self.scaler.load_state_dict(saved.state["scaler"])
        self.guard.skipped_in_a_row = operator.index(saved.state.get("skipped_in_a_row", 0))
        size = saved.state.get("microbatch", {})
        if size and size["halved"] is not None and size["asked"] == self.config.train.microbatch:
            self.guard.microbatch = max(1, operator.index(size["halved"]))
        self.reward_queries = operator.index(saved.state["reward_queries"])
        self.finished_epochs = self._saved = saved.epoch

    def _export(self) -> Path:
        with written_whole(self.weights_dir) as folder:
            weights = self.policy.export(folder).relative_to(folder)
        return self.weights_dir / weights

    def _best(self, count: int) -> list[int]:
        """The epochs of the `count` checkpoints whose images scored best.

        The reward that an epoch records is that of the checkpoint before it, which its images were sampled with.
        """
        scores = {row["epoch"] - 1: row.get("reward_mean") for row in self.run.metrics()}
        there = map(checkpoint.epoch_of, checkpoint.found(self.run.checkpoint_root))
        known = {epoch: score for epoch in there if isinstance(score := scores.get(epoch), float)}
        return heapq.nlargest(count, known, key=lambda epoch: known[epoch])

    def _clip(self, advantage: Tensor) -> Tensor:
        limit = self.config.train.advantage_clip
        return advantage.clamp(-limit, limit)

    def _due(self, every: int) -> bool:
        """Whether what is done `every` so many epochs is due: every so many, and when the run is over."""
        return self.finished_epochs % every == 0 or self.finished_epochs == self.config.train.epochs

    def _profiled(self, wanted: bool) -> AbstractContextManager[None]:
        if not (wanted and self.config.run.profile):
            return nullcontext()
        return profiled(self.run.profile_dir, self.optimiser, self.progress)

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
