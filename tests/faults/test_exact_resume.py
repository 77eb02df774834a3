"""What a checkpoint holds besides a LoRA in float32: all weights, and a loss scaler that has moved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.cli.command_line import TINY, TOY, newest_checkpoint, rows, stepcredit, tree

from stepcredit.runs import checkpoint


def stopped_and_whole(*words: str) -> None:
    """Run `parts` stops after its first epoch and goes on; run `whole` does not."""
    epochs = [word for word in words if word.startswith("train.epochs=")]
    rest = [*(word for word in words if word not in epochs), "run.keep_checkpoints=4"]
    for arguments in (
        ["train", *rest, *epochs, "--run", "whole"],
        ["train", *rest, "train.epochs=1", "--run", "parts"],
        ["train", "--resume", *epochs, "--run", "parts"],
    ):
        said = stepcredit(*arguments)
        assert (said.code, said.err) == (0, ""), said


def assert_alike(here: Path, weights: str) -> None:
    parts, whole = here / "parts", here / "whole"
    assert rows(parts) == rows(whole)
    assert newest_checkpoint(parts) == newest_checkpoint(whole)
    assert tree(parts / weights) == tree(whole / weights) != {}
    first, *_, last = (checkpoint.load(found) for found in checkpoint.folders(whole / "checkpoints")[1:])
    assert any(not torch.equal(value, first.tensors[name]) for name, value in last.tensors.items()), "it trains"


@pytest.mark.slow
def test_a_run_of_all_weights_goes_on_as_if_it_had_not_stopped(here: Path) -> None:
    """With averages: the float32 weights, their averages and the optimizer's moments of each."""
    stopped_and_whole(*TINY, "model.adapter=full", "model.ema=0.5", "train.learning_rate=1e-3", "train.epochs=2")
    assert_alike(here, "unet")


@pytest.mark.usefixtures("toy")
def test_a_run_goes_on_with_the_loss_scale_that_it_had(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped in the middle of the three updates after which the scale grows."""
    scaled_on_the_cpu(monkeypatch, 2.0**8)
    stopped_and_whole(*TOY, "model.dtype=float16")
    assert_alike(here, "lora")
    assert [scale(here / "whole", epoch) for epoch in (1, 2, 3)] == [(2.0**8, 2), (2.0**9, 1), (2.0**10, 0)]


@pytest.mark.slow
def test_a_float16_run_goes_on_as_if_it_had_not_stopped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded pipeline in float16, with a scale that is too large for its gradients at first."""
    scaled_on_the_cpu(monkeypatch, 2.0**23)
    stopped_and_whole(*TINY, "model.dtype=float16", "train.inner_epochs=2", "train.epochs=2")
    assert_alike(here, "lora")
    found, updates = scale(here / "whole", 1)
    assert found < 2.0**23 and updates > 0, "lowered, and then updates were made"
    assert 0 < rows(here / "whole")[0]["skipped_updates"] < 4


def scaled_on_the_cpu(monkeypatch: pytest.MonkeyPatch, start: float) -> None:
    """The loss scaler, as on a GPU, but that it starts elsewhere and grows after three updates instead of 2000."""
    scaler = torch.amp.GradScaler

    def made(device: str, enabled: bool) -> torch.amp.GradScaler:
        return scaler(device, init_scale=start, growth_interval=3, enabled=enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", made)


def scale(run: Path, epoch: int) -> tuple[float, int]:
    """The scale after an epoch, and how many updates it has stood."""
    state = checkpoint.load(run / "checkpoints" / f"epoch_{epoch:04d}").state["scaler"]
    return state["scale"], state["_growth_tracker"]
