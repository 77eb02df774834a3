import math

import pytest
import torch
from torch.distributions import Normal

from stepcredit.maths import Transition, gaussian


def _case(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, mean, torch.tensor([0.02, 0.5, 1.7], dtype=dtype).reshape(3, 1, 1, 1)


def test_log_prob_of_literals():
    # std 2: the first latent is one std away on average over its two elements (0 and sqrt(2) stds).
    x = torch.tensor([[0.0, 2 * math.sqrt(2)], [1.0, 1.0]])
    mean = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    peak = -math.log(2) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian.log_prob(x, mean, torch.tensor(2.0)), torch.tensor([peak - 0.5, peak]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_is_torch_normal_averaged_over_the_latent(dtype):
    x, mean, std = _case(dtype)
    expected = Normal(mean, std).log_prob(x).flatten(1).mean(1)
    assert torch.equal(gaussian.log_prob(x, mean, std), expected)


def test_log_prob_takes_scalar_and_full_std():
    x, mean, _ = _case()
    scalar = gaussian.log_prob(x, mean, torch.tensor(0.5))
    assert torch.equal(scalar, gaussian.log_prob(x, mean, torch.full_like(mean, 0.5)))
    assert torch.equal(scalar, gaussian.log_prob(x, mean, torch.full((1, 1, 1, 1), 0.5)))


def test_log_prob_gradient_reaches_the_mean_only():
    x, mean, std = (tensor.requires_grad_() for tensor in _case())
    gaussian.log_prob(x, mean, std).sum().backward()
    torch.testing.assert_close(mean.grad, ((x - mean) / std**2 / mean[0].numel()).detach())
    assert x.grad is None
    assert std.grad is None


def test_log_prob_of_a_recomputed_step_is_identical():
    x, mean, std = _case()
    ratio = (gaussian.log_prob(x, mean.clone(), std) - gaussian.log_prob(x, mean, std)).exp()
    assert torch.equal(ratio, torch.ones(3))


@pytest.mark.parametrize("std", [torch.tensor(0.0), torch.zeros(3, 1, 1, 1)])
def test_deterministic_step_has_zero_log_prob_kl_and_gradient(std):
    x, mean, _ = _case()
    mean.requires_grad_()
    log_prob, kl = gaussian.log_prob(x, mean, std), gaussian.kl(mean, x, std)
    (log_prob + kl).sum().backward()
    assert torch.equal(log_prob, torch.zeros(3))
    assert torch.equal(kl, torch.zeros(3))
    assert torch.equal(mean.grad, torch.zeros_like(mean))


def test_deterministic_sample_does_not_disturb_its_batch():
    x, mean, std = _case()
    mean.requires_grad_()
    mixed = std.clone()
    mixed[1] = 0
    log_prob = gaussian.log_prob(x, mean, mixed)
    log_prob.sum().backward()
    reference = gaussian.log_prob(x, mean, std)
    assert log_prob[1] == 0
    assert torch.equal(log_prob[[0, 2]], reference[[0, 2]])
    assert mean.grad.isfinite().all()
    assert torch.equal(mean.grad[1], torch.zeros_like(mean.grad[1]))


@pytest.mark.parametrize("std", [-1.0, math.nan])
def test_an_impossible_std_is_not_mistaken_for_a_deterministic_step(std):
    x, mean, _ = _case()
    assert gaussian.log_prob(x, mean, torch.tensor(std)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, mean, std = _case(dtype)
    expected = gaussian.log_prob(x.float(), mean.float(), std.float())
    assert torch.equal(gaussian.log_prob(x, mean, std), expected)
    assert gaussian.kl(mean, x, std).dtype == torch.float32


def test_kl_of_literals_and_against_torch():
    mean, reference = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    # ((0)^2 + (2)^2) / 2 elements / (2 * 0.5^2)
    torch.testing.assert_close(gaussian.kl(mean, reference, torch.tensor(0.5)), torch.tensor([4.0]))
    x, mean, std = _case(torch.float64)
    expected = torch.distributions.kl_divergence(Normal(mean, std), Normal(x, std)).flatten(1).mean(1)
    torch.testing.assert_close(gaussian.kl(mean, x, std), expected)


def test_kl_gradient_reaches_the_policy_only():
    x, mean, std = (tensor.requires_grad_() for tensor in _case())
    gaussian.kl(mean, x, std).sum().backward()
    torch.testing.assert_close(mean.grad, ((mean - x) / std**2 / mean[0].numel()).detach())
    assert x.grad is None


def test_sampling_reproduces_mean_and_std():
    mean, std = torch.tensor([[-1.0, 0.5], [2.0, 0.0]]), torch.tensor([[0.1], [3.0]])
    generator, draws = torch.Generator().manual_seed(0), 40_000
    zeros = torch.zeros(2 * draws, 2)
    many = Transition(mean.repeat_interleave(draws, 0), std.repeat_interleave(draws, 0), zeros, zeros)
    x = gaussian.sample(many, torch.randn(2 * draws, 2, generator=generator))
    drawn = x.reshape(2, draws, 2)
    # Five standard errors: std / sqrt(n) for the mean, std / sqrt(2 n) for the std.
    assert ((drawn.mean(1) - mean).abs() < 5 * std / draws**0.5).all()
    assert ((drawn.std(1) - std).abs() < 5 * std / (2 * draws) ** 0.5).all()
    # E[log p] is minus the entropy; log p has variance 1/2 per element.
    entropy = std.log() + 0.5 * math.log(2 * math.pi * math.e)
    log_prob = gaussian.log_prob(x, many.mean, many.std).reshape(2, draws).mean(1, keepdim=True)
    assert ((log_prob + entropy).abs() < 5 * 0.5 / draws**0.5).all()


def test_sampling_a_deterministic_step_returns_the_mean():
    _, mean, _ = _case()
    assert torch.equal(gaussian.sample(Transition(mean, torch.tensor(0.0), mean, mean), torch.ones_like(mean)), mean)


def test_shapes_are_refused_with_a_remedy():
    x, mean, std = _case()
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 5, 5\), expected \(3, 4, 5, 5\)"):
        gaussian.log_prob(x[:1], mean, std)
    # (5,) would line up with the last latent dimension.
    with pytest.raises(ValueError, match=r"std has shape \(5,\).*reshape it to \(3, 1, 1, 1\)"):
        gaussian.log_prob(x, mean, torch.ones(5))
    with pytest.raises(ValueError, match="mean has shape"):
        gaussian.log_prob(torch.zeros(3), torch.zeros(3), torch.tensor(1.0))
    with pytest.raises(ValueError, match="reference_mean has shape"):
        gaussian.kl(mean, x[:1], std)
    with pytest.raises(ValueError, match="noise has shape"):
        gaussian.sample(Transition(mean, std, x, x), x[:1])
