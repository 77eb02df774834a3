"""Averages of the trained weights: their arithmetic, when they are shown, and that they survive a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policy.adapted import attached, copied, images, same, shift
from tests.tiny import tiny_sd
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.policy.adapters import AveragedAdapter
from stepcredit.policy.adapters.ema import warmed_up
from stepcredit.runs import checkpoint
from stepcredit.runs.checkpoint import Checkpoint


class OneWeight:
    """The adapter of a single number; implements `Adapter`."""

    def __init__(self, value: float) -> None:
        self.weight = nn.Parameter(torch.tensor([value]))
        self.exported: list[float] = []

    def parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        assert state.keys() == {"weight"}
        self.put(float(state["weight"]))

    def put(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)

    def stepped(self) -> None:
        raise AssertionError

    reference = averaged = merge = stepped

    def export(self, folder: Path) -> Path:
        self.exported.append(self.weight.item())
        return folder


def average(adapter: AveragedAdapter) -> float:
    with adapter.averaged():
        return adapter.parameters()[0].item()


def followed(decay: float, start: float, values: list[float]) -> list[float]:
    inner: Any = OneWeight(start)
    adapter, averages = AveragedAdapter(inner, decay), []
    for value in values:
        inner.put(value)
        adapter.stepped()
        averages.append(average(adapter))
        assert inner.weight.item() == value
    return averages


def test_the_warm_up_by_hand() -> None:
    assert [warmed_up(0.9, updates) for updates in (0, 2, 8, 80, 81)] == [0.1, 0.25, 0.5, 0.9, 0.9]
    assert warmed_up(0.0, 0) == 0.0


def test_averages_by_hand() -> None:
    # decays 1/10, then 1/8 as 2/11 is more: 0.1 * 1 + 0.9 * 2 = 1.9, then 1.9 / 8 + 7/8 * 10 = 8.9875
    assert followed(0.125, 1.0, [2.0, 10.0]) == pytest.approx([1.9, 8.9875], rel=1e-6)
    # decays 1/10, 2/11, 3/12: 9, (2 * 9 + 9 * -2) / 11 = 0, 0 / 4 + 3/4 * 8 = 6
    assert followed(0.999, 0.0, [10.0, -2.0, 8.0]) == pytest.approx([9.0, 0.0, 6.0], abs=1e-6)


def test_without_decay_the_average_is_the_last_weight() -> None:
    assert followed(0.0, 1.0, [2.0, -5.0]) == [2.0, -5.0]


def test_before_the_first_step_the_average_is_the_initial_weight() -> None:
    inner: Any = OneWeight(3.0)
    adapter = AveragedAdapter(inner, 0.9)
    inner.put(7.0)
    assert average(adapter) == 3.0 and inner.weight.item() == 7.0


def test_the_average_is_what_is_exported() -> None:
    inner: Any = OneWeight(1.0)
    adapter = AveragedAdapter(inner, 0.125)
    inner.put(2.0)
    adapter.stepped()
    adapter.export(Path("anywhere"))
    assert inner.exported == pytest.approx([1.9]) and inner.weight.item() == 2.0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_averaged_swaps_the_weights_and_restores_them_exactly(kind: str) -> None:
    pipeline = tiny_sd()
    adapter = attached(pipeline, adapter=kind, ema=0.999)
    before = images(pipeline)
    shift(adapter, 0.05)
    trained, parameters = [parameter.detach().clone() for parameter in adapter.parameters()], adapter.parameters()
    moved = images(pipeline)
    with adapter.averaged():
        assert torch.equal(images(pipeline), before), "no step was taken yet"
    with pytest.raises(ZeroDivisionError), adapter.averaged():
        raise ZeroDivisionError
    assert torch.equal(images(pipeline), moved) and not torch.equal(moved, before)
    assert all(torch.equal(left, right) for left, right in zip(trained, parameters, strict=True))
    assert all(left is right for left, right in zip(adapter.parameters(), parameters, strict=True))
    with adapter.reference():
        assert torch.equal(images(pipeline), before)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_checkpoint_restores_weights_averages_and_warm_up(kind: str, tmp_path: Path) -> None:
    adapter = attached(tiny_sd(), adapter=kind, ema=0.5)
    for step in range(3):
        shift(adapter, 0.02, seed=step)
        adapter.stepped()
    folder = checkpoint.save(tmp_path, Checkpoint(1, adapter.state_dict(), {}), keep=1)
    restored = attached(tiny_sd(), adapter=kind, ema=0.5, seed=7)
    restored.load_state_dict(checkpoint.load(folder).tensors)
    assert same(restored.state_dict(), adapter.state_dict())
    for each in (adapter, restored):
        shift(each, 0.02, seed=9)
        each.stepped()
    assert same(restored.state_dict(), adapter.state_dict())
    assert int(adapter.state_dict()["ema.updates"]) == 4


def test_averages_are_float32_copies() -> None:
    adapter = attached(tiny_sd().to(dtype=torch.bfloat16), adapter="full", dtype="bfloat16", ema=0.9)
    state = copied(adapter.state_dict())
    averages = {name: value for name, value in state.items() if name.startswith("ema.") and name != "ema.updates"}
    assert len(averages) == len(adapter.parameters())
    assert {value.dtype for value in averages.values()} == {torch.float32}
    shift(adapter)
    assert all(torch.equal(adapter.state_dict()[name], value) for name, value in averages.items())


@pytest.mark.parametrize("other", [{}, {"ema": 0.5, "lora_rank": 2}, {"ema": 0.5, "lora_targets": ["to_q"]}])
def test_a_state_without_these_averages_is_refused(other: dict[str, Any]) -> None:
    adapter = attached(tiny_sd(), ema=0.5)
    before = copied(adapter.state_dict())
    with pytest.raises(InputError, match=r"model\.ema"):
        adapter.load_state_dict(attached(tiny_sd(), **other).state_dict())
    assert same(adapter.state_dict(), before)


def test_inside_averaged_the_trained_weights_cannot_be_used() -> None:
    adapter = attached(tiny_sd(), ema=0.5)
    state = copied(adapter.state_dict())
    for mistake in (adapter.state_dict, adapter.stepped, lambda: adapter.load_state_dict(state)):
        with pytest.raises(RuntimeError, match=r"leave averaged\(\) before"), adapter.averaged():
            mistake()
    assert same(adapter.state_dict(), state)
