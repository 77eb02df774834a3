"""The recording scheduler's levels and noise-free steps are those of every stock scheduler of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.policy.replay.schedulers import RecordingScheduler, recording_scheduler

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
INDEXED = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "PNDMScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
"""Their levels are timesteps that index alphas_cumprod."""
SOLVERS = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
)
"""Their levels are sigmas of x = x0 + sigma eps."""
FLOW_SOLVERS = ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler")
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
STEPS = (7,)


def stock(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(**options)


def recording(scheduler: Any, steps: int) -> RecordingScheduler:
    ours = recording_scheduler(scheduler, SampleSection())
    ours.set_timesteps(steps)  # type: ignore[attr-defined]
    return ours


def output_of(latents: Tensor, timestep: Any) -> Tensor:
    """A smooth denoiser."""
    return torch.tanh(latents * 0.7 + float(timestep) * 1e-3)


def noise_free(ours: RecordingScheduler, latents: Tensor) -> list[Tensor]:
    reached = [latents]
    for position, timestep in enumerate(ours.timesteps):
        output = output_of(reached[-1], timestep)
        reached.append(ours.transition(output, [position] * len(latents), reached[-1], 0.0).mean)
    return reached


def start() -> Tensor:
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def ddim_solution(alphas: list[float], timesteps: list[float], prediction: str) -> Tensor:
    """Deterministic DDIM by the definition of its levels, in float64."""
    x = start().double()
    for now, after, timestep in zip(alphas, alphas[1:], timesteps, strict=False):
        signal, noise = now**0.5, (1 - now) ** 0.5
        output = output_of(x, timestep)
        if prediction == "epsilon":
            x0, eps = (x - noise * output) / signal, output
        elif prediction == "sample":
            x0, eps = output, (x - signal * output) / noise
        else:
            x0, eps = signal * x - noise * output, signal * output + noise * x
        x = after**0.5 * x0 + (1 - after) ** 0.5 * eps
    return x


def close(ours: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(ours.double() / scale, expected.double() / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", INDEXED)
def test_levels_are_the_timesteps_of_the_stock_scheduler(name: str, spacing: str, prediction: str) -> None:
    options = {**BETAS, "prediction_type": prediction, "timestep_spacing": spacing}
    known = inspect.signature(getattr(diffusers, name)).parameters
    others = {"skip_prk_steps": True, "set_alpha_to_one": True, "clip_sample": False}
    options |= {option: value for option, value in others.items() if option in known}
    for steps in STEPS:
        reference = stock(name, **options)
        reference.set_timesteps(steps)
        timesteps = list(dict.fromkeys(reference.timesteps.tolist()))
        final = float(reference.alphas_cumprod[0]) if name == "TCDScheduler" else 1.0
        alphas = [*(float(reference.alphas_cumprod[int(at)]) for at in timesteps), final]
        ours = recording(stock(name, **options), steps)
        assert ours.timesteps.tolist() == timesteps and len(timesteps) == steps
        close(noise_free(ours, start())[-1], ddim_solution(alphas, timesteps, prediction))


def solver_cases() -> list[tuple[str, dict[str, Any]]]:
    """Every solver with every spacing and kind of sigmas that it has, each once."""
    cases: list[tuple[str, dict[str, Any]]] = []
    for name in SOLVERS:
        known = inspect.signature(getattr(diffusers, name)).parameters
        for spacing, prediction in (("leading", "epsilon"), ("trailing", "v_prediction"), ("linspace", "epsilon")):
            for sigmas in ("", "use_karras_sigmas", "use_exponential_sigmas"):
                wanted = {
                    "prediction_type": prediction,
                    "timestep_spacing": spacing,
                    **({sigmas: True} if sigmas else {}),
                }
                case = name, {key: value for key, value in wanted.items() if key in known}
                if case not in cases:
                    cases.append(case)
    return cases


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize(("name", "options"), solver_cases())
def test_levels_are_the_sigmas_of_the_stock_solver(name: str, options: dict[str, Any]) -> None:
    prediction, options = options["prediction_type"], {**BETAS, **options}
    for steps in STEPS:
        reference = stock(name, **options)
        reference.set_timesteps(steps)
        levels = reference.sigmas.tolist()
        if reference.order == 2:  # each level appears twice
            levels = sorted(set(levels), reverse=True)
        alphas = [1 / (1 + sigma**2) for sigma in levels]
        ours = recording(stock(name, **options), steps)
        assert len(ours.timesteps) == steps == len(levels) - 1
        assert set(ours.timesteps.tolist()) <= set(reference.timesteps.tolist())
        close(noise_free(ours, start())[-1], ddim_solution(alphas, ours.timesteps.tolist(), prediction))
        if not any(option.endswith("sigmas") for option in options):  # these use timesteps between whole numbers
            at = np.interp(ours.timesteps.tolist(), range(1000), reference.alphas_cumprod.log().tolist())
            assert np.exp(at) == pytest.approx(alphas[:-1], rel=0.01), "each level is that of its timestep"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            (name, {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"})
            for name in FLOW_SOLVERS
        ),
        *((name, {"shift": 3.0}) for name in FLOWS),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}),
        ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ],
)
def test_levels_are_the_sigmas_of_the_stock_flow(name: str, options: dict[str, Any]) -> None:
    """Sana's own scheduler is a DPM solver with flow sigmas, whose levels are not those of an Euler scheduler."""
    for steps in (2, 4, 20):
        reference = stock(name, **options)
        reference.set_timesteps(steps)
        distinct = sorted({float(sigma) for sigma in reference.sigmas}, reverse=True)
        ours = recording(stock(name, **options), steps)
        assert len(ours.timesteps) == steps == len(distinct) - 1
        x = start().double()
        for now, after, timestep in zip(distinct, distinct[1:], ours.timesteps, strict=False):
            x = x + (after - now) * output_of(x, timestep)
        close(noise_free(ours, start())[-1], x)


