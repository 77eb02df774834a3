"""Parity with the authors' released implementation; tests/data/README.md says what the numbers are.

With torch 2.15 on x86 every comparison of a transition, log-prob, gradient or loss is exact to the bit. The tolerances
leave room for another platform's logarithm, and for a different order of float32 sums where ours is deliberate.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stepcredit.maths import Transition, credit, ddim, gaussian, loss, running_statistics

DATA = Path(__file__).parents[1] / "data"
ULPS = {"rtol": 1e-6, "atol": 1e-6}


def _load(name: str) -> dict[str, Tensor]:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays if arrays[key].dtype.kind in "fi"}


ALPHAS = _load("scheduler_tables")["alphas_cumprod"]


def _previous(timestep: Tensor) -> Tensor:
    return ALPHAS[(timestep - 20).clamp_min(0)]


@pytest.fixture(scope="module")
def trajectory() -> dict[str, Tensor]:
    return _load("a_trajectory")


def test_a_every_step_of_a_trajectory(trajectory):
    latents = trajectory["latents"]
    for i, t in enumerate(trajectory["timesteps"]):
        step = ddim.transition(trajectory["noise_pred"][:, i], latents[:, i], ALPHAS[t], _previous(t), eta=1.0)
        assert_close(step.x0, trajectory["pred_x0"][:, i], rtol=1e-6, atol=2e-6)  # divided by a small sqrt(alpha)
        log_prob = gaussian.log_prob(latents[:, i + 1], step.mean, step.std)
        assert_close(log_prob, trajectory["log_prob"][:, i], **ULPS)


def test_a_cosines(trajectory):
    x0, final = trajectory["pred_x0"], trajectory["latents"][:, -1]
    assert_close(credit.cosine_to_final(x0, final), trajectory["cos_sim"], **ULPS)
    exact = credit.cosine_to_final(x0.double(), final.double())
    assert_close(exact, trajectory["cos_sim_f64"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("window", [1, 2, 5, 10, 25, 50])
def test_a_contribution_weights(trajectory, window):
    weights = credit.contribution_weights(trajectory["cos_sim"], window)
    assert_close(weights, trajectory[f"sim_weight_W{window}"], rtol=0, atol=5e-8)
    exact = credit.contribution_weights(trajectory["cos_sim_f64"], window)
    assert_close(exact, trajectory[f"sim_weight_f64_W{window}"], rtol=0, atol=1e-14)
    similarity = credit.cosine_to_final(trajectory["pred_x0"], trajectory["latents"][:, -1])
    end_to_end = credit.contribution_weights(similarity, window)
    assert_close(end_to_end, trajectory[f"sim_weight_W{window}"], rtol=0, atol=5e-6)
    gains, sizes = credit.contribution_gain(trajectory["cos_sim"], window)
    levels = trajectory["cos_sim"][:, :1] + gains.cumsum(1)
    assert sizes.tolist() == [window] * (50 // window)
    assert_close(levels, trajectory[f"window_mean_W{window}"], **ULPS)


@pytest.mark.parametrize("eta", ["0.3", "1.0"])
def test_b_log_prob_and_its_gradient(eta):
    golden = _load("b_ddim_logprob")
    output, t = golden["noise_pred"].requires_grad_(), golden["timestep"]
    step = ddim.transition(output, golden["sample"], ALPHAS[t], _previous(t), float(eta))
    assert_close(step.x0, golden["pred_x0"], **ULPS)
    assert_close(step.std.flatten(), golden[f"std_eta{eta}"], **ULPS)
    drawn = gaussian.log_prob(golden[f"prev_sample_eta{eta}"], step.mean, step.std)
    assert_close(drawn, golden[f"log_prob_eta{eta}"], **ULPS)
    shifted = gaussian.log_prob(golden[f"shifted_prev_eta{eta}"], step.mean, step.std)
    assert_close(shifted, golden[f"log_prob_shifted_eta{eta}"], **ULPS)
    (gradient,) = torch.autograd.grad(shifted.sum(), output)
    assert_close(gradient, golden[f"grad_noise_pred_eta{eta}"], **ULPS)


def test_b_float64_stays_close():
    golden = _load("b_ddim_logprob")
    t, x = golden["timestep"], golden["sample"].double()
    step = ddim.transition(golden["noise_pred"].double(), x, ALPHAS[t], _previous(t), 1.0)
    assert all(tensor.dtype == torch.float64 for tensor in vars(step).values())
    assert isinstance(step, Transition)
    log_prob = gaussian.log_prob(golden["prev_sample_eta1.0"], step.mean, step.std)
    assert_close(log_prob.float(), golden["log_prob_eta1.0"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("window", [1, 5, 50])
def test_c_reward_to_go_and_step_advantages(window):
    golden = _load("c_reward_to_go")
    weights = golden[f"sim_weight_W{window}"]
    # The released code sums in a float32 loop: its G_0 is 0.9999996 at W = 50, ours is 1.
    assert_close(credit.reward_to_go(weights), golden[f"ts_processed_W{window}"], rtol=0, atol=1e-6)
    for alpha in (0.0, 0.3, 1.0):
        steps = credit.step_advantages(golden["advantages"].clamp(-5, 5), weights, alpha)
        assert_close(steps, golden[f"temporal_rewards_W{window}_alpha{alpha}"], rtol=0, atol=3e-6)


def test_d_per_prompt_tracker():
    golden = _load("d_stat_update")
    with np.load(DATA / "d_stat_update.npz", allow_pickle=False) as arrays:
        prompts = [arrays[f"prompts_{k}"].tolist() for k in range(4)]
        names = arrays["prompt_names"].tolist()
    tracker = running_statistics.PromptStatistics(buffer_size=32, min_count=16)
    for k in range(4):
        result = tracker.update(prompts[k], golden[f"rewards_{k}"])
        assert_close(result, golden[f"advantages_{k}"].float(), **ULPS)
        buffered = tracker.state_dict()
        assert [len(buffered[name]) for name in names] == golden[f"counts_{k}"].tolist()


@pytest.mark.parametrize("clip", ["0.0001", "5e-05", "0.2"])
def test_e_loss_gradient_and_metrics(clip):
    golden = _load("e_ppo_loss")
    log_prob, old = golden["log_prob"].requires_grad_(), golden["old_log_prob"]
    result = loss.clipped_surrogate(log_prob, old, golden["advantage"].clamp(-5, 5), float(clip))
    assert_close(result, golden[f"per_sample_loss_clip{clip}"], **ULPS)
    assert_close(result.mean(), golden[f"loss_clip{clip}"], **ULPS)
    (gradient,) = torch.autograd.grad(result.mean(), log_prob)
    assert_close(gradient, golden[f"grad_log_prob_clip{clip}"], **ULPS)
    assert_close(loss.clip_fraction(log_prob, old, float(clip)), golden[f"clipfrac_clip{clip}"])
    assert_close(loss.approx_kl(log_prob, old), golden["approx_kl"])
    assert_close(loss.ratio_max_deviation(log_prob, old), (golden["ratio"] - 1).abs().max())
