"""Many images, scored by every reward as they come and then dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from stepcredit.errors import RewardError, shortened
from stepcredit.evaluation.diversity import Embedding, Spread, thumbnail
from stepcredit.rewards import CheckedReward, Scores, join
from stepcredit.types import Plan, Policy, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds

BATCH = 16
"""Images in memory at a time where the plan does not say."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts that a figure is about.

    Attributes:
        name: what tables call it: `training`, `held-out`, or the source.
        source: the bundled list or file it is from.
    """

    name: str
    source: str
    prompts: Sequence[Prompt]


@dataclass(frozen=True)
class Measured:
    """What was found of P prompts with N images each.

    Attributes:
        scores: (P, N) for every reward, and for the components of a mixture as `mixture.<component>`.
        distances: P mean pairwise distances of a prompt's images; None where N is 1.
    """

    scores: Mapping[str, Tensor]
    distances: Sequence[float | None]


def measure(
    policy: Policy,
    rewards: Mapping[str, CheckedReward],
    prompts: Sequence[Prompt],
    images: int,
    seed: int,
    plan: Plan,
    embed: Embedding = thumbnail,
    tick: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Score `images` images of every prompt under the weights that `policy` has now.

    Image j of prompt i has the evaluation seed number i * images + j of `seed`: the noise depends on nothing else, so
    two calls with the same prompts, images and seed differ by their weights alone.

    Args:
        rewards: by the name that results and errors use.
        images: per prompt, at least 1.
        plan: `plan.batch` images are in memory at a time.
        embed: the space of the distances.
        tick: called with the number of images after each batch.

    Raises:
        RewardError: a reward failed; it names the prompt.
    """
    wanted = [(prompt, number) for prompt in prompts for number in range(images)]
    seeds = sample_seeds(seed, Stream.EVALUATION, 0, len(wanted))
    scores: dict[str, list[Scores]] = {name: [] for name in rewards}
    spread, size = Spread(images, embed), plan.batch or BATCH
    for start in range(0, len(wanted), size):
        chunk = wanted[start : start + size]
        pictures = policy.rollout([prompt for prompt, _ in chunk], seeds[start : start + size], plan).images
        for name, reward in rewards.items():
            scores[name].append(_score(reward, pictures, chunk))
        spread.add(pictures)
        tick(len(chunk))
    joined = {name: join(batches) for name, batches in scores.items()}
    return Measured({name: values.reshape(-1, images) for name, values in _columns(joined)}, spread.distances)


def _columns(scores: Mapping[str, Scores]) -> list[tuple[str, Tensor]]:
    columns = []
    for name, found in scores.items():
        columns.append((name, found.values))
        columns += [(f"{name}.{part}", component.scores) for part, component in found.components.items()]
    return columns


def _score(reward: CheckedReward, images: Tensor, chunk: Sequence[tuple[Prompt, int]]) -> Scores:
    try:
        return reward.scores(images, [p.text for p, _ in chunk], [p.metadata for p, _ in chunk])
    except RewardError as error:
        raise _located(reward, images, chunk, error) from error


def _located(
    reward: CheckedReward, images: Tensor, chunk: Sequence[tuple[Prompt, int]], error: RewardError
) -> RewardError:
    """The error with the first image that fails alone, or the prompts of the batch where none does."""
    for row, (prompt, number) in enumerate(chunk):
        try:
            reward.scores(images[row : row + 1], [prompt.text], [prompt.metadata])
        except RewardError as alone:
            return RewardError(f"image {number + 1} of prompt '{shortened(prompt.text)}': {alone}")
    texts = ", ".join(f"'{shortened(text)}'" for text in dict.fromkeys(prompt.text for prompt, _ in chunk))
    return RewardError(f"a batch of {len(chunk)} images of prompts {texts}, though none of them alone: {error}")
