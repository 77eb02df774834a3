"""Sample many images and score them with several rewards, one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from stepcredit.errors import RewardError, shortened
from stepcredit.evaluation.sampling import require_finite
from stepcredit.evaluation.set_statistics import PerPrompt, PerSet, set_statistics
from stepcredit.rewards import CheckedReward, Scores, join
from stepcredit.types import Plan, Policy, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds

BATCH = 16
"""Images in memory at a time if the plan sets no batch."""


@dataclass(frozen=True)
class Measurement:
    """Scores of P prompts with N images each, and statistics of all of these images.

    Attributes:
        scores: (P, N) for every reward, and for the components of a mixture as `mixture.<component>`.
        statistics: by name, those of `set_statistics` that are defined for the images.
        passed: (P, N) bool, whether an image counts as correct, for every reward and component with a pass score.
    """

    scores: Mapping[str, Tensor]
    statistics: Mapping[str, PerPrompt | PerSet] = field(default_factory=dict)
    passed: Mapping[str, Tensor] = field(default_factory=dict)


def measure(
    policy: Policy,
    rewards: Mapping[str, CheckedReward],
    prompts: Sequence[Prompt],
    images: int,
    seed: int,
    plan: Plan,
    on_images: Callable[[int], None] = lambda _: None,
) -> Measurement:
    """Score `images` images of every prompt with the current weights of `policy`.

    Image j of prompt i uses evaluation seed number i * images + j of `seed`, and nothing else determines its noise. So
    two calls with the same prompts, images and seed differ by the weights only.

    Args:
        rewards: by the name that results and errors use.
        images: per prompt, at least 1.
        plan: `plan.batch` images are in memory at a time.
        on_images: called after each batch with its number of images.

    Raises:
        InputError: the model returned images that are not finite.
        RewardError: a reward failed; the message names the prompt.
    """
    jobs = [(prompt, number) for prompt in prompts for number in range(images)]
    seeds = sample_seeds(seed, Stream.EVALUATION, 0, len(jobs))
    scores: dict[str, list[Scores]] = {name: [] for name in rewards}
    statistics = {name: statistic(images) for name, statistic in set_statistics().items()}
    size = plan.batch or BATCH
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        pictures = policy.rollout([prompt for prompt, _ in batch], seeds[start : start + size], plan).images
        require_finite(pictures)
        for name, reward in rewards.items():
            scores[name].append(_score(reward, pictures, batch))
        for statistic in statistics.values():
            statistic.add(pictures, [prompt.text for prompt, _ in batch])
        on_images(len(batch))
    joined = {name: join(batches) for name, batches in scores.items()}
    of_sets = {name: statistic.value() for name, statistic in statistics.items()}
    return Measurement(
        {name: values.reshape(-1, images) for name, values in _columns(joined)},
        {name: value for name, value in of_sets.items() if value is not None},
        {name: values.reshape(-1, images) for name, values in _passed(rewards, joined)},
    )


def _columns(scores: Mapping[str, Scores]) -> list[tuple[str, Tensor]]:
    """The scores of every reward, followed by those of its components."""
    columns = []
    for name, reward_scores in scores.items():
        columns.append((name, reward_scores.values))
        columns += [(f"{name}.{part}", component.scores) for part, component in reward_scores.components.items()]
    return columns


def _passed(rewards: Mapping[str, CheckedReward], scores: Mapping[str, Scores]) -> list[tuple[str, Tensor]]:
    """Which images pass, in the order of `_columns`, where there is a pass score."""
    passed = []
    for name, reward_scores in scores.items():
        passed.append((name, rewards[name].passed(reward_scores.values)))
        passed += [(f"{name}.{part}", component.passed()) for part, component in reward_scores.components.items()]
    return [(name, values) for name, values in passed if values is not None]


def _score(reward: CheckedReward, images: Tensor, batch: Sequence[tuple[Prompt, int]]) -> Scores:
    try:
        return reward.scores(images, [prompt.text for prompt, _ in batch], [prompt.metadata for prompt, _ in batch])
    except RewardError as error:
        raise _located(reward, images, batch, error) from error


def _located(
    reward: CheckedReward, images: Tensor, batch: Sequence[tuple[Prompt, int]], error: RewardError
) -> RewardError:
    """The error with the first image that also fails alone, or with all prompts of the batch if none does."""
    for row, (prompt, number) in enumerate(batch):
        try:
            reward.scores(images[row : row + 1], [prompt.text], [prompt.metadata])
        except RewardError as single:
            return RewardError(f"image {number + 1} of prompt '{shortened(prompt.text)}': {single}")
    texts = ", ".join(f"'{shortened(text)}'" for text in dict.fromkeys(prompt.text for prompt, _ in batch))
    return RewardError(f"a batch of {len(batch)} images of prompts {texts}, although no image fails alone: {error}")
