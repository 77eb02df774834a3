"""What it is worth to train many (image, step) pairs at a time, and to compile: the embedded pipeline's training.

    OMP_NUM_THREADS=1 uv run python benchmarks/microbatch.py --pairs 5 --sizes 16 64 --compiled

Ways to accumulate the same gradient over the same recorded trajectories, in alternation within one process:

- a number: the trainer's own path with train.microbatch so large
- compiled: the same with the last of the numbers and model.compile
- channels_last: the same with the last of the numbers and the denoiser in that memory format
- bare:     a plain loop over (image, step) that calls the denoiser directly, without re-entering the pipeline; the
            shape of the reference implementations' loops

Prints CPU-milliseconds per reward query of each, the range of their ratios over rounds, after how many queries the
seconds that compiling takes are won back, and the relative difference of the gradients twice: in float32, rounding,
which guidance multiplies and which differs between processors; in float64, where more than 1e-9 is an error.
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
Way = Callable[[], tuple[Tensor, float]]
"""Returns (flat gradient, CPU seconds)."""


def main() -> None:
    options = parse()
    quiet_libraries()
    config = recipes.load(None, options.overrides)
    print(
        f"{options.images} images x {config.sample.steps} steps, guidance {config.sample.guidance}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    with TemporaryDirectory() as cache:  # an empty one: what was compiled before costs nothing again
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        measure(config, options)


def measure(config: TrainConfig, options: argparse.Namespace) -> None:
    found = ways(config, options, torch.float32)
    gradients, first_use = {}, {}
    for name, way in found.items():
        begun = time.perf_counter()
        gradients[name] = way()[0]
        first_use[name] = time.perf_counter() - begun
    seconds = alternated(found, options.pairs)
    print("\n".join(table(seconds, options.images)))
    if options.compiled:
        eager = statistics.median(seconds[str(options.sizes[-1])])
        compiled = statistics.median(seconds["compiled"])
        print(compiling(first_use["compiled"], eager, compiled, options.images))
    rounded = differences(gradients)
    exact = differences({name: way()[0] for name, way in ways(config, options, torch.float64).items()})
    for name, difference in exact.items():
        print(f"gradient {name}: relative difference {rounded[name]:.1e} in float32, {difference:.1e} in float64")
    if not max(exact.values(), default=0.0) <= LARGEST_DIFFERENCE:
        raise SystemExit(f"gradients differ by {max(exact.values()):.1e}, more than {LARGEST_DIFFERENCE:.0e}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="images of one update")
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 1], help="micro-batches, the baseline first")
    parser.add_argument("--compiled", action="store_true", help="also compile the denoiser's blocks (minutes)")
    parser.add_argument("--channels-last", action="store_true", help="also with the denoiser in channels_last order")
    parser.add_argument("--bare", action="store_true", help="also the reference-style loop (slow)")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    return parser.parse_args()


def loaded(config: TrainConfig, dtype: torch.dtype) -> PipelinePolicy:
    policy = load_policy(config)
    policy.pipeline.to(dtype=dtype)
    for parameter in policy.parameters():
        parameter.data = parameter.data.to(dtype)
    return policy


def sampled(policy: PipelinePolicy, config: TrainConfig, images: int) -> Trajectory:
    prompts = draw_prompts(
        load_prompts(config.prompts.source), epoch=0, seed=0, count=images, order="random", images_per_prompt=1
    )
    return policy.rollout(prompts, sample_seeds(0, Stream.TRAINING, 0, images)).trajectory


def ways(config: TrainConfig, options: argparse.Namespace, dtype: torch.dtype) -> dict[str, Way]:
    """By name, the baseline first."""
    policy = loaded(config, dtype)
    trajectory = sampled(policy, config, options.images)
    advantages = torch.randn(trajectory.log_probs.shape, generator=torch.Generator().manual_seed(0))
    found = {str(size): partial(ours, policy, trajectory, advantages, config, size) for size in options.sizes}
    if options.bare:
        found["bare"] = partial(bare, policy, trajectory, advantages, config)
    gradients = {name: partial(gradient_of, policy, work) for name, work in found.items()}
    for name, other in otherwise(config, options, dtype).items():
        work = partial(ours, other, trajectory, advantages, config, options.sizes[-1])
        gradients[name] = partial(gradient_of, other, work)
    return gradients


def otherwise(config: TrainConfig, options: argparse.Namespace, dtype: torch.dtype) -> dict[str, PipelinePolicy]:
    """Policies whose denoiser computes the same in another way."""
    found = {}
    if options.compiled:
        model = config.model.model_copy(update={"compile": True})
        found["compiled"] = loaded(config.model_copy(update={"model": model}), dtype)
    if options.channels_last:
        found["channels_last"] = loaded(config, dtype)
        denoiser = getattr(found["channels_last"].pipeline, found["channels_last"].denoiser)
        denoiser.to(memory_format=torch.channels_last)
    return found


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
            log_prob = gaussian.log_prob(trajectory.latents[row : row + 1, step + 1], transition.mean, transition.std)
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
    """Relative to the first, by name of each other."""
    baseline, *others = gradients
    return {name: relative(gradients[name], gradients[baseline]) for name in others}


def relative(gradient: Tensor, other: Tensor) -> float:
    return float((gradient - other).norm() / other.norm())


def alternated(found: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, way in found.items():
            seconds[name].append(way()[1])
    return seconds


def table(seconds: Mapping[str, Sequence[float]], images: int) -> list[str]:
    """Median CPU milliseconds a query, and the range of the ratios to the first."""
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


def compiling(first: float, eager: float, compiled: float, images: int) -> str:
    """When the seconds of the first use are won back, given the CPU seconds of an update of `images`.

    The first use is timed by the clock, since compilers are processes of their own.
    """
    after = break_even(first - compiled, eager / images, compiled / images)
    won = f"won back after {after:,.0f} queries" if math.isfinite(after) else "never won back"
    return f"compiling: {first:.0f} s for the first update instead of {compiled:.1f}, {won}"


if __name__ == "__main__":
    main()
