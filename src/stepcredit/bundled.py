"""The models that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

World = Literal["shapes", "composition"]


@dataclass(frozen=True)
class BundledModel:
    """A model of the package.

    Attributes:
        name: the value of `model.path`.
        folder: its folder among the bundled weights.
        world: what it was trained on, which says what captions it understands. A list of prompts has the same name.
        architecture: `ddim` is a StableDiffusionPipeline, `flow` a StableDiffusion3Pipeline.
        steps, guidance: how it is sampled best. Training needs no guidance.
    """

    name: str
    folder: str
    world: World
    architecture: Literal["ddim", "flow"]
    steps: int = 20
    guidance: float = 1.0

    @property
    def training_defaults(self) -> dict[str, Any]:
        """The keys of a run's configuration, as `section.key`, whose defaults differ for this model."""
        return {"prompts.source": self.world, "sample.steps": self.steps}


BUNDLED: Mapping[str, BundledModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            BundledModel("embedded", "pipeline", "shapes", "ddim", guidance=3.0),
            BundledModel("embedded-flow", "flow_pipeline", "shapes", "flow", guidance=3.0),
            BundledModel("embedded-composition", "composition", "composition", "ddim"),
        )
    }
)


def world_of(path: str) -> World | None:
    """The world of a bundled model; None for any other `model.path`."""
    model = BUNDLED.get(path)
    return None if model is None else model.world
