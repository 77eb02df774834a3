"""The trainer on a toy policy: it learns, it records what it did, and a resumed run is the run that never stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.loop import training_loop
from tests.toy_policy import ToyPolicy, toy_config
from torch import Tensor

from stepcredit.config import TrainConfig
from stepcredit.credit import CREDIT, build_credit
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError, RewardError
from stepcredit.maths import Transition
from stepcredit.report import write_report
from stepcredit.rewards import CheckedReward
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.progress import Progress
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Prompt, RewardFunction, Rollout, Trajectory

PROMPTS = [Prompt("a lake", {"number": 0}), Prompt("a hill", {"number": 1}), Prompt("a road", {"number": 2})]


class Notebook(Progress):
    """Remembers what a run told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []
        self.rows: list[Any] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def epoch(self, metrics: Any, formats: Any = None) -> None:
        self.rows.append(metrics)


class Failing:
    """Warmth that fails at the calls numbered in `at`, as `how` does."""

    def __init__(self, how: Callable[[Tensor], Any], *at: int) -> None:
        self.how, self.at, self.calls = how, at, 0

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Any:
        scores = Warmth()(images, prompts, metadata)
        self.calls += 1
        return self.how(scores) if self.calls in self.at else scores


class InBatches(ToyPolicy):
    """Hands on its images by fours."""

    def rollout(self, *arguments: Any, on_batch: Any = None, **named: Any) -> Rollout:
        whole = super().rollout(*arguments, **named)
        for start in range(0, len(whole.images), 4):
            rows = slice(start, start + 4)
            if on_batch is not None:
                on_batch(whole.images[rows], rows)
        return whole


def raising(scores: Tensor) -> Tensor:
    raise RuntimeError("no such model")


def stopping(scores: Tensor) -> Tensor:
    raise KeyboardInterrupt


def nan_for_the_second(scores: Tensor) -> Tensor:
    return torch.where(torch.arange(len(scores)) == 1, torch.nan, scores)


def start(path: Path, config: TrainConfig, policy: ToyPolicy | None = None, **parts: Any) -> TrainingLoop:
    run = RunDirectory.create(path, config, ["stepcredit"])
    return trainer_of(run, config, policy, **parts)


def resume(path: Path, config: TrainConfig, policy: ToyPolicy | None = None, **parts: Any) -> TrainingLoop:
    trainer = trainer_of(RunDirectory.open(path), config, policy, **parts)
    trainer.resume()
    return trainer


def trainer_of(
    run: RunDirectory,
    config: TrainConfig,
    policy: ToyPolicy | None = None,
    reward: RewardFunction | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
    progress: Progress | None = None,
) -> TrainingLoop:
    credit = build_credit(config.credit)
    return training_loop(
        config, policy or ToyPolicy(config.sample.steps), reward or Warmth(), credit, prompts, run, progress
    )


def finish(trainer: TrainingLoop) -> RunDirectory:
    trainer.train()
    return trainer.run


class Second(ProcessGroup):
    """Of two that forward together."""

    rank, world_size, sharded = 1, 2, True

    def run_on_main(self, work: Callable[[], Any]) -> Any:
        return Path("what the first one wrote")


def rows(run: RunDirectory) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock and the machine decide."""
    return [
        {key: value for key, value in row.items() if not key.startswith("seconds_") and key != "peak_memory_bytes"}
        for row in run.metrics()
    ]


def state(run: RunDirectory) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The newest checkpoint, bit for bit."""
    folder = sorted(run.checkpoint_root.iterdir())[-1]
    tensors = load_file(folder / "tensors.safetensors")
    return json.loads((folder / "state.json").read_text()), {
        name: value.numpy().tobytes() for name, value in tensors.items()
    }


@pytest.mark.parametrize(("overlap", "calls"), [(True, 2), (False, 1)])
def test_rewards_are_computed_batch_by_batch_beside_sampling_unless_that_is_switched_off(
    tmp_path: Path, overlap: bool, calls: int
) -> None:
    reward = Failing(raising)
    trainer = start(tmp_path / "run", toy_config(reward={"overlap": overlap}), InBatches(4), reward=reward)
    trainer.epoch(0)
    assert reward.calls == calls


