from dataclasses import fields

import pytest
import torch

from stepcredit.maths import Transition, gaussian

ROWS = torch.randn(4, 5, 2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (5, 1, 1), (5, 2, 3)])
def test_the_head_of_a_transition_is_its_first_rows(shape):
    mean, x0, output, x = ROWS
    step = Transition(mean, torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.1, x0, output)
    head = step.head(3)
    for name, rows in (("mean", mean), ("x0", x0), ("output", output)):
        assert torch.equal(getattr(head, name), rows[:3])
    whole = gaussian.log_prob(x, step.mean, step.std)
    assert torch.equal(gaussian.log_prob(x[:3], head.mean, head.std), whole[:3])
    assert all(torch.equal(getattr(step.head(5), field.name), getattr(step, field.name)) for field in fields(step))


def test_the_rows_cut_off_get_no_gradient():
    mean, x0, output, _ = ROWS
    mean = mean.clone().requires_grad_()
    Transition(mean, torch.tensor(1.0), x0, output).head(2).mean.sum().backward()
    assert torch.equal(mean.grad[2:], torch.zeros(3, 2, 3))
    assert torch.equal(mean.grad[:2], torch.ones(2, 2, 3))
