"""How the runs of a comparison are evaluated after training: on which prompts, with which rewards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepcredit.bundled import world_of
from stepcredit.comparison.comparison_file import EvaluateSection
from stepcredit.config import RewardSection, TrainConfig
from stepcredit.errors import InputError
from stepcredit.evaluation.prompt_sets import HELD_OUT, TRAINING, held_out_list
from stepcredit.prompts import load_prompts, prompt_names

COMPOSITION_PROMPTS = ("composition-held-out", "composition-unseen-pairs")


@dataclass(frozen=True)
class EvaluationPlan:
    """What every fresh run is evaluated on.

    Attributes:
        prompts: at least one of `training`, `held-out`, bundled lists and files.
        images: per prompt.
        rewards: to measure in addition to those of the run.
    """

    prompts: tuple[str, ...]
    images: int
    rewards: tuple[str, ...] = ()

    def tree(self) -> dict[str, Any]:
        """As plain data, as protocol.yaml holds it."""
        return {"prompts": list(self.prompts), "images": self.images, "rewards": list(self.rewards)}

    def lists(self) -> list[str]:
        """The prompt sets that are the same for every run."""
        return [name for name in self.prompts if name not in (TRAINING, HELD_OUT)]

    def further_rewards(self, reward: RewardSection) -> list[str]:
        """Those of `rewards` that a run with this reward does not measure anyway."""
        measured = {part.name for part in reward.parts if part.remote is None}
        return [name for name in self.rewards if name not in measured]

    def text(self) -> str:
        """In words, such as `shapes-held-out, 2 images per prompt`."""
        return f"{', '.join(self.prompts)}, {self.images} image{'s' if self.images > 1 else ''} per prompt"


def make_plan(section: EvaluateSection | None, base: TrainConfig) -> EvaluationPlan | None:
    """Complete the section of a comparison file; None evaluates nothing.

    Without prompts, the models of the composition world have COMPOSITION_PROMPTS.

    Raises:
        InputError: other models, and a section without prompts.
    """
    of_world = world_of(base.model.path) == "composition"
    if section is None:
        return EvaluationPlan(COMPOSITION_PROMPTS, 1) if of_world else None
    if section.prompts is None and not of_world:
        raise InputError(
            "evaluate has no prompts: give evaluate.prompts, a list of training, held-out, bundled lists and files"
        )
    prompts = COMPOSITION_PROMPTS if section.prompts is None else tuple(section.prompts)
    return EvaluationPlan(prompts, section.images, tuple(section.rewards)) if prompts else None


def require_prompt_sets(plan: EvaluationPlan, configs: Iterable[TrainConfig]) -> None:
    """Check that every prompt set of a plan exists.

    Raises:
        InputError: an unknown list or file, or `held-out` for a run on prompts that have no held-out list.
    """
    try:
        for name in plan.lists():
            load_prompts(name)
    except InputError as error:
        raise InputError(f"evaluate.prompts: {error}") from error
    for config in configs if HELD_OUT in plan.prompts else ():
        if held_out_list(config) not in prompt_names():
            raise InputError(
                f"evaluate.prompts has {HELD_OUT}, but {config.prompts.source} has no held-out list: give the list or "
                "the file"
            )