# It learns


FAST = ("uniform", "contribution", "linear", "tdpo")
"""One credit rule of each kind. The slow suite trains with all of them."""


@pytest.mark.parametrize(
    "credit", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CREDIT.names()]
)
def test_the_reward_rises_under_every_credit_rule(tmp_path: Path, credit: str) -> None:
    config = toy_config(
        train={"epochs": 25}, credit={"name": credit}, sample={"images_per_prompt": 8}, run={"checkpoint_every": 25}
    )
    policy = ToyPolicy()
    run = finish(start(tmp_path, config, policy))
    rewards = [row["reward_mean"] for row in run.metrics()]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    assert policy.target.min() > 0.2, "every part of the picture is to be warm"
    assert all(row["ratio_max_deviation"] == 0 for row in run.metrics()), "elementwise mathematics replays exactly"


@pytest.mark.parametrize("advantage", ["group", "running", "batch"])
def test_the_reward_rises_under_every_advantage(tmp_path: Path, advantage: str) -> None:
    config = toy_config(train={"epochs": 25, "advantage": advantage}, sample={"images_per_prompt": 8})
    rewards = [row["reward_mean"] for row in finish(start(tmp_path, config)).metrics()]
    assert rewards[-1] > rewards[0] + 0.2


def test_a_step_without_variance_is_left_out(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 1})
    run = finish(start(tmp_path, config, ToyPolicy(last_std=0.0)))
    row = run.metrics()[0]
    assert row["credit_profile"][-1] == 0 and all(share > 0 for share in row["credit_profile"][:-1])
    assert row["grad_norm"] > 0 and row["loss"] is not None


# A resumed run is the run that never stopped


@pytest.mark.parametrize("credit", CREDIT.names())
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, credit: str) -> None:
    def config(epochs: int) -> TrainConfig:
        train = {"epochs": epochs, "advantage": "running", "buffer_size": 12}
        return toy_config(train=train, credit={"name": credit}, prompts={"order": "random"})

    whole = finish(start(tmp_path / "whole", config(4)))
    finish(start(tmp_path / "parts", config(2)))
    parts = finish(resume(tmp_path / "parts", config(4)))
    assert rows(parts) == rows(whole) and len(rows(whole)) == 4
    assert state(parts) == state(whole)
    assert (parts.lora_dir / "toy.safetensors").read_bytes() == (whole.lora_dir / "toy.safetensors").read_bytes()
    assert parts.grid_path(4).read_bytes() == whole.grid_path(4).read_bytes()


def test_only_rank_0_writes_the_weights(tmp_path: Path) -> None:
    trainer = start(tmp_path, toy_config())
    trainer.processes = Second()
    assert trainer._export() == trainer.weights_dir / "what the first one wrote"
    assert not trainer.weights_dir.exists()


@pytest.mark.parametrize("credit", ["tdpo", "tdpo-r"])
def test_a_rule_learns_from_every_epoch_and_is_kept(tmp_path: Path, credit: str) -> None:
    run = finish(start(tmp_path, toy_config(credit={"name": credit})))
    explained = [row["credit_critic_explained"] for row in run.metrics()]
    assert explained[0] == pytest.approx(0, abs=1e-5) and all(abs(share) > 1e-4 for share in explained[1:])
    kept = load_file(run.checkpoint_root / "epoch_0003" / "tensors.safetensors")
    assert kept["credit.epochs"] == 3 and kept["credit.layers.2.weight"].any()


def test_a_critic_of_another_size_is_refused(tmp_path: Path) -> None:
    finish(start(tmp_path, toy_config(train={"epochs": 1}, credit={"name": "tdpo"})))
    with pytest.raises(InputError, match=r"does not fit this run: RuntimeError: .*size mismatch"):
        resume(tmp_path, toy_config(credit={"name": "tdpo", "options": {"hidden": 8}}))


