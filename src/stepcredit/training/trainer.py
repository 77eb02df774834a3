"""The training loop. `TrainingLoop.epoch` reads top to bottom."""

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

from stepcredit.algorithms.gradient import step_gradient
from stepcredit.algorithms.minibatch import Experience, Replayed, image_groups, microbatch
from stepcredit.algorithms.old_weights import OldWeights
from stepcredit.algorithms.sampling_plan import evaluation_plan, training_plan
from stepcredit.algorithms.step_sampling import sample_steps
from stepcredit.config import TrainConfig
from stepcredit.credit._profiles import mean_magnitude, step_profiles
from stepcredit.distributed.partition import Partition, partition_images
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.evaluation import Evaluation, evaluate
from stepcredit.evaluation.image_size import size_note
from stepcredit.maths.advantage import constant_groups
from stepcredit.maths.schedules import mean_one
from stepcredit.policy.checks.replay_check import OTHER_BATCH_TOLERANCE, TOLERANCE
from stepcredit.prompts import draw_prompts
from stepcredit.rewards import Scores
from stepcredit.rewards.core.scores import join
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.image_grid import save_grid
from stepcredit.runs.profiler import profiled, profiled_epoch
from stepcredit.runs.progress import Progress
from stepcredit.runs.timing import Clock
from stepcredit.runs.tracking import TrackerGroup
from stepcredit.training.advantages import credit_name
from stepcredit.training.callbacks import Callback, EpochImages, run_callbacks
from stepcredit.training.checkpointing import Checkpointer
from stepcredit.training.parts import Parts, require_compatible
from stepcredit.training.recovery import Recovery, require_finite
from stepcredit.training.replay_buffer import Kept, origin_of
from stepcredit.training.reward_metrics import reward_metrics
from stepcredit.training.reward_queue import RewardQueue
from stepcredit.training.self_check import self_check
from stepcredit.training.state import TrainingState
from stepcredit.training.update import update_policy
from stepcredit.types import MeasuringCredit, Prompt, Rollout, Trajectory
from stepcredit.utils.files import written_whole
from stepcredit.utils.memory import peak_memory_bytes
from stepcredit.utils.seeds import Stream, epoch_generator, sample_seeds
from stepcredit.utils.user_code import contained


