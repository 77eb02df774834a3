"""Measurements on the tiny pipeline of a family, for tests and for `benchmarks/families.py`."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from peft import PeftModel
from tests.families import FAMILIES, TinyFamily
from tests.loop import training_loop
from tests.tiny import PROMPTS, SEEDS, log_prob, perturb
from torch import Tensor

from stepcredit.algorithms.sampling_plan import evaluation_plan
from stepcredit.config import RewardSection, TrainConfig
from stepcredit.credit import build_credit
from stepcredit.families import family_of
from stepcredit.policy.checks.gradient_check import derivative_ratio
from stepcredit.policy.checks.replay_check import ReplayCheck, replay_check, reshuffled_deviation
from stepcredit.policy.loading import make_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.policy.rgb import to_rgb
from stepcredit.rewards import build_reward
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.recipes import validate
from stepcredit.types import Plan

WITHOUT_LOADER = ("pixart_sigma",)
"""Families whose diffusers pipeline has no LoRA loader: peft loads the LoRA."""

GENTLE = ("sd-sample", "flux-true-cfg")
"""Families that need a smaller learning rate: their output is the clean image, or guidance is applied twice."""

LONGER = ("pixart_sigma",)
"""Families that train twice as long: nearly all of the gradient comes from one step."""


@dataclass(frozen=True)
class Proof:
    """The measurements of one family.

    Attributes:
        check: replay check of four images sampled two at a time, with perturbed weights.
        trained: number of trained tensors.
        idle: number of trained tensors that no gradient reaches.
        before, after: mean warmth of the same images before and after two epochs of training on it.
        reloaded: largest difference of images between the trained pipeline and a stock one that loaded its export.
        overhead: median milliseconds of a replay outside the denoiser.
        stock: largest pixel difference between a rollout without noise and the stock pipeline with the same latents,
            whose solver, if it is DPM, is of first order.
        gradient: `derivative_ratio` of a middle step.
        reshuffled: `reshuffled_deviation` of that step.
    """

    check: ReplayCheck
    trained: int
    idle: int
    before: float
    after: float
    reloaded: float
    overhead: float
    stock: float
    gradient: float
    reshuffled: float


def configuration(name: str, **sections: Any) -> TrainConfig:
    """The configuration of a tiny family: four steps."""
    family = FAMILIES[name]
    base: dict[str, dict[str, Any]] = {
        "sample": {"steps": 4, "guidance": family.guidance, "call": family.call},
    }
    return validate({key: base.get(key, {}) | sections.get(key, {}) for key in base | sections}, name)


def prove(name: str) -> Proof:
    policy = moved(name)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), batch=2)).trajectory
    check = replay_check(policy, trajectory, batch=2)
    before, after = raised(name)
    return Proof(
        check=check,
        trained=len(policy.parameters()),
        idle=idle(policy, check.trained[0]),
        before=before,
        after=after,
        reloaded=reloaded(name, policy),
        overhead=overhead_ms(policy),
        stock=stock_difference(name),
        gradient=derivative_ratio(policy, trajectory, check.trained[len(check.trained) // 2]),
        reshuffled=reshuffled_deviation(policy, trajectory, check.trained[len(check.trained) // 2]),
    )


def stock_difference(name: str) -> float:
    """Largest pixel difference of a rollout without noise, see `Proof.stock`."""
    family, stock = FAMILIES[name], FAMILIES[name].build(0)
    if isinstance(stock.scheduler, DPMSolverMultistepScheduler):
        stock.scheduler = DPMSolverMultistepScheduler.from_config(stock.scheduler.config, solver_order=1)
    config = configuration(name, sample={"evaluation_noise": False, "batch": 4})
    rollout = make_policy(family.build(0), config).rollout(PROMPTS, SEEDS, evaluation_plan(config, 4))
    own = family_of(stock)
    expected = stock(
        prompt=[prompt.text for prompt in PROMPTS],
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **for_each({**own.call, **family.call, own.guidance: family.guidance}, len(PROMPTS)),
    ).images
    return float((rollout.images - to_rgb(expected)).abs().max())


def for_each(call: dict[str, Any], images: int) -> dict[str, Any]:
    """The arguments with one negative prompt per image, which some pipelines need."""
    negative = {name: [value] * images for name, value in call.items() if name == "negative_prompt"}
    return {**call, **negative}


def moved(name: str, **sections: Any) -> PipelinePolicy:
    """A policy of the family with perturbed weights."""
    policy = make_policy(FAMILIES[name].build(0), configuration(name, **sections))
    perturb(policy, 0.1)
    return policy


def idle(policy: PipelinePolicy, step: int) -> int:
    """Number of trained tensors that no gradient reaches."""
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    log_prob(policy, trajectory, step).sum().backward()
    missed = [parameter.grad is None or not bool(parameter.grad.any()) for parameter in policy.parameters()]
    for parameter in policy.parameters():
        parameter.grad = None
    return sum(missed)


def raised(name: str) -> tuple[float, float]:
    """Mean warmth of the same 32 images before and after two epochs of full fine-tuning on it."""
    pipeline = FAMILIES[name].build(0)
    unguided = family_of(pipeline).unguided
    config = configuration(
        name,
        model={"adapter": "full"},
        sample={
            "prompts_per_epoch": 2,
            "images_per_prompt": 96,
            "guidance": FAMILIES[name].guidance if unguided is None else unguided,
        },
        train={
            "epochs": 4 if name in LONGER else 2,
            "learning_rate": 3e-4 if name in GENTLE else 1e-3,
            "clip_range": 0.1,
        },
        run={"grid_every": 100},
    )
    policy = make_policy(pipeline, config)
    judged, reward = [*PROMPTS[:1] * 16, *PROMPTS[1:2] * 16], build_reward(RewardSection(name="warmth"))

    def judge() -> float:
        images = policy.rollout(judged, range(100, 132)).images
        return float(reward(images, [prompt.text for prompt in judged], [{}] * len(judged)).mean())

    before = judge()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config, ["prove"])
        training_loop(config, policy, reward, build_credit(config.credit), PROMPTS[:2], run).train()
    return before, judge()


def reloaded(name: str, policy: PipelinePolicy) -> float:
    """Largest pixel difference between the policy's pipeline and a stock one that loaded its exported weights."""
    family = FAMILIES[name]
    stock = family.build(0)
    untrained = images(stock, family)
    with tempfile.TemporaryDirectory() as folder:
        weights = policy.export(Path(folder) / "weights")
        if name in WITHOUT_LOADER:
            PeftModel.from_pretrained(stock.transformer, weights)
        else:
            stock.load_lora_weights(weights.parent, weight_name=weights.name)
    ours, theirs = (images(pipeline, family) for pipeline in (policy.pipeline, stock))
    assert (ours - untrained).abs().max() > 1e-3, "the trained weights change nothing"
    return float((ours - theirs).abs().max())


def images(pipeline: Any, family: TinyFamily) -> Tensor:
    """Two images of three steps."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[:2]]
    texts = [prompt.text for prompt in PROMPTS[:2]]
    result: Tensor = pipeline(
        prompt=texts, generator=generators, num_inference_steps=3, output_type="pt", **family.call
    ).images
    return result


def overhead_ms(policy: PipelinePolicy, steps: int = 20) -> float:
    """Median time in milliseconds that a replay of four images spends outside the denoiser."""
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(steps, range(steps))).trajectory
    denoiser = getattr(policy.pipeline, policy.denoiser)
    clock = [0.0, 0.0]
    hooks = [
        denoiser.register_forward_pre_hook(lambda *_: clock.__setitem__(0, time.perf_counter())),
        denoiser.register_forward_hook(lambda *_: clock.__setitem__(1, clock[1] + time.perf_counter() - clock[0])),
    ]
    outside = []
    with torch.no_grad():
        for step in range(steps):
            clock[1], started = 0.0, time.perf_counter()
            policy.replay(trajectory, step)
            outside.append(time.perf_counter() - started - clock[1])
    for hook in hooks:
        hook.remove()
    return 1e3 * statistics.median(outside[1:])