@pytest.mark.parametrize("call", range(1, 7))
def test_a_run_stopped_in_any_reward_call_resumes_exactly(tmp_path: Path, call: int) -> None:
    config = toy_config(train={"epochs": 4}, run={"checkpoint_every": 3})
    whole = finish(start(tmp_path / "whole", config))
    stopped = start(tmp_path / "stopped", config, reward=Failing(stopping, call))
    with pytest.raises(KeyboardInterrupt):
        finish(stopped)
    again = finish(resume(tmp_path / "stopped", config))
    assert rows(again) == rows(whole)
    assert state(again) == state(whole)
    assert sorted(path.name for path in again.path.glob("samples/*")) == ["epoch_0000.png", "epoch_0004.png"]


def test_resuming_deletes_metrics_after_the_last_checkpoint(tmp_path: Path) -> None:
    config = toy_config(run={"checkpoint_every": 2})
    stopped = start(tmp_path, config, reward=Failing(stopping, 3))
    with pytest.raises(KeyboardInterrupt):
        finish(stopped)
    assert [row["epoch"] for row in stopped.run.metrics()] == [1]
    shutil.rmtree(tmp_path / "checkpoints" / "epoch_0001")  # killed, it could not have kept it
    trainer = resume(tmp_path, config)
    assert trainer.finished_epochs == 0 and trainer.run.metrics() == []


def test_the_statistics_of_the_rewards_are_part_of_the_state(tmp_path: Path) -> None:
    config = toy_config(train={"advantage": "running"})
    first = start(tmp_path, config)
    finish(first)
    again = resume(tmp_path, config)
    remembered = first.state.advantages.state_dict()
    assert again.state.advantages.state_dict() == remembered
    assert all(remembered[name] for name in ("reward_statistics", "step_statistics"))
    assert again.state.reward_queries == first.state.reward_queries == 24


def test_a_finished_run_resumed_changes_nothing(tmp_path: Path) -> None:
    config = toy_config()
    run = finish(start(tmp_path, config))
    before = rows(run), state(run)
    notes = Notebook()
    again = finish(resume(tmp_path, config, progress=notes))
    assert (rows(again), state(again)) == before
    assert notes.phases == []


def test_fewer_epochs_than_are_finished_is_an_error(tmp_path: Path) -> None:
    run = finish(start(tmp_path, toy_config(train={"epochs": 2})))
    with pytest.raises(InputError, match=r"2 epochs.*train\.epochs"):
        resume(tmp_path, toy_config(train={"epochs": 1}))
    assert len(run.metrics()) == 2


def test_resume_needs_a_checkpoint(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, toy_config(), ["stepcredit"])
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        resume(tmp_path, toy_config())


# What it records


def test_a_row_of_the_metrics(tmp_path: Path) -> None:
    run = finish(start(tmp_path, toy_config(train={"epochs": 2})))
    first, second = run.metrics()
    assert list(first) == list(second)
    assert set(first) == {
        "epoch",
        "reward_queries",
        "reward_mean",
        "reward_std",
        "ratio_max_deviation",
        "seconds_credit",
        "loss",
        "approx_kl",
        "clip_fraction",
        "grad_norm",
        "skipped_updates",
        "credit_fallbacks",
        "credit_similarity_start",
        "constant_groups",
        "credit_profile",
        "native_scale",
        "update_profile",
        "seconds_sampling",
        "seconds_reward",
        "seconds_training",
        "seconds_waiting",
        "peak_memory_bytes",
    }
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert (first["reward_queries"], second["reward_queries"]) == (8, 16)


def test_the_recorded_reward_is_that_of_the_images_trained_on(tmp_path: Path) -> None:
    trainer = start(tmp_path, toy_config(train={"epochs": 1}))
    scores = []
    trainer.parts = replace(
        trainer.parts, reward=CheckedReward(lambda *call: scores.append(Warmth()(*call)) or scores[-1], "spy")
    )
    row = finish(trainer).metrics()[0]
    _, epoch, _ = scores
    assert row["reward_mean"] == pytest.approx(float(epoch.mean()), abs=1e-6)
    assert row["reward_std"] == pytest.approx(float(epoch.std(correction=0)), abs=1e-6)


