"""What the doctor finds out about a model by running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families import FAMILIES
from tests.families.proof import configuration
from tests.tiny import PROMPTS, SEEDS, tiny_policy
from torch import nn

from stepcredit.errors import InputError
from stepcredit.policy.checks import doctor
from stepcredit.policy.checks.doctor import (
    HEADROOM,
    Examination,
    _microbatch,
    _saved_bytes,
    examine,
    fitting_microbatch,
)
from stepcredit.policy.loading import make_policy

FREE = 10_000_000


@pytest.fixture(autouse=True)
def _free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.policy.checks.doctor.available_memory_bytes", lambda _: FREE)


def examined(name: str, pipeline: Any = None, **sections: Any) -> Examination:
    config = configuration(name, **sections)
    return examine(make_policy(FAMILIES[name].build(0) if pipeline is None else pipeline, config), config)


def weights(pipeline: Any) -> int:
    return sum(parameter.numel() for part in parts(pipeline) for parameter in part.parameters())


def parts(pipeline: Any) -> list[nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def test_a_sound_model() -> None:
    found = examined("sdxl")
    assert (found.pipeline, found.family) == ("StableDiffusionXLPipeline", "sdxl")
    assert (found.scheduler, found.replaces) == ("DDIM steps, epsilon prediction", "EulerDiscreteScheduler")
    assert (found.device, found.latents, found.idle) == ("cpu", (4, 8, 8), 0)
    assert found.check.max_deviation == 0.0 and found.check.mode == "mixed-steps"
    assert (found.check.trained, found.check.steps, found.check.samples) == ((0, 1, 2), 4, 2)
    assert found.free_bytes == FREE


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("sd-v-prediction", "DDIM steps, v_prediction prediction"),
        ("sd3", "flow-sde steps on flow-matching sigmas, velocity prediction"),
    ],
)
def test_the_description_of_the_scheduler(name: str, scheduler: str) -> None:
    assert examined(name).scheduler == scheduler


def test_the_exact_replay_mode() -> None:
    assert examined("sd3-skip-layer-guidance").check.mode == "full-loop"


def test_the_memory_of_weights() -> None:
    plain = FAMILIES["sd"].build(0)
    whole, of_unet = weights(plain), sum(parameter.numel() for parameter in plain.unet.parameters())
    full, lora = examined("sd", model={"adapter": "full"}), examined("sd", model={"lora_rank": 2})
    double = examined("sd", model={"lora_rank": 4})
    assert full.trained == full.weights == of_unet
    assert 2 * lora.trained == double.trained and lora.weights == of_unet + lora.trained
    buffers = sum(buffer.numel() * buffer.element_size() for part in parts(plain) for buffer in stored_buffers(part))
    assert full.fixed_bytes == 4 * whole + buffers + 12 * of_unet
    assert lora.fixed_bytes == 4 * (whole + lora.trained) + buffers + 12 * lora.trained


def stored_buffers(part: nn.Module) -> list[torch.Tensor]:
    names = {name for name, _ in part.named_parameters()}
    return [value for name, value in part.state_dict().items() if name not in names]


def test_half_precision_halves_the_frozen_weights() -> None:
    halved = examined("sd", FAMILIES["sd"].build(0).to(dtype=torch.bfloat16), model={"dtype": "bfloat16"})
    usual = examined("sd")
    frozen, others = weights(FAMILIES["sd"].build(0)), 16 * usual.trained
    assert usual.fixed_bytes - halved.fixed_bytes == pytest.approx(2 * frozen, rel=0.01)
    assert halved.fixed_bytes - others == pytest.approx(2 * frozen, rel=0.01)
    assert halved.sample_bytes < 0.8 * usual.sample_bytes


def test_the_memory_of_an_image_grows_with_its_size() -> None:
    """Guidance doubles the batch; four times the area, but for attention, takes four times as much."""
    usual = examined("sd").sample_bytes
    assert examined("sd", sample={"guidance": 1.0}).sample_bytes == pytest.approx(usual / 2, rel=0.05)
    large = examined("sd", sample={"guidance": 5.0, "call": {"height": 32, "width": 32}})
    assert large.latents == (4, 16, 16)
    assert 3.5 * usual < large.sample_bytes < 8 * usual
    spared = examined("sd", model={"gradient_checkpointing": True}).sample_bytes
    assert spared < 0.5 * usual


def test_each_saved_tensor_is_counted_once() -> None:
    """The input of each product, and the weight that both of them use."""
    weight = torch.ones(8, 8, requires_grad=True)
    given = torch.ones(16, 8, requires_grad=True)
    assert _saved_bytes(lambda: (given @ weight) @ weight) == 4 * (2 * 16 * 8 + 8 * 8)
    assert _saved_bytes(lambda: given + 1) == 0


@pytest.mark.parametrize(
    ("free", "fits"),
    [(0, 0), (-5000, 0), (124, 0), (125, 1), (249, 1), (250, 2), (499, 2), (500, 4), (999, 4), (1000, 8), (12_500, 64)],
)
def test_the_suggestion_is_the_power_of_two_that_fits(free: int, fits: int) -> None:
    assert HEADROOM == 0.8 and _microbatch(free, sample_bytes=100) == fits


def test_the_suggestion_leaves_room_for_the_optimizer() -> None:
    found = examined("sd", model={"adapter": "full"})
    room = HEADROOM * (FREE - 12 * found.trained)
    assert found.microbatch * found.sample_bytes <= room < 2 * found.microbatch * found.sample_bytes
    assert found.microbatch.bit_count() == 1


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.policy.checks.doctor.available_memory_bytes", lambda _: 1000)
    assert examined("sd").microbatch == 0


def test_weights_that_no_gradient_reaches_are_counted() -> None:
    pipeline = FAMILIES["sd"].build(0)
    for number in range(3):
        pipeline.unet.register_parameter(f"unused_{number}", nn.Parameter(torch.zeros(2)))
    assert examined("sd", pipeline, model={"adapter": "full"}).idle == 3


def test_it_leaves_no_gradients() -> None:
    config = configuration("sd")
    policy = make_policy(FAMILIES["sd"].build(0), config)
    examine(policy, config)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_a_model_that_does_not_replay() -> None:
    config = configuration("sd")
    policy = make_policy(FAMILIES["sd"].build(0), config)
    generator = torch.Generator().manual_seed(0)

    def drift(_: nn.Module, given: Any, output: Any) -> Any:
        return (output[0] + torch.randn(output[0].shape, generator=generator),)

    policy.pipeline.unet.register_forward_hook(drift)
    with pytest.raises(InputError, match=r"^this pipeline does not replay: log-probabilities differ by"):
        examine(policy, config)


def test_the_fitting_microbatch_is_at_most_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda device: 1 << 40)
    assert fitting_microbatch(policy, images=100, update=4) == doctor.CPU_MAX_MICROBATCH
    assert fitting_microbatch(policy, images=6, update=4) == 6
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())
    needed = doctor._sample_bytes(policy, policy.rollout(PROMPTS, SEEDS).trajectory, 0)
    fixed = 12 * sum(parameter.numel() for parameter in policy.parameters())
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda device: fixed + int(5.1 * needed / HEADROOM))
    assert fitting_microbatch(policy, images=100, update=1) == 4


def test_the_fitting_microbatch_is_at_most_an_update_if_steps_cannot_be_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    policy.replay_modes = ("one-step",)
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda device: 1 << 40)
    assert fitting_microbatch(policy, images=100, update=3) == 3


def test_no_microbatch_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda device: 0)
    with pytest.raises(InputError, match=r"0 MiB free.* set model\.gradient_checkpointing=true"):
        fitting_microbatch(tiny_policy(), images=4, update=4)
