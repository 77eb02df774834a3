"""The complete configuration of a run, one file per section. Its defaults are the recipe `embedded_jpeg`.

For other models than the bundled ones, some keys have defaults of the model's family, see `runs.model_defaults`.
"""

from __future__ import annotations

from pydantic import model_validator

from stepcredit.config.credit import CreditSection
from stepcredit.config.model import BUNDLED_MODELS, ModelSection
from stepcredit.config.prompts import PromptOrder, PromptsSection, default_order
from stepcredit.config.reward import MIXTURE, ComponentSection, RewardSection
from stepcredit.config.run import RunSection
from stepcredit.config.sample import SampleSection
from stepcredit.config.section import Section
from stepcredit.config.train import TrainSection
from stepcredit.utils.python_objects import is_python_object

__all__ = [
    "BUNDLED_MODELS",
    "MIXTURE",
    "ComponentSection",
    "CreditSection",
    "ModelSection",
    "PromptOrder",
    "PromptsSection",
    "RewardSection",
    "RunSection",
    "SampleSection",
    "TrainConfig",
    "TrainSection",
    "default_order",
]


class TrainConfig(Section):
    """The complete configuration of a run, as config.yaml holds it."""

    model: ModelSection = ModelSection()
    sample: SampleSection = SampleSection()
    train: TrainSection = TrainSection()
    credit: CreditSection = CreditSection()
    reward: RewardSection = RewardSection()
    prompts: PromptsSection = PromptsSection()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        images = self.images_per_epoch
        if images is not None and self.train.updates_per_epoch > images:
            raise ValueError(
                f"train.updates_per_epoch is {self.train.updates_per_epoch} but an epoch has only {images} images"
            )
        return self

    @property
    def images_per_epoch(self) -> int | None:
        """Number of images of an epoch; None if it depends on the number of prompts."""
        if self.sample.prompts_per_epoch is None:
            return None
        return self.sample.prompts_per_epoch * self.sample.images_per_prompt

    @property
    def python_objects(self) -> dict[str, str]:
        """The keys whose value only a Python program can supply, see `utils.python_objects`."""
        names = {
            "model.path": self.model.path,
            "reward.name": self.reward.name,
            "credit.name": self.credit.name,
            "prompts.source": self.prompts.source,
        }
        return {key: name for key, name in names.items() if is_python_object(name)}