@pytest.mark.parametrize(
    ("credit", "profile"), [("uniform", [1, 1, 1, 1]), ("linear", [1.6, 1.2, 0.8, 0.4])], ids=["uniform", "linear"]
)
def test_the_credit_profile_is_that_of_the_rule(tmp_path: Path, credit: str, profile: list[float]) -> None:
    run = finish(start(tmp_path, toy_config(train={"epochs": 1}, credit={"name": credit})))
    assert run.metrics()[0]["credit_profile"] == pytest.approx(profile, abs=1e-5)


def test_progress_gets_phases_and_rows_in_order(tmp_path: Path) -> None:
    told = Notebook()
    run = finish(start(tmp_path, toy_config(train={"epochs": 2}), progress=told))
    epoch = ["sampling", "reward", "training"]
    grid = ["sample grid", "reward"]
    assert told.phases == [*grid, "sampling", "self-check", "reward", "training", *epoch, *grid]
    assert told.notes == ["self-check: 4 steps of 8 images replay exact (mixed-steps)"]
    assert [row["epoch"] for row in told.rows] == [1, 2] == [row["epoch"] for row in run.metrics()]


def test_an_epoch_without_advantages_is_noted(tmp_path: Path) -> None:
    told, policy = Notebook(), ToyPolicy()
    config = toy_config(train={"epochs": 1}, sample={"images_per_prompt": 1, "prompts_per_epoch": 3})
    run = finish(start(tmp_path, config, policy, progress=told))
    assert [note for note in told.notes if note.startswith("epoch 1: nothing to learn")]
    assert not policy.target.any()
    assert run.metrics()[0]["credit_profile"] == [0.0] * 4


@pytest.mark.parametrize("algorithm", ["ppo", "matching"])
def test_constant_groups_are_counted_and_can_be_left_out(algorithm: str, tmp_path: Path) -> None:
    """Prompt by prompt: one whose images differ, and one with a constant reward."""

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        differing = torch.tensor([text != "a lake" for text in prompts])
        return Warmth()(images, prompts, metadata) * differing

    weights, counted = [], []
    for skip in (False, True):
        train = {"epochs": 2, "updates_per_epoch": 1, "algorithm": algorithm, "skip_constant_groups": skip}
        config = toy_config(train=train, sample={"prompts_per_epoch": 3}, reward={"name": "mine"})
        policy = ToyPolicy()
        run = finish(start(tmp_path / str(skip), config, policy, reward=reward))
        weights.append(policy.target.clone())
        counted.append([row["constant_groups"] for row in run.metrics()])
    assert counted == [[1, 1], [1, 1]]
    assert weights[0].any() and not torch.equal(*weights)


@pytest.mark.parametrize("algorithm", ["ppo", "matching"])
def test_without_an_image_that_is_kept_no_update_is_made(algorithm: str, tmp_path: Path) -> None:
    told, policy = Notebook(), ToyPolicy()
    train = {"epochs": 2, "algorithm": algorithm, "skip_constant_groups": True, "weight_decay": 0.1}
    config = toy_config(train=train, reward={"name": "mine"})
    run = finish(start(tmp_path, config, policy, reward=lambda images, *_: torch.ones(len(images)), progress=told))
    assert not policy.target.any()
    assert [note for note in told.notes if note.startswith("epoch 2: nothing to learn") and "no update is made" in note]
    for row in run.metrics():
        assert (row["constant_groups"], row["skipped_updates"], row["loss"], row["grad_norm"]) == (2, 0, None, None)
    assert write_report(run.path).is_file()


# Samples and checkpoints


def test_grids_show_the_same_prompts_with_the_same_noise(tmp_path: Path) -> None:
    policy = ToyPolicy()
    config = toy_config(run={"grid_every": 2, "grid_images": 3})
    run = finish(start(tmp_path, config, policy))
    grids = [rollout for rollout in policy.rollouts if len(rollout[0]) == 3]
    assert [path.name for path in sorted(run.path.glob("samples/*"))] == [
        "epoch_0000.png",
        "epoch_0002.png",
        "epoch_0003.png",
    ]
    assert len(grids) == 3 and grids[0] == grids[1] == grids[2]
    assert grids[0][0] == ["a lake", "a hill", "a lake"] and len(set(grids[0][1])) == 3
    trained = {seed for texts, seeds in policy.rollouts if len(texts) == 8 for seed in seeds}
    assert len(trained) == 24 and trained.isdisjoint(grids[0][1])


