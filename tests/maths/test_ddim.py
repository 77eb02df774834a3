import math

import pytest
import torch
from diffusers import DDIMScheduler

from stepcredit.maths import ddim, gaussian

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def _latents(batch: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(3, batch, 4, 6, 6, generator=torch.Generator().manual_seed(seed)))


def test_step_of_literals():
    # a = 0.36, a' = 0.64, x0 = 2 and eps = 1, so x = 0.6 * 2 + 0.8; variance = 0.36 / 0.64 * (1 - 0.36 / 0.64).
    x, eps = torch.full((1, 1), 0.6 * 2 + 0.8), torch.ones(1, 1)
    step = ddim.transition(eps, x, 0.36, 0.64, eta=1.0)
    torch.testing.assert_close(step.x0, torch.tensor([[2.0]]))
    torch.testing.assert_close(step.std, torch.tensor(math.sqrt(0.24609375)))
    torch.testing.assert_close(step.mean, torch.tensor([[0.8 * 2 + math.sqrt(0.36 - 0.24609375)]]))
    still = ddim.transition(eps, x, 0.36, 0.64, eta=0.0)
    assert still.std == 0
    torch.testing.assert_close(still.mean, torch.tensor([[0.8 * 2 + 0.6]]))


@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_every_step_is_bitwise_that_of_diffusers(prediction_type, eta, set_alpha_to_one):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=set_alpha_to_one,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    scheduler.set_timesteps(20)
    output, x, noise = _latents()
    for t in scheduler.timesteps.tolist():
        stock = scheduler.step(output, t, x, eta=eta, variance_noise=noise)
        alpha_prev = scheduler.alphas_cumprod[t - 50] if t >= 50 else scheduler.final_alpha_cumprod
        step = ddim.transition(output, x, scheduler.alphas_cumprod[t], alpha_prev, eta, prediction_type)
        assert torch.equal(step.x0, stock.pred_original_sample)
        assert torch.equal(gaussian.sample(step, noise), stock.prev_sample)
        x = stock.prev_sample


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_exact_model_output_recovers_the_clean_latent(prediction_type):
    x0, eps, _ = (tensor.double() for tensor in _latents())
    alpha = torch.tensor([0.05, 0.5, 0.99], dtype=torch.float64)
    signal, sigma = (a.reshape(-1, 1, 1, 1) for a in (alpha.sqrt(), (1 - alpha).sqrt()))
    output = {"epsilon": eps, "sample": x0, "v_prediction": signal * eps - sigma * x0}[prediction_type]
    step = ddim.transition(output, signal * x0 + sigma * eps, alpha, 0.995, 0.5, prediction_type)
    assert torch.equal(step.output, output)
    torch.testing.assert_close(step.x0, x0)
    # The mean and the fresh noise together carry the noise level of alpha_prev.
    level = ((step.mean - 0.995**0.5 * x0) / eps) ** 2 + step.std**2
    torch.testing.assert_close(level, torch.full_like(x0, 1 - 0.995))


def test_alphas_per_sample_agree_with_one_call_each():
    output, x, _ = _latents()
    alpha_t, alpha_prev = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.7, 1.0])
    batch = ddim.transition(output, x, alpha_t, alpha_prev, 1.0)
    assert batch.std.shape == (3, 1, 1, 1)
    for i in range(3):
        one = ddim.transition(output[i : i + 1], x[i : i + 1], float(alpha_t[i]), alpha_prev[i], 1.0)
        assert one.std.shape == ()
        for name in ("mean", "x0"):
            torch.testing.assert_close(getattr(batch, name)[i], getattr(one, name)[0], rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(batch.std[i].squeeze(), one.std)


def test_the_last_step_to_alpha_one_is_the_clean_latent():
    output, x, _ = _latents()
    step = ddim.transition(output, x, 0.99, 1.0, 1.0)
    assert step.std == 0
    assert torch.equal(step.mean, step.x0)
    assert torch.equal(gaussian.log_prob(x, step.mean, step.std), torch.zeros(3))


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_zero_terminal_snr_is_defined_without_epsilon(prediction_type):
    output, x, _ = _latents()
    step = ddim.transition(output, x, 0.0, 0.1, 1.0, prediction_type)
    assert torch.equal(step.x0, output if prediction_type == "sample" else -output)
    assert step.mean.isfinite().all()
    torch.testing.assert_close(step.std, torch.tensor(0.9**0.5))


def test_more_noise_than_the_level_holds_is_clamped():
    output, x, _ = _latents()
    step = ddim.transition(output, x, 0.5, 0.6, 10.0)
    assert torch.equal(step.mean, torch.tensor(0.6).sqrt() * step.x0)


def test_gradient_reaches_the_model_output():
    output, x, noise = (tensor.double() for tensor in _latents(1))
    output.requires_grad_()

    def log_prob(model_output: torch.Tensor) -> torch.Tensor:
        step = ddim.transition(model_output, x, 0.5, 0.6, 0.7)
        return gaussian.log_prob(noise, step.mean, step.std)

    assert torch.autograd.gradcheck(log_prob, output)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    output, x, _ = (tensor.to(dtype) for tensor in _latents())
    step, full = (ddim.transition(o, y, 0.5, 0.6, 1.0) for o, y in ((output, x), (output.float(), x.float())))
    for name in ("mean", "std", "x0", "output"):
        assert torch.equal(getattr(step, name), getattr(full, name))
        assert getattr(step, name).dtype == torch.float32


def test_bad_input_is_refused():
    output, x, _ = _latents()
    with pytest.raises(ValueError, match="model_output has shape"):
        ddim.transition(output[:1], x, 0.5, 0.6, 1.0)
    with pytest.raises(ValueError, match=r"alpha_t has shape \(2,\), expected \(3,\)"):
        ddim.transition(output, x, torch.tensor([0.5, 0.5]), 0.6, 1.0)
    with pytest.raises(ValueError, match="eta is -1"):
        ddim.transition(output, x, 0.5, 0.6, -1.0)
    with pytest.raises(ValueError, match="prediction_type is 'flow'"):
        ddim.transition(output, x, 0.5, 0.6, 1.0, "flow")
