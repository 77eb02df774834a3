"""Training throughput of batched micro-batches against one (image, step) at a time, on the embedded pipeline.

    OMP_NUM_THREADS=1 uv run python benchmarks/microbatch.py --pairs 5

Three ways to accumulate the same gradient over the same recorded trajectories, in alternation within one process:

- batched:  the trainer's own path, all images at one step per forward
- single:   the trainer's own path with train.microbatch=1
- bare:     a plain loop over (image, step) that calls the denoiser directly, without re-entering the pipeline; the
            shape of the reference implementations' loops

Prints seconds per reward query of each, the ratios pair by pair, and the relative difference of the gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from stepcredit import recipes
from stepcredit.config import TrainConfig
from stepcredit.maths import ddim, gaussian, loss
from stepcredit.policy.loading import load_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.prompts import draw_prompts, load_prompts
from stepcredit.quiet import quiet_libraries
from stepcredit.seeds import Stream, sample_seeds
from stepcredit.types import Trajectory
from stepcredit.update import accumulate_gradient

LARGEST_DIFFERENCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="images of one update group")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    options = parser.parse_args()
    quiet_libraries()

    config = recipes.load(None, options.overrides)
    policy = load_policy(config)
    trajectory = sampled(policy, config, options.images)
    advantages = torch.randn(trajectory.log_probs.shape, generator=torch.Generator().manual_seed(0))
    ways = {
        "batched": lambda: ours(policy, trajectory, advantages, config, options.images),
        "single": lambda: ours(policy, trajectory, advantages, config, 1),
        "bare": lambda: bare(policy, trajectory, advantages, config),
    }
    print(
        f"{options.images} images x {config.sample.steps} steps, guidance {config.sample.guidance}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    largest = compare_gradients(policy, ways)
    compare_seconds(policy, ways, options.images, options.pairs)
    if not largest <= LARGEST_DIFFERENCE:
        raise SystemExit(f"gradients differ by {largest:.1e}, more than {LARGEST_DIFFERENCE:.0e}")


def sampled(policy: PipelinePolicy, config: TrainConfig, images: int) -> Trajectory:
    prompts = draw_prompts(
        load_prompts(config.prompts.source), epoch=0, seed=0, count=images, order="random", images_per_prompt=1
    )
    return policy.rollout(prompts, sample_seeds(0, Stream.TRAINING, 0, images)).trajectory


def ours(policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, config: TrainConfig, size: int) -> None:
    scaler = torch.amp.GradScaler(enabled=False)
    rows = torch.arange(len(trajectory))
    accumulate_gradient(policy, scaler, trajectory, advantages, rows, config.train, size)


def bare(policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, config: TrainConfig) -> None:
    """One (image, step) per forward and backward, with the denoiser called directly."""
    unet, scheduler, guidance = policy.pipeline.unet, policy.scheduler, config.sample.guidance
    embeddings, negative = trajectory.recording.encodings.of(trajectory.prompts)[0]
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


def gradient_of(policy: PipelinePolicy, way: Callable[[], None]) -> tuple[Tensor, float]:
    """(flattened gradient, CPU seconds)."""
    for parameter in policy.parameters():
        parameter.grad = None
    started = time.process_time()
    way()
    seconds = time.process_time() - started
    return torch.cat(
        [parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None]
    ), seconds


def compare_gradients(policy: PipelinePolicy, ways: dict[str, Callable[[], None]]) -> float:
    """Largest relative difference, in float32: rounding alone, which guidance multiplies."""
    gradients = {name: gradient_of(policy, way)[0] for name, way in ways.items()}
    differences = {
        name: float((gradients["batched"] - gradients[name]).norm() / gradients[name].norm())
        for name in ("single", "bare")
    }
    for name, difference in differences.items():
        print(f"gradient batched against {name}: relative difference {difference:.1e}")
    return max(differences.values())


def compare_seconds(policy: PipelinePolicy, ways: dict[str, Callable[[], None]], images: int, pairs: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(pairs):
        for name, way in ways.items():
            seconds[name].append(gradient_of(policy, way)[1])
    for name, values in seconds.items():
        print(f"{name:<8} {1000 * statistics.median(values) / images:7.1f} CPU-ms per query (median of {pairs})")
    for name in ("single", "bare"):
        ratios = [slow / fast for slow, fast in zip(seconds[name], seconds["batched"], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"{name} / batched: min {low:.2f}, median {middle:.2f}, max {high:.2f}")


if __name__ == "__main__":
    main()
