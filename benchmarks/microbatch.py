"""Measure how micro-batch size, compilation and channels_last change the time of training the embedded pipeline.

    OMP_NUM_THREADS=1 uv run python benchmarks/microbatch.py --pairs 5 --sizes 16 64 --compiled

All variants accumulate the same gradient over the same recorded trajectories, in turn in one process:

- a number of `--sizes`: the trainer's code with this train.microbatch
- compiled: the last number, with model.compile
- channels_last: the last number, with the denoiser in this memory format
- bare: a plain loop over (image, step) that calls the denoiser directly, as the reference implementations do

Prints the CPU milliseconds per reward query of each variant, the range of the ratios to the first variant over rounds,
and the number of queries after which the compile time is recovered. Also prints the relative differences of the
gradients in float32 and in float64. In float64, a difference above 1e-9 is an error: the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory

import torch
from _throughput import break_even
from torch import Tensor

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.minibatch import Experience, UpdatePart
from stepcredit.config import TrainConfig
from stepcredit.distributed.partition import unpartitioned
from stepcredit.maths import ddim, gaussian, loss
from stepcredit.policy.loading import load_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.prompts import draw_prompts, load_prompts
from stepcredit.runs import recipes
from stepcredit.types import Trajectory
from stepcredit.utils.logging import quiet_libraries
from stepcredit.utils.seeds import Stream, sample_seeds

LARGEST_DIFFERENCE = 1e-9
Variant = Callable[[], tuple[Tensor, float]]
"""Returns (flat gradient, CPU seconds)."""


def main() -> None:
    options = parse()
    quiet_libraries()
    config = recipes.load(None, options.overrides)
    print(
        f"{options.images} images x {config.sample.steps} steps, guidance {config.sample.guidance}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    with TemporaryDirectory() as cache:  # empty, because cached compilations would cost nothing
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        measure(config, options)


def measure(config: TrainConfig, options: argparse.Namespace) -> None:
    variants = build_variants(config, options, torch.float32)
    gradients, first_use = {}, {}
    for name, variant in variants.items():
        started = time.perf_counter()
        gradients[name] = variant()[0]
        first_use[name] = time.perf_counter() - started
    seconds = alternated(variants, options.pairs)
    print("\n".join(table(seconds, options.images)))
    if options.compiled:
        eager = statistics.median(seconds[str(options.sizes[-1])])
        compiled = statistics.median(seconds["compiled"])
        print(compile_summary(first_use["compiled"], eager, compiled, options.images))
    rounded = differences(gradients)
    exact_variants = build_variants(config, options, torch.float64)
    exact = differences({name: variant()[0] for name, variant in exact_variants.items()})
    for name, difference in exact.items():
        print(f"gradient {name}: relative difference {rounded[name]:.1e} in float32, {difference:.1e} in float64")
    if not max(exact.values(), default=0.0) <= LARGEST_DIFFERENCE:
        raise SystemExit(f"gradients differ by {max(exact.values()):.1e}, more than {LARGEST_DIFFERENCE:.0e}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="images of one update")
    parser.add_argument("--pairs", type=int, default=5, help="number of rounds")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[16, 64, 1], help="micro-batch sizes, the baseline first"
    )
    parser.add_argument("--compiled", action="store_true", help="also with compiled denoiser blocks (takes minutes)")
    parser.add_argument(
        "--channels-last", action="store_true", help="also with the denoiser in the channels_last memory format"
    )
    parser.add_argument("--bare", action="store_true", help="also the loop of the reference implementations (slow)")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    return parser.parse_args()


def load_policy_in(config: TrainConfig, dtype: torch.dtype) -> PipelinePolicy:
    policy = load_policy(config)
    policy.pipeline.to(dtype=dtype)
    for parameter in policy.parameters():
        parameter.data = parameter.data.to(dtype)
    return policy


def sample(policy: PipelinePolicy, config: TrainConfig, images: int) -> Trajectory:
    prompts = draw_prompts(
        load_prompts(config.prompts.source), epoch=0, seed=0, count=images, order="random", images_per_prompt=1
    )
    return policy.rollout(prompts, sample_seeds(0, Stream.TRAINING, 0, images)).trajectory


def build_variants(config: TrainConfig, options: argparse.Namespace, dtype: torch.dtype) -> dict[str, Variant]:
    """The variants by name, the baseline first."""
    policy = load_policy_in(config, dtype)
    trajectory = sample(policy, config, options.images)
    advantages = torch.randn(trajectory.log_probs.shape, generator=torch.Generator().manual_seed(0))
    work = {str(size): partial(ours, policy, trajectory, advantages, config, size) for size in options.sizes}
    if options.bare:
        work["bare"] = partial(bare, policy, trajectory, advantages, config)
    variants = {name: partial(gradient_of, policy, accumulate) for name, accumulate in work.items()}
    for name, other in other_policies(config, options, dtype).items():
        accumulate = partial(ours, other, trajectory, advantages, config, options.sizes[-1])
        variants[name] = partial(gradient_of, other, accumulate)
    return variants


def other_policies(config: TrainConfig, options: argparse.Namespace, dtype: torch.dtype) -> dict[str, PipelinePolicy]:
    """Policies with a compiled or channels_last denoiser."""
    policies = {}
    if options.compiled:
        model = config.model.model_copy(update={"compile": True})
        policies["compiled"] = load_policy_in(config.model_copy(update={"model": model}), dtype)
    if options.channels_last:
        policies["channels_last"] = load_policy_in(config, dtype)
        denoiser = getattr(policies["channels_last"].pipeline, policies["channels_last"].denoiser)
        denoiser.to(memory_format=torch.channels_last)
    return policies


def ours(policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, config: TrainConfig, size: int) -> None:
    scaler, count = torch.amp.GradScaler(enabled=False), len(trajectory)
    experience, part = Experience(trajectory, advantages, unpartitioned(count)), UpdatePart(torch.arange(count), count)
    accumulate_gradient(build_algorithm(config.train), policy, scaler, experience, part, size)


def bare(policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, config: TrainConfig) -> None:
    """One (image, step) per forward and backward, with the denoiser called directly."""
    unet, scheduler, guidance = policy.pipeline.unet, policy.scheduler, config.sample.guidance
    embeddings, negative = trajectory.recording.encodings.batch(trajectory.prompts)[0]
    terms = len(trajectory) * trajectory.steps
    stride = scheduler.config.num_train_timesteps // config.sample.steps
    for row in range(len(trajectory)):
        for step, timestep in enumerate(trajectory.timesteps.tolist()):
            sample = trajectory.latents[row : row + 1, step]
            if guidance > 1:
                text = torch.cat([negative[row : row + 1], embeddings[row : row + 1]])
                without, with_text = unet(torch.cat([sample, sample]), timestep, text).sample.chunk(2)
                noise = without + guidance * (with_text - without)
            else:
                noise = unet(sample, timestep, embeddings[row : row + 1]).sample
            previous = timestep - stride
            alpha = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod
            transition = ddim.transition(noise, sample, scheduler.alphas_cumprod[timestep], alpha, config.sample.eta)
            log_prob = gaussian.step_log_prob(transition, trajectory.latents[row : row + 1, step + 1])
            old = trajectory.log_probs[row : row + 1, step]
            value = loss.clipped_surrogate(log_prob, old, advantages[row : row + 1, step], config.train.clip_range)
            (value.sum() / terms).backward()


def gradient_of(policy: PipelinePolicy, work: Callable[[], None]) -> tuple[Tensor, float]:
    """(flat gradient, CPU seconds)."""
    for parameter in policy.parameters():
        parameter.grad = None
    started = time.process_time()
    work()
    seconds = time.process_time() - started
    gradients = [parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None]
    return torch.cat(gradients), seconds


def differences(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """The relative difference of each other gradient from the first, by name."""
    baseline, *others = gradients
    return {name: relative_difference(gradients[name], gradients[baseline]) for name in others}


def relative_difference(gradient: Tensor, other: Tensor) -> float:
    return float((gradient - other).norm() / other.norm())


def alternated(variants: Mapping[str, Variant], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name].append(variant()[1])
    return seconds


def table(seconds: Mapping[str, Sequence[float]], images: int) -> list[str]:
    """Median CPU milliseconds per query, and the range of the ratios to the first variant."""
    baseline, *others = seconds
    rounds = len(seconds[baseline])
    lines = [
        f"{name:<14}{1000 * statistics.median(values) / images:7.1f} CPU-ms per query (median of {rounds})"
        for name, values in seconds.items()
    ]
    for name in others:
        ratios = [value / base for value, base in zip(seconds[name], seconds[baseline], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        lines.append(f"{name} / {baseline}: min {low:.2f}, median {middle:.2f}, max {high:.2f}")
    return lines


def compile_summary(first: float, eager: float, compiled: float, images: int) -> str:
    """The number of queries that recover the compile time, given the CPU seconds of an update of `images` images.

    `first` is wall time, because compilers run in separate processes.
    """
    after = break_even(first - compiled, eager / images, compiled / images)
    recovered = f"recovered after {after:,.0f} queries" if math.isfinite(after) else "never recovered"
    return f"compilation: {first:.0f} s for the first update instead of {compiled:.1f}, {recovered}"


if __name__ == "__main__":
    main()