def test_checkpoints_are_written_when_due_and_the_newest_kept(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 5}, run={"checkpoint_every": 2, "keep_checkpoints": 3, "keep_best": 0})
    run = finish(start(tmp_path, config))
    assert sorted(path.name for path in run.checkpoint_root.iterdir()) == ["epoch_0002", "epoch_0004", "epoch_0005"]


class Scripted:
    """Scores whose mean is the next of `means` at every call."""

    def __init__(self, means: Sequence[float]) -> None:
        self.means = iter(means)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        spread = torch.linspace(-1, 1, len(images))
        return next(self.means) + spread


@pytest.mark.parametrize(("keep_best", "kept"), [(0, [5, 6]), (1, [1, 5, 6]), (2, [1, 3, 5, 6])])
def test_the_checkpoints_that_the_best_images_were_sampled_with_are_kept(
    tmp_path: Path, keep_best: int, kept: list[int]
) -> None:
    """Epoch 2 scores best, and its images were sampled with the weights after epoch 1."""
    grid, means = 0.0, [0.2, 0.9, 0.1, 0.7, 0.3, 0.4]
    run = {"keep_checkpoints": 2, "keep_best": keep_best, "grid_every": 9}
    config = toy_config(train={"epochs": 6}, run=run)
    directory = finish(start(tmp_path, config, reward=Scripted([grid, *means, grid])))
    assert [row["reward_mean"] for row in directory.metrics()] == pytest.approx(means)
    assert [checkpoint.epoch_of(folder) for folder in checkpoint.folders(directory.checkpoint_root)] == kept


def test_zero_epochs_give_a_run_with_its_first_grid(tmp_path: Path) -> None:
    run = finish(start(tmp_path, toy_config(train={"epochs": 0})))
    assert run.metrics() == [] and run.grid_path(0).exists() and (run.lora_dir / "toy.safetensors").exists()


def test_weights_are_exported_to_the_given_folder(tmp_path: Path) -> None:
    trainer = start(tmp_path, toy_config(train={"epochs": 1}))
    trainer.weights_dir = tmp_path / "unet"
    assert trainer.train() == tmp_path / "unet" / "toy.safetensors"
    assert not trainer.run.lora_dir.exists()


# Memory


@pytest.mark.parametrize(("credit", "kept"), [("uniform", False), ("contribution", True)])
def test_x0_is_kept_for_rules_that_need_it_and_gone_when_the_update_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credit: str, kept: bool
) -> None:
    seen = []
    spread = CREDIT.get(credit).__call__

    def spy(rule: Any, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        seen.append(trajectory.x0 is not None)
        return spread(rule, trajectory, advantage)

    monkeypatch.setattr(CREDIT.get(credit), "__call__", spy)
    policy = ToyPolicy()
    config = toy_config(train={"epochs": 1}, credit={"name": credit}, run={"self_check": False})
    finish(start(tmp_path, config, policy))
    assert seen == [kept]
    assert policy.replayed_with_x0 == 0


# A reward that fails


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (raising, "raised RuntimeError (no such model) on 8 images, first prompt 'a lake'"),
        (nan_for_the_second, "returned nan for 1 of 8 images, first for prompt 'a lake'"),
        (lambda scores: scores[:-1], "returned scores of shape (7,), expected (8,)"),
        (lambda scores: ["good"] * 8, "returned a list that does not convert to numbers"),
    ],
    ids=["raises", "nan", "shape", "text"],
)
def test_a_run_with_a_failing_reward_resumes_after_a_fix(
    tmp_path: Path, how: Callable[[Tensor], Any], what: str
) -> None:
    config = toy_config(run={"checkpoint_every": 3})
    whole = finish(start(tmp_path / "whole", config))
    path = tmp_path / "fixed later"
    with pytest.raises(RewardError) as caught:
        finish(start(path, config, reward=Failing(how, 3)))
    assert str(caught.value).startswith(f"epoch 2: reward 'warmth' {what}")
    assert str(caught.value).endswith(f"resume with: stepcredit train --resume --run '{path}'")
    fixed = resume(path, config)
    assert fixed.finished_epochs == 1, "checkpointed although none was due"
    run = finish(fixed)
    assert rows(run) == rows(whole) and state(run) == state(whole)