def stock_solution(scheduler: Any, steps: int, scale: Callable[[int], float] = lambda _: 1.0, **step: Any) -> Tensor:
    """What a stock first-order scheduler makes of the same start; `scale(i)` takes its latents to ours."""
    scheduler.set_timesteps(steps)
    x = start() / scale(0)
    for position, timestep in enumerate(scheduler.timesteps):
        output = output_of(x * scale(position), timestep)
        x = scheduler.step(output, timestep, x, return_dict=False, **step)[0]
    return x * scale(steps)


ORDER_1 = {"solver_order": 1}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize("steps", [2, 8])
@pytest.mark.parametrize(
    ("name", "options", "step"),
    [
        ("DDIMScheduler", {}, {}),  # clips by default
        ("DDIMScheduler", {"clip_sample_range": 0.3, "prediction_type": "v_prediction"}, {}),
        ("DDIMScheduler", {"thresholding": True, "sample_max_value": 1.5}, {}),
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, {}),
        (
            "DDIMScheduler",
            {
                "clip_sample": False,
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
                "timestep_spacing": "trailing",
            },
            {},
        ),
        ("TCDScheduler", {}, {"eta": 0.0}),
        ("TCDScheduler", {"set_alpha_to_one": False, "prediction_type": "v_prediction"}, {"eta": 0.0}),
        ("DPMSolverMultistepScheduler", {**ORDER_1, "final_sigmas_type": "sigma_min", "use_lu_lambdas": True}, {}),
        ("DPMSolverMultistepScheduler", {**ORDER_1, "use_beta_sigmas": True, "euler_at_final": True}, {}),
        ("DPMSolverMultistepScheduler", {**ORDER_1, "thresholding": True, "sample_max_value": 1.5}, {}),
        ("TCDScheduler", {"clip_sample": True, "thresholding": True}, {"eta": 0.0}),
        ("CogVideoXDDIMScheduler", {"clip_sample": True}, {}),
        ("DDIMParallelScheduler", {"clip_sample": True}, {}),
        ("DEISMultistepScheduler", {**ORDER_1, "use_exponential_sigmas": True}, {}),
        ("UniPCMultistepScheduler", {**ORDER_1, "disable_corrector": [*range(9)], "rescale_betas_zero_snr": True}, {}),
        ("UniPCMultistepScheduler", {**ORDER_1, **FLOW, "disable_corrector": [*range(9)], "shift_terminal": 0.1}, {}),
        ("DPMSolverMultistepScheduler", {**ORDER_1, **FLOW, "flow_shift": 3.0}, {}),
        ("FlowMatchEulerDiscreteScheduler", {"use_exponential_sigmas": True}, {}),
        ("FlowMatchEulerDiscreteScheduler", {"use_beta_sigmas": True, "shift": 3.0}, {}),
        ("LTXEulerAncestralRFScheduler", {"eta": 0.0}, {}),
    ],
)
def test_noise_free_steps_are_those_of_stock_solvers_of_first_order(
    name: str, options: dict[str, Any], step: dict[str, Any], steps: int
) -> None:
    if "beta_start" in inspect.signature(getattr(diffusers, name)).parameters:
        options = {**BETAS, **options}
    ours = recording(stock(name, **options), steps)
    close(noise_free(ours, start())[-1], stock_solution(stock(name, **options), steps, **step))


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_latent_consistency_ends_in_the_clean_image(set_alpha_to_one: bool) -> None:
    ours = recording(stock("LCMScheduler", **BETAS, set_alpha_to_one=set_alpha_to_one), 4)
    assert float(ours.current.values[-1]) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "prediction_type 'epsilon', expected 'flow_prediction'"),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "v_prediction"}, "'v_prediction'"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "set use_flow_sigmas too"),
        ("DPMSolverSinglestepScheduler", {**FLOW, "use_karras_sigmas": True}, "begin at 157.4"),
        ("UniPCMultistepScheduler", {**FLOW, "thresholding": True}, "thresholding"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "rescale_betas_zero_snr"),
        ("TCDScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_options_that_contradict_each_other_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        recording(stock(name, **options), 4)
    assert name in str(raised.value) and "\n" not in str(raised.value)


def test_the_scales_of_steps_leave_clipping_out() -> None:
    clipped, plain = (recording(stock("DDIMScheduler", clip_sample=clip), 5) for clip in (True, False))
    assert torch.equal(clipped.schedule([1.0] * 5).native_scales, plain.schedule([1.0] * 5).native_scales)


@pytest.mark.parametrize("name", [*FLOWS, *FLOW_SOLVERS])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_noise_of_flow_sde_is_bounded_on_every_schedule(name: str, steps: int) -> None:
    """Solvers with flow sigmas begin just below 1, where sqrt(s / (1 - s)) is 30 to 1000."""
    ours = recording(stock(name, **(FLOW | {"flow_shift": 3.0} if name in FLOW_SOLVERS else {"shift": 3.0})), steps)
    schedule = ours.schedule([0.7] * steps)
    assert float(schedule.stds.max()) < 0.9
    assert float(schedule.stds[0]) == pytest.approx(0.7, abs=0.02)


def test_a_flow_scheduler_may_have_any_name() -> None:
    class Mine(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        pass

    assert torch.equal(
        recording(Mine(shift=3.0), 5).current.values,
        recording(stock("FlowMatchEulerDiscreteScheduler", shift=3.0), 5).current.values,
    )


def test_arguments_of_step_are_found_by_name() -> None:
    """CogView's DPM solver takes the previous prediction before the timestep."""

    class Hook:
        steps = slice(None)

        def step(self, _: Any, *given: Any) -> Any:
            return given, None

    ours: Any = recording(stock("CogVideoXDPMScheduler"), 3)
    ours.hook = Hook()
    assert ours.step("output", "previous", 7, None, "sample", return_dict=False)[0] == ("output", 7, "sample")


def test_levels_that_were_set_before_are_set_whole() -> None:
    ours: Any = recording_scheduler(
        stock("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True), SampleSection()
    )
    for count, mu in ((4, 0.9), (4, 0.3), (5, 0.3), (4, 0.3)):
        ours.set_timesteps(count, mu=mu)
        assert ours.num_inference_steps == len(ours.timesteps) == len(ours.sigmas) - 1 == count


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_free_steps_are_those_of_stock_ddim_and_euler(prediction: str, spacing: str) -> None:
    options = {**BETAS, "prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": 1}
    ddim = stock("DDIMScheduler", **options, clip_sample=False)
    close(noise_free(recording(ddim, 20), start())[-1], stock_solution(ddim, 20))
    euler = stock("EulerDiscreteScheduler", **options)
    ours = recording(euler, 20)
    euler.set_timesteps(20)
    scales = (1 + euler.sigmas.double() ** 2).rsqrt().tolist()
    close(noise_free(ours, start())[-1], stock_solution(euler, 20, lambda position: scales[position]))


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_noise_free_steps_are_those_of_the_stock_flow_scheduler(steps: int) -> None:
    flow = stock("FlowMatchEulerDiscreteScheduler", shift=3.0)
    assert torch.equal(noise_free(recording(flow, steps), start())[-1], stock_solution(flow, steps))


def test_a_shifted_signal_to_noise_ratio_is_kept() -> None:
    """CogVideoX scales alphas_cumprod when it is built; a scheduler made from its configuration may not."""
    shifted, plain = (stock("CogVideoXDDIMScheduler", snr_shift_scale=scale) for scale in (3.0, 1.0))
    assert not torch.equal(recording(shifted, 10).current.values, recording(plain, 10).current.values)
    assert float(recording(shifted, 10).current.values[0]) == float(shifted.alphas_cumprod[900])


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_there_may_be_as_many_steps_as_noise_levels(spacing: str) -> None:
    ours = recording(stock("DDIMScheduler", **BETAS, timestep_spacing=spacing, steps_offset=1), 1000)
    assert all(reached.isfinite().all() for reached in noise_free(ours, start()))


def test_the_pipeline_sees_the_class_and_attributes_of_its_own_scheduler() -> None:
    euler = stock("EulerDiscreteScheduler", **BETAS)
    ours: Any = recording_scheduler(euler, SampleSection())
    assert isinstance(ours, diffusers.EulerDiscreteScheduler) and type(ours).__name__ == "EulerDiscreteScheduler"
    ours.set_timesteps(5)
    assert ours.order == 1 and ours.config.beta_end == 0.012
    assert torch.equal(ours.scale_model_input(start(), ours.timesteps[0]), start())
    assert euler.num_inference_steps is None, "the pipeline's own scheduler does not change"


def test_the_arguments_of_set_timesteps_are_those_of_the_pipeline() -> None:
    flow = stock("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    ours: Any = recording_scheduler(flow, SampleSection())
    for _ in range(2):
        ours.set_timesteps(sigmas=np.linspace(1.0, 0.25, 4), mu=0.9)
        flow.set_timesteps(sigmas=np.linspace(1.0, 0.25, 4), mu=0.9)
        assert torch.equal(ours.current.values, flow.sigmas)
        ours.set_timesteps(sigmas=[1.0, 0.5], mu=0.3)
        assert len(ours.timesteps) == 2


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "SASolverScheduler"])
def test_a_flow_that_ends_before_the_clean_image_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} do not fall"):
        recording(stock(name, use_flow_sigmas=True, prediction_type="flow_prediction"), 4)


@pytest.mark.parametrize(
    "name", ["DDIMInverseScheduler", "EDMEulerScheduler", "CMStochasticIterativeScheduler", "ScoreSdeVeScheduler"]
)
def test_levels_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        recording(stock(name), 4)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("DDIMScheduler", "leading"), ("EulerDiscreteScheduler", "leading"), ("EulerDiscreteScheduler", "linspace")],
)
def test_the_first_latents_are_those_of_the_stock_scheduler(name: str, spacing: str) -> None:
    """Euler's start at sigma times the noise, or at sqrt(1 + sigma^2) times the noise, depending on the spacing."""
    reference = stock(name, **BETAS, timestep_spacing=spacing)
    ours: Any = recording(stock(name, **BETAS, timestep_spacing=spacing), 5)
    reference.set_timesteps(5)
    scale = 1.0 if name == "DDIMScheduler" else float((1 + reference.sigmas[0].double() ** 2).rsqrt())
    assert ours.init_noise_sigma == pytest.approx(float(reference.init_noise_sigma) * scale, rel=1e-6)
    assert (ours.init_noise_sigma == pytest.approx(1, abs=1e-6)) == (spacing == "leading")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("name", [*INDEXED, *SOLVERS, *FLOWS])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_there_are_as_many_steps_as_asked_for(name: str, steps: int) -> None:
    options = {} if name in FLOWS else BETAS
    ours = recording(stock(name, **options, **({"skip_prk_steps": True} if name == "PNDMScheduler" else {})), steps)
    assert (len(ours.timesteps), len(ours.current.values)) == (steps, steps + 1)


def test_clipped_ddpm_steps_are_those_of_the_stock_scheduler() -> None:
    """DDPM clips by default, and takes its mean from the clipped image and the latent."""
    reference, ours = stock("DDPMScheduler", **BETAS), recording(stock("DDPMScheduler", **BETAS), 8)
    reference.set_timesteps(8)
    x, timestep = start(), reference.timesteps[3]
    first, again = (torch.Generator().manual_seed(0) for _ in range(2))
    found = ours.transition(output_of(x, timestep), [3, 3], x, 1.0)
    expected = reference.step(output_of(x, timestep), timestep, x, generator=again).prev_sample
    close(found.mean + found.std * torch.randn(x.shape, generator=first), expected)