class TrainingLoop:
    """Trains a policy on a reward: rollout, reward, advantage, credit, update, epoch by epoch.

    The state of a run (`state`) changes only between the scores of an epoch and its row of metrics. If the run stops
    at any other point, `checkpointer` saves it first. Nothing is written before `train`.

    Args:
        parts: policy, reward, credit rule, algorithm and prompts.
        run: the directory to write to.
        progress: shows what is going on; silent by default.
        weights_dir: where the trained weights are exported to; `run.lora_dir` by default.
        processes: the process group; by default this process alone. Every rank has a loop of its own.
        callbacks: called on rank 0 after every epoch; see `callbacks`.

    Attributes:
        stopped: whether a callback has ended the run.

    Raises:
        InputError: the parts do not fit together, or the prompts are too few for the epoch that `config` asks for.
    """

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        run: RunDirectory,
        *,
        progress: Progress | None = None,
        weights_dir: Path | None = None,
        processes: ProcessGroup | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.parts = parts
        self.policy, self.algorithm = parts.policy, parts.algorithm
        self.run = run
        self.progress = progress or Progress()
        self.weights_dir = weights_dir or run.lora_dir
        self.processes = processes or ProcessGroup()
        self.callbacks = callbacks
        self.stopped = False
        recovery = Recovery(config.train.max_skipped_updates, self.progress.note, halves=not self.processes.sharded)
        self.state = TrainingState(
            config, parts.policy, recovery, parts.credit, self.processes, self.algorithm.needs.replay_epochs
        )
        self.checkpointer = Checkpointer(run, self.state, self.progress, self.processes)
        names = config.run.trackers if self.processes.is_main else []
        self.trackers = TrackerGroup(names, self.progress.note, config.run.plugins)
        self._replay_checked = not config.run.self_check
        require_compatible(config, parts, self.processes, len(self.draw_prompts(epoch=0)))

    def train(self) -> Path:
        """Run the remaining epochs, export the weights and return their path.

        However it stops before that, no finished epoch is lost, unless in the middle of an update.

        Raises:
            RewardError, ResumableError: the run can be resumed once the cause is fixed.
            OSError: the run directory cannot be written; what is in it is complete.
        """
        trackers = self.trackers.running(self.run.path, self.config, self.finished_epochs)
        with self.checkpointer.save_on_exit(), trackers:
            if self.finished_epochs == 0:
                self.checkpointer.save()
            if self._due(self.config.run.grid_every) and self._grid_missing():
                self.evaluate()
            profiled = profiled_epoch(self.finished_epochs, self.config.train.epochs)
            while self.finished_epochs < self.config.train.epochs and not self.stopped:
                with self._profiled(self.finished_epochs == profiled):
                    self.epoch(self.finished_epochs)
            return self._export()

    def resume(self) -> None:
        """Restore the newest valid checkpoint of the run; see `Checkpointer.resume`."""
        self.checkpointer.resume()

    @property
    def finished_epochs(self) -> int:
        return self.state.finished_epochs

    def epoch(self, epoch: int) -> None:
        """One epoch: prompts, rollout, reward, advantage, credit, update, metrics, checkpoint, evaluation."""
        clock = Clock()
        with self.checkpointer.located(f"epoch {epoch + 1}"):
            prompts = self.draw_prompts(epoch)
            partition = self.partition(epoch, len(prompts))
            rollout, scores = self.rollout_and_reward(prompts, partition, epoch, clock)
            trajectory, images = rollout.trajectory, self.epoch_images(rollout, prompts, scores, partition)
            del rollout

            with self.checkpointer.uninterrupted():
                with clock("credit"):
                    advantage = self.advantage(prompts, scores)
                    step_advantages, credit_metrics = self.credit(trajectory, prompts, advantage, partition)
                    self.measure_gradients(trajectory, prompts, advantage, partition)
                with clock("training"):
                    experience = self.experience(trajectory, prompts, advantage, step_advantages, partition, epoch)
                    del trajectory  # the update can use the memory of its x0
                    update_metrics = self.update(experience, epoch)
                    origin = origin_of(prompts, self.config.sample)
                    self.state.replay.add(epoch, experience, advantage, step_advantages, origin)
                self.state.finished_epochs += 1
                self.state.reward_queries += len(prompts)
                row = self.record(prompts, scores, update_metrics | credit_metrics | clock.metrics())

        self.call_back(row, images)
        if self._due(self.config.run.checkpoint_every):
            self.checkpointer.save()
        if self._due(self.config.run.grid_every):
            self.evaluate()

    def draw_prompts(self, epoch: int) -> list[Prompt]:
        """The prompts of an epoch, one entry per image."""
        sample = self.config.sample
        return draw_prompts(
            self.parts.prompts,
            epoch=epoch,
            seed=self.config.run.seed,
            count=sample.prompts_per_epoch,
            order=self.config.prompts.order,
            images_per_prompt=sample.images_per_prompt,
        )

    def partition(self, epoch: int, images: int) -> Partition:
        """Which of the epoch's images this process samples and trains."""
        return partition_images(self._groups(epoch, images), self.processes)

    def rollout_and_reward(
        self, prompts: Sequence[Prompt], partition: Partition, epoch: int, clock: Clock
    ) -> tuple[Rollout, Scores]:
        """The rollout of this process, and the scores of the images of all, in the order of `prompts`."""
        with self._reward_queue(partition.local(prompts), self.config.reward.overlap) as queue:

            def local_rollout() -> tuple[Rollout, Scores]:
                with clock("sampling"):
                    rollout = self.rollout(prompts, partition, epoch, queue)
                with clock("waiting"):
                    self.progress.phase("reward")
                    return rollout, queue.scores(rollout.images)

            rollout, scores = self.processes.run_on_all(local_rollout)
        clock.add("reward", queue.seconds)
        return rollout, join(self.processes.all_gather(scores)).reordered(partition.order)

    def rollout(self, prompts: Sequence[Prompt], partition: Partition, epoch: int, queue: RewardQueue) -> Rollout:
        """One trajectory and one image for each of this process's prompts.

        Every batch goes to `queue` as soon as it is finished. The first rollout after a start or resume is checked by
        replaying it.
        """
        self.progress.phase("sampling")
        rollout = self.policy.rollout(
            partition.local(prompts),
            partition.local(self._image_seeds(Stream.TRAINING, epoch, len(prompts))),
            training_plan(self.config, self.algorithm.needs, partition.size, epoch),
            keep_x0=self.parts.credit.needs_x0,
            on_batch=queue.add,
            among=prompts,
        )
        if not self._replay_checked:
            self.self_check(rollout.trajectory, partition.size, epoch)
        require_finite("the latents that the model draws", rollout.trajectory.final)
        return rollout

    def self_check(self, trajectory: Trajectory, images: int, epoch: int) -> None:
        """Refuse a policy that would be trained on something other than what it sampled; see `self_check`."""
        self.progress.phase("self-check")
        plan = training_plan(self.config, self.algorithm.needs, images, epoch)
        halved = self.state.recovery.microbatch is not None
        lines = self_check(
            self.parts, self.config.train, trajectory, images, plan, halved=halved, sharded=self.processes.sharded
        )
        for line in lines:
            self.progress.note(line)
        self._replay_checked = True

    def advantage(self, prompts: Sequence[Prompt], scores: Scores) -> Tensor:
        """A (N,), of the images of all processes. Notes if all are 0."""
        texts = [prompt.text for prompt in prompts]
        advantage = self.state.advantages.of_images(texts, scores.trained(texts))
        if not advantage.any():
            unmade = ", so no update is made" if self.config.train.skip_constant_groups else ""
            self._note_epoch(
                "nothing to learn: every image has the same reward as the images it is compared with "
                f"(train.advantage={self.config.train.advantage}){unmade}"
            )
        return advantage

    def credit(
        self, trajectory: Trajectory, prompts: Sequence[Prompt], advantage: Tensor, partition: Partition
    ) -> tuple[Tensor, dict[str, Any]]:
        """Step advantages M (N,T) of the images of all processes, and figures of them."""
        texts = [prompt.text for prompt in prompts]
        step_advantages, metrics = self.state.advantages.of_steps(
            self.parts.credit, trajectory, texts, advantage, partition
        )
        constant = constant_groups(advantage, texts).tolist()
        groups = {text for text, skipped in zip(texts, constant, strict=True) if skipped}
        return step_advantages, metrics | step_profiles(trajectory, step_advantages) | {"constant_groups": len(groups)}

    def measure_gradients(
        self, trajectory: Trajectory, prompts: Sequence[Prompt], advantage: Tensor, partition: Partition
    ) -> None:
        """Let a credit rule that looks at gradients do so, those of each step under `advantage` (N,) itself."""
        credit = self.parts.credit
        if not isinstance(credit, MeasuringCredit):
            return
        everywhere = advantage.to(trajectory.latents.device).unsqueeze(1).expand(-1, trajectory.steps)
        experience = self.experience(trajectory, prompts, advantage, everywhere, partition, self.finished_epochs)
        optimizer, recovery = self.state.optimizer, self.state.recovery

        def measure(size: int) -> None:
            gradient = partial(step_gradient, self.algorithm, self.policy, optimizer.scaler, experience, size)
            with contained(credit_name(credit)):
                credit.measure(trajectory, gradient)

        recovery.retry_out_of_memory(measure, optimizer.clear, microbatch(self.config.train, partition.size))

    def experience(
        self,
        trajectory: Trajectory,
        prompts: Sequence[Prompt],
        advantage: Tensor,
        step_advantages: Tensor,
        partition: Partition,
        epoch: int,
    ) -> Experience:
        """What this process trains on in the epoch, from the advantages of the images of all."""
        scores, trainable = self.algorithm.step_scores(trajectory, step_advantages), trajectory.trainable
        profile = mean_magnitude(step_advantages).float()
        texts = [prompt.text for prompt in prompts]
        return Experience(
            trajectory=replace(trajectory, x0=None),
            step_advantages=step_advantages[partition.rows],
            partition=partition,
            sampled=sample_steps(self.config.train, trainable, scores, self.config.run.seed, epoch),
            advantages=advantage.to(trajectory.latents.device)[partition.rows],
            credit_profile=mean_one(profile, trainable.cpu()),
            seeds=partition.local(self._prompt_seeds(Stream.ALGORITHM, epoch, prompts)),
            old_weights=OldWeights(self.policy) if self.algorithm.needs.old_weights else None,
            kept=~constant_groups(advantage, texts) if self.config.train.skip_constant_groups else None,
        )

    def update(self, experience: Experience, epoch: int) -> dict[str, float]:
        """Update the policy. Notes skipped updates and the algorithm's warnings."""
        self.progress.phase("training")
        train, recovery = self.config.train, self.state.recovery
        earlier = self.state.replay.experiences(epoch, experience, self._remade_experience)
        metrics = update_policy(
            self.algorithm,
            self.policy,
            self.state.optimizer,
            experience,
            train,
            self._shuffle(epoch),
            self.progress.tick,
            recovery,
            [Replayed(each, self._groups(kept, each.partition.total)) for kept, each in earlier.items()],
        )
        self._agree_on_microbatch()
        require_finite("the weights", *self.policy.parameters())
        if skipped := metrics["skipped_updates"]:
            updates = train.updates_per_epoch * train.inner_epochs
            self._note_epoch(f"skipped {skipped} of {updates} updates because their loss or gradient is not finite")
        tolerances = TOLERANCE if recovery.microbatch is None else OTHER_BATCH_TOLERANCE
        tolerance = tolerances[experience.trajectory.latents.dtype]
        for warning in self.algorithm.warnings(metrics, tolerance):
            self._note_epoch(warning)
        return metrics

    def record(self, prompts: Sequence[Prompt], scores: Scores, metrics: dict[str, Any]) -> dict[str, Any]:
        """Append the epoch's row to metrics.jsonl and return it; see `reward_metrics` for those of the reward."""
        row = {
            "epoch": self.finished_epochs,
            "reward_queries": self.state.reward_queries,
            **reward_metrics(self.parts.reward, prompts, scores),
            **metrics,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.processes.run_on_main(lambda: self.run.append_metrics(row))
        self.progress.epoch(row, self.algorithm.console)
        self.trackers.log_metrics(row)
        return row

    def epoch_images(
        self, rollout: Rollout, prompts: Sequence[Prompt], scores: Scores, partition: Partition
    ) -> EpochImages:
        """This process's images for the callbacks, on the CPU; no images if there are no callbacks."""
        rows = partition.rows if self.callbacks else partition.rows[:0]
        texts = [prompt.text for prompt in partition.local(prompts)][: len(rows)]
        return EpochImages(rollout.images[: len(rows)].cpu(), texts, scores.values[rows])

    def call_back(self, row: dict[str, Any], images: EpochImages) -> None:
        """Call the callbacks of rank 0 with its part of the images. All ranks stop if one of them asks for it.

        All ranks take part even without callbacks, because a program may give callbacks to rank 0 alone.
        """
        self.stopped = self.processes.run_on_main(lambda: run_callbacks(self.callbacks, row, images))

    def evaluate(self) -> Evaluation:
        """Sample the same prompts with the same noise as every time, score them and save the image grid."""
        self.progress.phase("sample grid")
        run = self.config.run
        where = f"sample grid after epoch {self.finished_epochs}" if self.finished_epochs else "first sample grid"
        prompts = self.draw_prompts(epoch=0)
        first = prompts[:: self.config.sample.images_per_prompt]
        plan = evaluation_plan(self.config, self.partition(0, len(prompts)).size)
        with self.checkpointer.located(where):
            evaluation = evaluate(self.policy, self._scores, first, run.grid_images, run.seed, plan)
        if self.finished_epochs == 0 and (note := size_note(self.config.sample, *evaluation.images.shape[2:])):
            self.progress.warn(note)
        path, passed = self.run.grid_path(self.finished_epochs), self.parts.reward.passed(evaluation.scores)
        self.processes.run_on_main(lambda: save_grid(path, evaluation.images, evaluation.captions(), passed=passed))
        self.trackers.log_images(self.finished_epochs, path)
        return evaluation

    def _scores(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Scores (B,) of images that are not trained on. Every process has the images; rank 0 asks the reward."""

        def scored() -> Tensor:
            with self._reward_queue(prompts, overlap=False) as queue:
                return queue.scores(images).values

        self.progress.phase("reward")
        return self.processes.run_on_main(scored)

    def _reward_queue(self, prompts: Sequence[Prompt], overlap: bool) -> RewardQueue:
        return RewardQueue(self.parts.reward, prompts, overlap=overlap, timeout=self.config.reward.timeout)

    def _agree_on_microbatch(self) -> None:
        """Continue on all processes with the smallest micro-batch of any; the checkpoint of rank 0 then has it."""
        recovery = self.state.recovery
        sizes = [size for size in self.processes.all_gather(recovery.microbatch) if size is not None]
        if sizes and recovery.microbatch != min(sizes):
            recovery.microbatch = min(sizes)
            self._note_epoch(
                "out of memory in training on another process: all continue with a micro-batch of "
                f"{recovery.microbatch}"
            )

    def _export(self) -> Path:
        if self.processes.sharded and not self.processes.is_main:
            with TemporaryDirectory() as unwanted:  # gives its shard; a LoRA is whole here too and would be written
                self.policy.export(Path(unwanted))

        def written() -> Path:
            with written_whole(self.weights_dir) as folder:
                return self.policy.export(folder).relative_to(folder)

        return self.weights_dir / self.processes.run_on_main(written)

    def _image_seeds(self, stream: Stream, epoch: int, images: int) -> list[int]:
        return sample_seeds(self.config.run.seed, stream, epoch * images, images)

    def _prompt_seeds(self, stream: Stream, epoch: int, prompts: Sequence[Prompt]) -> list[int]:
        """One seed for each image; images of one prompt have the same."""
        seeds = self._image_seeds(stream, epoch, len(prompts))
        by_prompt = {prompt.text: seed for prompt, seed in zip(prompts, seeds, strict=True)}
        return [by_prompt[prompt.text] for prompt in prompts]

    def _groups(self, epoch: int, images: int) -> list[Tensor]:
        """The images of each update of the first pass over an epoch."""
        return list(image_groups(images, self.config.train.updates_per_epoch, self._shuffle(epoch)))

    def _remade_experience(self, epoch: int, kept: Kept) -> Experience | None:
        """What this process trained on in an earlier epoch, which is sampled again after a resume.

        None, with a note, if the run now has other prompts or samples in another way.
        """
        prompts = self.draw_prompts(epoch)
        if origin_of(prompts, self.config.sample) != kept.origin:
            self._note_epoch(f"epoch {epoch + 1} is not trained again: it had other prompts or sample settings")
            return None
        self.progress.phase("replay buffer")
        partition = self.partition(epoch, len(prompts))
        seeds = partition.local(self._image_seeds(Stream.TRAINING, epoch, len(prompts)))
        plan = training_plan(self.config, self.algorithm.needs, partition.size, epoch)
        trajectory = self.policy.rollout(partition.local(prompts), seeds, plan, among=prompts).trajectory
        final = kept.final[partition.rows].to(trajectory.latents).unsqueeze(1)
        trajectory = replace(trajectory, latents=final)
        step_advantages = kept.step_advantages.to(final.device)
        return self.experience(trajectory, prompts, kept.advantages, step_advantages, partition, epoch)

    def _shuffle(self, epoch: int) -> np.random.Generator:
        """Orders the images of an epoch for its updates; the same order at every call."""
        return epoch_generator(self.config.run.seed, Stream.SHUFFLE, epoch)

    def _due(self, every: int) -> bool:
        """Whether something that happens every `every` epochs is due. Everything is due after the last epoch."""
        return self.stopped or self.finished_epochs % every == 0 or self.finished_epochs == self.config.train.epochs

    def _grid_missing(self) -> bool:
        return self.processes.run_on_main(lambda: not self.run.grid_path(self.finished_epochs).exists())

    def _profiled(self, wanted: bool) -> AbstractContextManager[None]:
        if not (wanted and self.config.run.profile and self.processes.is_main):
            return nullcontext()
        return profiled(self.run.profile_dir, self.state.optimizer.optimizer, self.progress)

    def _note_epoch(self, text: str) -> None:
        self.progress.note(f"epoch {self.finished_epochs + 1}: {text}")
