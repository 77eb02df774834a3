"""Sample images of prompts, by the same rollout that training uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.rewards.vision.images import to_pil
from stepcredit.types import Plan, Policy, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds

BATCH = 16
"""Images in memory at a time. The plan decides how many of them are sampled in one forward."""


def sample_images(
    policy: Policy, prompts: Sequence[Prompt], images: int, seed: int, plan: Plan
) -> Iterator[tuple[Prompt, Image.Image]]:
    """Sample `images` images of every prompt, with averaged weights if the policy keeps them.

    The noise of an image depends only on `seed` and on its position.

    Args:
        plan: for example `stepcredit.algorithms.sampling_plan.evaluation_plan(config, BATCH)`.

    Yields:
        Each prompt with an image of it; all images of a prompt come in succession.
    """
    jobs = [prompt for prompt in prompts for _ in range(images)]
    seeds = sample_seeds(seed, Stream.EVALUATION, 0, len(jobs))
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        with policy.averaged():
            pictures = policy.rollout(batch, seeds[start : start + BATCH], plan).images
        require_finite(pictures)
        yield from zip(batch, to_pil(pictures), strict=True)


def require_finite(images: Tensor) -> None:
    """InputError for images (B,3,H,W) that are not finite."""
    if not images.isfinite().all():
        raise InputError("the model returned images that are not finite: try model.dtype=float32 or bfloat16")
