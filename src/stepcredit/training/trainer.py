"""The training loop: `Trainer.epoch` reads top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from stepcredit.algorithms.minibatch import Experience
from stepcredit.algorithms.ppo import step_gradient
from stepcredit.algorithms.step_sampling import sample_steps
from stepcredit.config import TrainConfig
from stepcredit.credit._profiles import step_profiles
from stepcredit.distributed.partition import Partition, partition_images
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError
from stepcredit.evaluation import evaluate
from stepcredit.policy.checks.replay_check import SINGLE_TOLERANCE, TOLERANCE, replay_check
from stepcredit.prompts import draw_prompts
from stepcredit.rewards import Scores, checked
from stepcredit.rewards.core.scores import join
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.image_grid import save_grid
from stepcredit.runs.profiler import profiled, profiled_epoch
from stepcredit.runs.progress import Progress
from stepcredit.runs.timing import Clock, peak_memory_bytes
from stepcredit.training.callbacks import Callback, EpochImages, run_callbacks
from stepcredit.training.checkpointing import Checkpointer
from stepcredit.training.recovery import Recovery, require_finite
from stepcredit.training.reward_queue import RewardQueue
from stepcredit.training.sampling_plan import evaluation_plan, image_groups, largest_update, microbatch, training_plan
from stepcredit.training.state import TrainingState
from stepcredit.training.update import update_policy
from stepcredit.types import CreditAssigner, MeasuringCredit, Policy, Prompt, RewardFunction, Trajectory
from stepcredit.utils.files import written_whole
from stepcredit.utils.seeds import Stream, epoch_generator, sample_seeds


class Trainer:
    """Trains `policy` on `reward`, spreading each image's advantage over its steps by `credit`.

    The state of a run (`state`) changes in one part of an epoch only, from the moment when the scores are there until
    the metrics are recorded; whatever stops the run elsewhere leaves a checkpoint of it (`checkpointer`). Nothing is written
    before `train`.

    Args:
        prompts: the whole prompt source; each epoch draws from it.
        weights_dir: where the trained weights are exported to, `run.lora_dir` by default.
        processes: that share the work; by default this is the only one. Each has a trainer, alike but for `progress`.
        callbacks: called on rank 0 after every epoch; see `callbacks`.

    Attributes:
        stopped: whether a callback has ended the run.

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
        processes: ProcessGroup | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.policy = policy
        self.reward = checked(reward, config.reward.name)
        self.credit = credit
        self.prompts = prompts
        self.run = run
        self.progress = progress or Progress()
        self.weights_dir = weights_dir or run.lora_dir
        self.replays = not config.run.self_check
        self.processes = processes or ProcessGroup()
        self.callbacks = callbacks
        self.stopped = False
        self._images: Tensor | None = None  # of this process in the current epoch, kept for callbacks
        halves = not self.processes.sharded
        guard = Recovery(config.train.max_skipped_updates, self.progress.note, halves=halves)
        self.state = TrainingState(config, policy, guard, credit, self.processes)
        self.checkpointer = Checkpointer(run, self.state, self.progress, self.processes)
        self._require_images()

    def train(self) -> Path:
        """Run the epochs that are left, export the weights and return where they are: the run directory is complete.

        However it stops before that, no finished epoch is lost, unless in the middle of an update.

        Raises:
            RewardError, ResumableError: the run can go on once what the line says is mended.
            OSError: the run directory cannot be written; what is in it is whole.
        """
        with self.checkpointer.save_on_exit():
            if self.finished_epochs == 0:
                self.checkpointer.save()
            if self._due(self.config.run.grid_every) and self._undrawn():
                self.draw_grid()
            looked_at = profiled_epoch(self.finished_epochs, self.config.train.epochs)
            while self.finished_epochs < self.config.train.epochs and not self.stopped:
                with self._profiled(self.finished_epochs == looked_at):
                    self.epoch(self.finished_epochs)
            return self._export()

    def resume(self) -> None:
        """Go back to the newest sound checkpoint of the run; see `Checkpointer.resume`."""
        self.checkpointer.resume()

    @property
    def finished_epochs(self) -> int:
        return self.state.finished_epochs

    def epoch(self, epoch: int) -> None:
        clock = Clock()
        with self.checkpointer.located(f"epoch {epoch + 1}"):
            prompts = self.draw_prompts(epoch)
            partition = self.partition(epoch, len(prompts))
            trajectory, scores = self.sample_and_score(prompts, partition, epoch, clock)

            with self.checkpointer.uninterrupted():
                with clock("credit"):
                    texts = [prompt.text for prompt in prompts]
                    advantage = self.advantage(texts, scores)
                    step_advantages, credited = self.spread(trajectory, texts, advantage, partition)
                    self.measure(trajectory, advantage, partition)
                trajectory = replace(trajectory, x0=None)  # only credit needs it; the update can use its memory
                with clock("training"):
                    updated = self.update(trajectory, step_advantages, partition, epoch)
                self.state.finished_epochs += 1
                self.state.reward_queries += len(prompts)
                row = self.record(scores, updated | credited | clock.metrics())

        self.run_callbacks(row, partition.local(prompts), scores.values[partition.rows])
        if self._due(self.config.run.checkpoint_every):
            self.checkpointer.save()
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

    def partition(self, epoch: int, images: int) -> Partition:
        """Which of the epoch's images this process samples and trains."""
        groups = image_groups(images, self.config.train.updates_per_epoch, self._shuffle(epoch))
        return partition_images(list(groups), self.processes)

    def sample_and_score(
        self, prompts: Sequence[Prompt], partition: Partition, epoch: int, clock: Clock
    ) -> tuple[Trajectory, Scores]:
        """The trajectories of this process, and the scores of the images of all, in the order of `prompts`."""
        with self.reward_queue(partition.local(prompts), self.config.reward.overlap) as reward_queue:
            recorded: list[Trajectory] = []

            def own() -> Scores:
                with clock("sampling"):
                    trajectory, images = self.sample(prompts, partition, epoch, reward_queue)
                    recorded.append(trajectory)
                with clock("waiting"):
                    return self.score(images, reward_queue)

            scores = join(self.processes.run_on_all(own))
        clock.add("reward", reward_queue.seconds)
        return recorded[0], scores.reordered(partition.order)

    def sample(
        self, prompts: Sequence[Prompt], partition: Partition, epoch: int, reward_queue: RewardQueue
    ) -> tuple[Trajectory, Tensor]:
        """One trajectory and one image (n,3,H,W) for each of this process's `prompts`; every batch goes to `reward_queue` as soon
        as it is finished.

        The first epoch after a start or resume is replayed to check.
        """
        self.progress.phase("sampling")
        seeds = sample_seeds(self.config.run.seed, Stream.TRAINING, epoch * len(prompts), len(prompts))
        plan = training_plan(self.config, partition.size, epoch)
        keep = self.credit.needs_x0
        own = partition.local(prompts), partition.local(seeds)
        rollout = self.policy.rollout(*own, plan, keep_x0=keep, on_batch=reward_queue.add, among=prompts)
        if not self.replays:
            self.progress.phase("self-check")
            trained_at_once = microbatch(self.config.train, partition.size)
            checked_at_once = trained_at_once if self.state.guard.microbatch is None else plan.batch
            found = replay_check(self.policy, rollout.trajectory, plan.batch, checked_at_once)
            self.progress.note(f"self-check: {found}")
            self._require_mixing(trained_at_once, partition.size)
            self.replays = True
        require_finite("the latents that the model draws", rollout.trajectory.final)
        if self.callbacks:
            self._images = rollout.images.cpu()
        return rollout.trajectory, rollout.images

    def score(self, images: Tensor, reward_queue: RewardQueue) -> Scores:
        """The scores of the epoch's images, those that are not there yet waited for."""
        self.progress.phase("reward")
        return reward_queue.scores(images)

    def values(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Scores (B,) of images that are not trained on, which every process has: the main one asks the reward."""

        def scored() -> Tensor:
            with self.reward_queue(prompts, overlap=False) as reward_queue:
                return reward_queue.scores(images).values

        self.progress.phase("reward")
        return self.processes.run_on_main(scored)

    def reward_queue(self, prompts: Sequence[Prompt], overlap: bool) -> RewardQueue:
        return RewardQueue(self.reward, prompts, overlap=overlap, timeout=self.config.reward.timeout)

    def advantage(self, prompts: Sequence[str], scores: Scores) -> Tensor:
        """(B,), told of if all are 0."""
        advantage = self.state.advantages.of_images(prompts, scores.trained(prompts))
        if not advantage.any():
            self.progress.note(
                f"epoch {self.finished_epochs + 1}: nothing to learn, every image scored as those it is compared with "
                f"(train.advantage={self.config.train.advantage})"
            )
        return advantage

    def spread(
        self, trajectory: Trajectory, prompts: Sequence[str], advantage: Tensor, partition: Partition
    ) -> tuple[Tensor, dict[str, Any]]:
        """M (N,T) of the epoch's images, and figures of it."""
        spread, figures = self.state.advantages.of_steps(self.credit, trajectory, prompts, advantage, partition)
        return spread, figures | step_profiles(trajectory, spread)

    def measure(self, trajectory: Trajectory, advantage: Tensor, partition: Partition) -> None:
        """Let a rule that looks at gradients do so, each step's under `advantage` (N,) itself."""
        if not isinstance(self.credit, MeasuringCredit):
            return
        state, train, credit = self.state, self.config.train, self.credit
        plain = advantage.to(trajectory.latents.device).unsqueeze(1).expand(-1, trajectory.steps)
        experience = Experience(trajectory, plain, partition)

        def measured(size: int) -> None:
            credit.measure(
                trajectory, partial(step_gradient, self.policy, state.optimizer.scaler, experience, train, size)
            )

        state.guard.retry_out_of_memory(measured, state.optimizer.clear, microbatch(train, partition.size))

    def update(
        self, trajectory: Trajectory, step_advantages: Tensor, partition: Partition, epoch: int
    ) -> dict[str, float]:
        """Update the policy; says so if updates were skipped, or first ratios further from 1 than replays may be."""
        self.progress.phase("training")
        state, train = self.state, self.config.train
        draw = sample_steps(train, trajectory, step_advantages, self.config.run.seed, epoch)
        figures = update_policy(
            self.policy,
            state.optimizer,
            Experience(trajectory, step_advantages[partition.rows], partition, draw),
            train,
            self._shuffle(epoch),
            self.progress.tick,
            state.guard,
        )
        self._agree_on_microbatch(epoch)
        require_finite("the weights", *self.policy.parameters())
        skipped, deviation = figures["skipped_updates"], figures["ratio_max_deviation"]
        if skipped:
            asked = train.updates_per_epoch * train.inner_epochs
            self.progress.note(
                f"epoch {epoch + 1}: updates skipped because their loss or gradient is not finite: {skipped} of {asked}"
            )
        allowed = TOLERANCE[trajectory.latents.dtype] if state.guard.microbatch is None else SINGLE_TOLERANCE
        if not deviation <= allowed:
            self.progress.note(
                f"epoch {epoch + 1}: first ratios deviate from 1 by {deviation:.1e} (allowed {allowed:.0e})"
            )
        return figures

    def record(self, scores: Scores, figures: dict[str, Any]) -> dict[str, Any]:
        """Append the epoch's row to metrics.jsonl and return it; `reward_components` is there for mixtures only."""
        components = scores.statistics()
        row = {
            "epoch": self.finished_epochs,
            "reward_queries": self.state.reward_queries,
            "reward_mean": float(scores.values.mean()),
            "reward_std": float(scores.values.std(correction=0)),
            **({"reward_components": components} if components else {}),
            **figures,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        complaint = self.processes.run_on_main(lambda: self.run.append_metrics(row))
        self.progress.epoch(row)
        if complaint:
            self.progress.note(complaint)
        return row

    def run_callbacks(self, row: dict[str, Any], prompts: Sequence[Prompt], scores: Tensor) -> None:
        """Call the callbacks on rank 0 with its share of the images; all ranks stop if one callback asks for it."""
        if self._images is None:
            return
        images = EpochImages(self._images, [prompt.text for prompt in prompts], scores)
        self.stopped = self.processes.run_on_main(lambda: run_callbacks(self.callbacks, row, images))
        self._images = None

    def draw_grid(self) -> None:
        """Sample the same prompts with the same noise as every time, score them and keep the picture."""
        self.progress.phase("sample grid")
        run = self.config.run
        where = f"sample grid after epoch {self.finished_epochs}" if self.finished_epochs else "first sample grid"
        prompts = self.draw_prompts(epoch=0)
        first = prompts[:: self.config.sample.images_per_prompt]
        plan = evaluation_plan(self.config, self.partition(0, len(prompts)).size)
        with self.checkpointer.located(where):
            seen = evaluate(self.policy, self.values, first, run.grid_images, run.seed, plan)
        path = self.run.grid_path(self.finished_epochs)
        self.processes.run_on_main(lambda: save_grid(path, seen.images, seen.captions()))

    def _require_mixing(self, pairs: int, images: int) -> None:
        """Refuse what would train every image of an update several times over, to no use."""
        largest = largest_update(self.config.train, images)
        if pairs > largest and not self.policy.mixes_steps:
            raise InputError(
                f"train.microbatch is {pairs} but an update has only {largest} images, and this pipeline replays one "
                f"step at a time ({self.policy.replay_mode}): give at most {largest}"
            )

    def _agree_on_microbatch(self, epoch: int) -> None:
        """Go on with the smallest that memory has left any process, which the checkpoint of the main one then holds."""
        guard = self.state.guard
        left = [size for size in self.processes.all_gather(guard.microbatch) if size is not None]
        if left and guard.microbatch != min(left):
            guard.microbatch = min(left)
            self.progress.note(
                f"epoch {epoch + 1}: out of memory in training on another process: all go on with a micro-batch of "
                f"{guard.microbatch}"
            )

    def _export(self) -> Path:
        if self.processes.sharded and not self.processes.is_main:
            with TemporaryDirectory() as unwanted:  # it gives its part; a LoRA is whole here too, and would be written
                self.policy.export(Path(unwanted))

        def written() -> Path:
            with written_whole(self.weights_dir) as folder:
                return self.policy.export(folder).relative_to(folder)

        return self.weights_dir / self.processes.run_on_main(written)

    def _shuffle(self, epoch: int) -> np.random.Generator:
        """Orders the images of an epoch for its updates, from the beginning again."""
        return epoch_generator(self.config.run.seed, Stream.SHUFFLE, epoch)

    def _due(self, every: int) -> bool:
        """Whether what is done `every` so many epochs is due: every so many, and when the run is over."""
        return self.stopped or self.finished_epochs % every == 0 or self.finished_epochs == self.config.train.epochs

    def _undrawn(self) -> bool:
        return self.processes.run_on_main(lambda: not self.run.grid_path(self.finished_epochs).exists())

    def _profiled(self, wanted: bool) -> AbstractContextManager[None]:
        if not (wanted and self.config.run.profile and self.processes.is_main):
            return nullcontext()
        return profiled(self.run.profile_dir, self.state.optimizer.optimizer, self.progress)

    def _require_images(self) -> None:
        images, updates, count = (
            len(self.draw_prompts(epoch=0)),
            self.config.train.updates_per_epoch,
            self.processes.world_size,
        )
        if count > 1 and isinstance(self.credit, MeasuringCredit):
            raise InputError(
                f"credit {self.config.credit.name} measures gradients on one process, but there are {count}"
            )
        if updates > images:
            raise InputError(f"train.updates_per_epoch is {updates} but an epoch has only {images} images")
        if count > images:
            raise InputError(f"there are {count} processes but an epoch has only {images} images")
        if self.processes.sharded and self.config.train.sampled_steps is not None:
            raise InputError("model.shard and train.sampled_steps exclude each other: leave one of them out")
        if self.processes.sharded and images % count:
            raise InputError(f"with model.shard, {count} processes cannot share {images} images: each needs as many")
