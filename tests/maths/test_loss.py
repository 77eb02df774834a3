import math

import pytest
import torch

from stepcredit.maths import credit, gaussian, loss
from stepcredit.maths.flow import flow_step
from stepcredit.policy.samplers import SAMPLERS

# Ratios 1, 1.1, 1.5, 0.5 at clip range 0.2.
RATIO = torch.tensor([1.0, 1.1, 1.5, 0.5])


@pytest.mark.parametrize(
    ("advantage", "expected", "slope"),
    [
        # Gains beyond the range are cut and lose their gradient, losses are not.
        (2.0, [-2.0, -2.2, -2.4, -1.0], [-2.0, -2.2, 0.0, -1.0]),
        (-2.0, [2.0, 2.2, 3.0, 1.6], [2.0, 2.2, 3.0, 0.0]),
        (0.0, [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_surrogate_of_literals(advantage, expected, slope):
    log_prob = RATIO.log().requires_grad_()
    result = loss.clipped_surrogate(log_prob, torch.zeros(4), torch.full((4,), advantage), 0.2)
    torch.testing.assert_close(result, torch.tensor(expected))
    result.sum().backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor(slope))


def test_on_policy_loss_is_minus_the_advantage_with_the_plain_gradient():
    generator = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 6, 3, 4, generator=generator)
    advantage, std = torch.randn(6, generator=generator), torch.tensor(0.3)
    mean.requires_grad_()
    old = gaussian.log_prob(x, mean, std).detach()
    log_prob = gaussian.log_prob(x, mean, std)
    (plain,) = torch.autograd.grad(-(advantage * log_prob).mean(), mean, retain_graph=True)
    result = loss.clipped_surrogate(log_prob, old, advantage, 1e-4)
    (clipped,) = torch.autograd.grad(result.mean(), mean)
    assert torch.equal(result, -advantage)
    torch.testing.assert_close(clipped, plain)
    assert loss.ratio_max_deviation(log_prob, old) == 0
    assert loss.clip_fraction(log_prob, old, 1e-4) == 0
    assert loss.approx_kl(log_prob, old) == 0


def test_alpha_one_is_bitwise_the_loss_without_credit():
    generator = torch.Generator().manual_seed(0)
    old, advantage = torch.randn(4, 10, generator=generator), torch.randn(4, generator=generator)
    weights = torch.randn(4, 10, generator=generator).softmax(1)
    gradients = []
    for step_advantages in (credit.step_advantages(advantage, weights, 1.0), advantage.unsqueeze(1).repeat(1, 10)):
        log_prob = (old + 1e-3).requires_grad_()
        result = loss.clipped_surrogate(log_prob, old, step_advantages, 0.2)
        result.mean().backward()
        gradients.append((result.detach(), log_prob.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_permuting_time_after_assignment_leaves_the_loss_unchanged():
    generator = torch.Generator().manual_seed(0)
    log_prob, old = torch.randn(2, 4, 10, generator=generator, dtype=torch.float64) * 0.1
    steps = credit.step_advantages(torch.tensor([1.0, -2.0, 0.5, 3.0]), credit.linear_weights(10), 0.0).double()
    order = torch.randperm(10, generator=generator)
    straight = loss.clipped_surrogate(log_prob, old, steps, 0.1).mean()
    shuffled = loss.clipped_surrogate(log_prob[:, order], old[:, order], steps[:, order], 0.1).mean()
    torch.testing.assert_close(shuffled, straight)


def test_only_the_new_log_prob_gets_a_gradient():
    log_prob, old, advantage = (torch.full((3,), 0.1).requires_grad_() for _ in range(3))
    loss.clipped_surrogate(log_prob, old, advantage, 0.2).sum().backward()
    assert log_prob.grad is not None
    assert old.grad is None
    assert advantage.grad is None
    assert not loss.approx_kl(log_prob, old).requires_grad


def test_metrics_of_literals():
    log_prob, old = RATIO.log(), torch.zeros(4)
    assert float(loss.clip_fraction(log_prob, old, 0.2)) == 0.5
    torch.testing.assert_close(loss.ratio_max_deviation(log_prob, old), torch.tensor(0.5))
    expected = sum(math.log(r) ** 2 for r in RATIO.tolist()) / 4 / 2
    torch.testing.assert_close(loss.approx_kl(log_prob, old), torch.tensor(expected))


def test_prediction_kl_of_literals():
    output = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).requires_grad_()
    reference = torch.tensor([[1.0, 1.0], [2.0, 2.0]]).requires_grad_()
    value = loss.prediction_kl(output, reference)
    assert value.tolist() == [2.0, 0.0]
    value.sum().backward()
    assert output.grad.tolist() == [[0.0, 2.0], [0.0, 0.0]]
    assert reference.grad is None


def test_prediction_kl_is_the_kl_of_a_step_without_its_scale():
    generator = torch.Generator().manual_seed(0)
    x, v, base = torch.randn(3, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    penalty, scales = loss.prediction_kl(v, base), []
    for noise_level in (0.7, 7e-4):
        step, reference = (SAMPLERS.get("flow-sde")(flow_step(w, x, 0.6, 0.5), noise_level) for w in (v, base))
        scale = gaussian.kl(step.mean, reference.mean, step.std) / penalty
        torch.testing.assert_close(scale, scale[:1].expand(4))
        scales.append(float(scale[0]))
    # d (1 + k^2 (1 - sigma) / (2 sigma)) v in the mean, with k^2 = .735 and d = .1; and almost without noise.
    assert scales[0] == pytest.approx((0.1 * (1 + 0.735 / 3)) ** 2 / (2 * 0.0735))
    assert scales[1] == pytest.approx(0.1**2 / (2 * 0.0735e-6), rel=1e-5)


def test_an_infinite_range_never_clips():
    log_prob = RATIO.log()
    result = loss.clipped_surrogate(log_prob, torch.zeros(4), torch.ones(4), math.inf)
    torch.testing.assert_close(result, -RATIO)


def test_half_precision_is_upcast():
    log_prob = RATIO.log().half()
    result = loss.clipped_surrogate(log_prob, torch.zeros(4).half(), torch.ones(4).half(), 0.2)
    assert torch.equal(result, loss.clipped_surrogate(log_prob.float(), torch.zeros(4), torch.ones(4), 0.2))
    output = log_prob.unsqueeze(1)
    assert torch.equal(loss.prediction_kl(output, 2 * output), output.float().square().flatten())


def test_bad_input_is_refused():
    row = torch.zeros(4)
    with pytest.raises(ValueError, match=r"advantage has shape \(4, 1\), expected \(4,\)"):
        loss.clipped_surrogate(row, row, row.unsqueeze(1), 0.2)
    with pytest.raises(ValueError, match=r"reference_output has shape \(1, 2\), expected \(4, 2\)"):
        loss.prediction_kl(torch.zeros(4, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="output has shape"):
        loss.prediction_kl(row, row)
    with pytest.raises(ValueError, match="old_log_prob has shape"):
        loss.approx_kl(row, row[:1])
    for call in (loss.clip_fraction, lambda *args: loss.clipped_surrogate(*args[:2], row, args[2])):
        with pytest.raises(ValueError, match="clip_range is 0"):
            call(row, row, 0)
