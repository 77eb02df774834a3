"""Training on the images of earlier epochs again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.loop import training_loop
from tests.toy_policy import ToyPolicy, toy_config
from torch import Tensor

from stepcredit.algorithms.matching import Matching
from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.credit import build_credit
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs.directory import RunDirectory
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Prompt

STEPS = 3


def loop(folder: Path, replay_epochs: int, **train: Any) -> TrainingLoop:
    options = {"replay_epochs": replay_epochs}
    config = toy_config(train={"algorithm": "matching", "options": options, "updates_per_epoch": 2, **train})
    prompts = [Prompt("a lake"), Prompt("a hill")]
    run = RunDirectory.create(folder, config, [])
    return training_loop(config, ToyPolicy(STEPS), Warmth(), build_credit(config.credit), prompts, run)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The final and the noised latents of every batch that is trained."""
    found: list[tuple[Tensor, Tensor]] = []
    own = Matching.loss

    def recording(self: Matching, policy: Any, batch: StepBatch, anchor: Any) -> Any:
        found.append((batch.final_latents.clone(), batch.noised_latents.clone()))
        return own(self, policy, batch, anchor)

    monkeypatch.setattr(Matching, "loss", recording)
    yield found


def images(batches: list[tuple[Tensor, Tensor]]) -> set[tuple[float, ...]]:
    return {tuple(row.flatten().tolist()) for final, _ in batches for row in final}


def test_an_epoch_trains_on_its_images_and_those_of_earlier_ones(
    trained: list[tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    running = loop(tmp_path, replay_epochs=2, epochs=4)
    sets, pairs, own = [], [], running.update

    def counted(experience: Any, epoch: int) -> Any:
        trained.clear()
        result = own(experience, epoch)
        sets.append(images(trained))
        pairs.append(sum(len(final) for final, _ in trained))
        return result

    running.update = counted  # type: ignore[method-assign]
    running.train()
    size = len(sets[0])
    assert [len(each) for each in sets] == [size, 2 * size, 3 * size, 3 * size]
    assert sets[0] < sets[1] < sets[2] and not sets[0] & sets[3] and len(sets[1] & sets[3]) == size
    assert pairs == [pairs[0], 2 * pairs[0], 3 * pairs[0], 3 * pairs[0]]


def test_a_replayed_image_gets_new_noise(trained: list[tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    loop(tmp_path, replay_epochs=1, epochs=2).train()
    noised: dict[tuple[float, ...], set[tuple[float, ...]]] = {}
    for final, noisy in trained:
        for clean, row in zip(final, noisy, strict=True):
            noised.setdefault(tuple(clean.flatten().tolist()), set()).add(tuple(row.flatten().tolist()))
    assert sorted({len(each) for each in noised.values()}) == [STEPS, 2 * STEPS]


def test_replay_costs_no_queries(tmp_path: Path) -> None:
    running = loop(tmp_path, replay_epochs=2, epochs=3)
    running.train()
    assert [row["reward_queries"] for row in running.run.metrics()] == [8, 16, 24]


def test_every_epoch_counts_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch whose images all have advantage 0 halves the gradient of the other."""
    running = loop(tmp_path, replay_epochs=1, epochs=1, updates_per_epoch=1)
    running.train()
    policy = running.policy
    prompts = running.draw_prompts(1)
    partition = running.partition(1, len(prompts))
    rollout = policy.rollout(prompts, list(range(len(prompts))), running_plan(running))
    advantage = torch.tensor([1.0, -1.0] * (len(prompts) // 2))
    everywhere = advantage[:, None].expand(-1, STEPS)
    experience = running.experience(rollout.trajectory, prompts, advantage, everywhere, partition, 1)
    gradients = []
    for kept in (None, torch.zeros_like(advantage)):
        running.state.replay.load_state_dict({}, {})
        if kept is not None:
            silent = running.experience(rollout.trajectory, prompts, kept, 0 * everywhere, partition, 0)
            running.state.replay.add(0, silent, kept, 0 * everywhere, "")
        monkeypatch.setattr(running.state.optimizer, "step", lambda losses: taken(running, gradients))
        running.update(experience, 1)
    torch.testing.assert_close(gradients[1], gradients[0] / 2)


def running_plan(running: TrainingLoop) -> Any:
    from stepcredit.algorithms.sampling_plan import training_plan

    return training_plan(running.config, running.algorithm.needs, 8)


def taken(running: TrainingLoop, gradients: list[Tensor]) -> Any:
    from stepcredit.distributed.optimizer import Step

    (weight,) = running.policy.parameters()
    assert weight.grad is not None
    gradients.append(weight.grad.clone())
    return Step(made=True, norm=weight.grad.norm())


def test_a_checkpoint_of_more_epochs_gives_the_newest(tmp_path: Path) -> None:
    running = loop(tmp_path / "a", replay_epochs=3, epochs=3)
    running.train()
    replay = running.state.replay
    fewer = loop(tmp_path / "b", replay_epochs=1)
    fewer.state.replay.load_state_dict(replay.state_dict(), replay.origins())
    assert {key.partition(".")[0] for key in fewer.state.replay.state_dict()} == {"2"}


@pytest.mark.parametrize(
    "sample", [{"images_per_prompt": 2}, {"prompts_per_epoch": 1}, {"steps": 5}, {"guidance": 2.0}], ids=str
)
def test_an_epoch_of_other_prompts_or_settings_is_not_trained_again(sample: dict[str, Any], tmp_path: Path) -> None:
    loop(tmp_path / "a", replay_epochs=2, epochs=2).train()
    changed = toy_config(
        train={"algorithm": "matching", "options": {"replay_epochs": 2}, "updates_per_epoch": 2, "epochs": 3},
        sample=sample,
    )
    prompts = [Prompt("a lake"), Prompt("a hill")]
    resumed = training_loop(
        changed, ToyPolicy(STEPS), Warmth(), build_credit(changed.credit), prompts, RunDirectory.open(tmp_path / "a")
    )
    resumed.resume()
    noted: list[str] = []
    resumed.progress.note = noted.append  # type: ignore[method-assign]
    resumed.train()
    assert [line for line in noted if "is not trained again" in line] == [
        f"epoch 3: epoch {epoch} is not trained again: it had other prompts or sample settings" for epoch in (1, 2)
    ]
    assert set(resumed.state.replay.origins()) == {"2"}