@pytest.mark.parametrize(("call", "where"), [(1, "first sample grid"), (5, "sample grid after epoch 3")])
def test_a_grid_whose_reward_failed_is_drawn_on_resume(tmp_path: Path, call: int, where: str) -> None:
    config = toy_config()
    with pytest.raises(RewardError, match=f"^{where}: reward 'warmth' raised RuntimeError"):
        finish(start(tmp_path, config, reward=Failing(raising, call)))
    run = finish(resume(tmp_path, config))
    assert run.grid_path(0).exists() and run.grid_path(3).exists()
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3]


def test_a_reward_that_was_not_wrapped_is_verified_too(tmp_path: Path) -> None:
    reward = Failing(nan_for_the_second, 1)
    with pytest.raises(RewardError, match="returned nan"):
        finish(start(tmp_path, toy_config(), reward=reward))


# A start that cannot succeed


def test_more_updates_than_images_are_refused_where_the_source_decides_how_many(tmp_path: Path) -> None:
    sample = {"prompts_per_epoch": None, "images_per_prompt": 2}
    config = toy_config(sample=sample, train={"updates_per_epoch": 7})
    with pytest.raises(InputError, match=r"train\.updates_per_epoch is 7 but an epoch has only 6 images"):
        trainer_of(RunDirectory(tmp_path / "run"), config)
    assert trainer_of(RunDirectory(tmp_path / "run"), config, prompts=[*PROMPTS, Prompt("a wood")])
    assert list(tmp_path.iterdir()) == []


def test_too_few_prompts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sample\.prompts_per_epoch is 4 but the prompt source has only 3"):
        trainer_of(RunDirectory(tmp_path / "run"), toy_config(sample={"prompts_per_epoch": 4}))
    assert list(tmp_path.iterdir()) == []


class Drifting(ToyPolicy):
    """Its replay is not what it sampled."""

    def replay(self, trajectory: Trajectory, step: int, rows: Tensor | None = None) -> Transition:
        transition = super().replay(trajectory, step, rows)
        return replace(transition, mean=transition.mean + 0.01)


def test_a_policy_that_does_not_replay_is_never_trained(tmp_path: Path) -> None:
    policy = Drifting()
    with pytest.raises(InputError, match="this pipeline does not replay"):
        finish(start(tmp_path, toy_config(), policy))
    assert not policy.target.any()


def test_a_resumed_run_is_checked_too(tmp_path: Path) -> None:
    """Between two parts of a run the machine or a library may have changed."""
    finish(start(tmp_path, toy_config(train={"epochs": 1})))
    with pytest.raises(InputError, match="this pipeline does not replay"):
        finish(resume(tmp_path, toy_config(train={"epochs": 2}), Drifting()))


def test_the_self_check_can_be_left_out(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 1}, run={"self_check": False})
    row = finish(start(tmp_path, config, Drifting())).metrics()[0]
    assert row["ratio_max_deviation"] > 1e-6


class OneStep(ToyPolicy):
    """Cannot mix steps."""

    replay_modes = ("full-loop",)
    replay_mode = "full-loop"
    mixes_steps = False


def test_a_micro_batch_beyond_an_update_needs_steps_to_be_mixed(tmp_path: Path) -> None:
    wide = toy_config(train={"microbatch": 8, "updates_per_epoch": 2})
    finish(start(tmp_path / "mixed", wide, ToyPolicy()))
    with pytest.raises(InputError, match=r"^train\.microbatch is 8 but an update has only 4 images, .* at most 4$"):
        finish(start(tmp_path / "one", wide, OneStep()))
    finish(start(tmp_path / "whole", toy_config(train={"microbatch": 4, "updates_per_epoch": 2}), OneStep()))
