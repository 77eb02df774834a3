"""Notes about prompts of which the model or a reward ignores the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepcredit.prompts.text_limit import describe_cuts
from stepcredit.rewards import CheckedReward
from stepcredit.rewards.core.text_limits import reward_text_limits
from stepcredit.types import Policy, Prompt


def long_prompt_notes(
    policy: Policy | None, prompts: Sequence[Prompt], rewards: Iterable[CheckedReward] = ()
) -> list[str]:
    """One line for the model and one for the rewards, if they ignore the end of some prompts."""
    texts = [prompt.text for prompt in prompts]
    limits = [limit for reward in rewards for limit in reward_text_limits(reward)]
    notes = [*model_notes(policy, texts), describe_cuts("the reward", limits, texts)]
    return [note for note in notes if note is not None]


def model_notes(policy: Policy | None, texts: Sequence[str]) -> list[str | None]:
    if policy is None:
        return []
    from stepcredit.policy.pipeline import PipelinePolicy  # diffusers takes seconds to import
    from stepcredit.policy.text_limits import text_limits

    if not isinstance(policy, PipelinePolicy):
        return []
    return [describe_cuts(type(policy.pipeline).__name__, text_limits(policy), texts)]
