"""Saving and restoring the state of an optimizer."""

from __future__ import annotations

import torch
from torch import nn

from stepcredit.utils.optimizer_state import optimizer_tensors, restore_optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((1, 3), 0.5 + step)).square().sum().backward()
        optimizer.step()


def test_a_restored_optimizer_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    model, resumed = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, 3)
    resumed.load_state_dict(model.state_dict())
    other = torch.optim.AdamW(resumed.parameters(), lr=0.1)
    restore_optimizer(other, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()})
    train(model, optimizer, 3)
    train(resumed, other, 3)
    assert all(torch.equal(left, right) for left, right in zip(model.parameters(), resumed.parameters(), strict=True))


def test_hyperparameters_are_not_restored() -> None:
    weight = nn.Parameter(torch.ones(2))
    before, after = (torch.optim.AdamW([weight], lr=rate) for rate in (0.1, 0.5))
    weight.sum().backward()
    before.step()
    restore_optimizer(after, optimizer_tensors(before))
    assert after.param_groups[0]["lr"] == 0.5
    assert torch.equal(after.state[weight]["exp_avg"], before.state[weight]["exp_avg"])


def test_an_optimizer_without_steps_has_no_tensors() -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    assert optimizer_tensors(optimizer) == {}
    restore_optimizer(optimizer, {})
