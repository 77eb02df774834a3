"""The section `reward`, and the components of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from stepcredit.config.section import STANDARDIZE, Section

MIXTURE = "mixture"
"""`reward.name` of a reward that is a weighted sum of others."""


class ComponentSection(Section):
    """One reward of a mixture. Its scores r enter the sum as weight * (r - mean) / scale.

    With `standardize: prompt`, mean and scale are the mean and standard deviation of the scores of the prompt's images
    in the epoch. With `fixed` they are the ones given here. With `none` they are 0 and 1.
    """

    name: str = Field(description="Name of the reward, as in `reward.name`.")
    options: dict[str, Any] = Field({}, description="Options of the reward: arguments of its function or class.")
    remote: str | list[str] | None = Field(
        None, description="Address of a reward server for this component, as in `reward.remote`."
    )
    label: str = Field(
        "",
        description="Name of the component in metrics and reports. Empty uses the name of the reward, or the "
        "function of `module:function`.",
    )
    weight: float = Field(
        1.0,
        ge=-1e9,
        le=1e9,
        description="Weight in the sum. A negative weight trains against the reward. 0 only records its scores.",
    )
    standardize: Literal["prompt", "fixed", "none"] = Field(
        "prompt",
        validation_alias=STANDARDIZE,
        description="How scores are standardized: `prompt` over the images of the prompt, `fixed` with `mean` "
        "and `scale`, `none` not at all.",
    )
    mean: float = Field(0.0, description="Subtracted from the scores with `standardize: fixed`.")
    scale: float = Field(1.0, gt=0, description="Divides the scores with `standardize: fixed`.")

    @property
    def called(self) -> str:
        """Its name in metrics, reports and errors."""
        return self.label or self.name.rpartition(":")[2]

    @model_validator(mode="after")
    def _fixed_only(self) -> ComponentSection:
        if self.standardize != "fixed" and (self.mean, self.scale) != (0.0, 1.0):
            raise ValueError(f"mean and scale need standardize: fixed, but standardize is {self.standardize}")
        return self


class RewardSection(Section):
    """The reward to maximize."""

    name: str = Field(
        "jpeg_compressibility",
        description="Name of the reward, or `module:function` or `path/file.py:function` of your own. "
        "`stepcredit list reward` lists the rewards.",
    )
    options: dict[str, Any] = Field({}, description="Options of the reward: arguments of its function or class.")
    components: list[ComponentSection] = Field(
        [],
        description="Rewards of a mixture, in place of `name`. Each has the keys name, options, remote, label, weight, "
        "standardize, mean and scale. See the guide on rewards.",
    )
    remote: str | list[str] | None = Field(
        None,
        description="Address of one or more reward servers that compute the scores. `name` is then a reward on the "
        "server, and `options` configure the client. See the guide on remote rewards.",
    )
    overlap: bool = Field(
        True,
        description="Score finished images while others are sampled. `false` scores all images of an epoch in "
        "one call.",
    )
    timeout: float | None = Field(
        1800.0,
        gt=0,
        description="Seconds that scoring one batch may take. After that, the run saves a checkpoint and "
        "exits. `null` means no limit.",
    )
    ray_workers: int | None = Field(
        None, ge=1, description="Number of Ray actors. Each holds the reward and scores a share of every batch."
    )
    ray_gpus: float = Field(
        0.0, ge=0, description="GPUs that each of the `ray_workers` reserves. Fractions are allowed."
    )

    @property
    def parts(self) -> Sequence[RewardSection | ComponentSection]:
        """The components of a mixture, or else the reward itself."""
        return self.components or [self]

    @property
    def own_code(self) -> list[str]:
        """The user's functions that it consists of, as `module:function` or `path/file.py:function`."""
        return [part.name for part in self.parts if ":" in part.name and part.remote is None]

    @model_validator(mode="after")
    def _one_place(self) -> RewardSection:
        if self.remote is not None and (self.ray_workers is not None or self.components):
            other = "ray_workers" if self.ray_workers is not None else "components"
            raise ValueError(f"reward.remote and reward.{other} exclude each other: leave one of them out")
        if self.ray_gpus and self.ray_workers is None:
            raise ValueError("reward.ray_gpus needs reward.ray_workers: set the number of workers too")
        return self

    @model_validator(mode="before")
    @classmethod
    def _name_the_mixture(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("components") and "name" not in data:
            return {**data, "name": MIXTURE}
        return data

    @model_validator(mode="after")
    def _mixture_or_one(self) -> RewardSection:
        if not self.components:
            return self
        if self.name != MIXTURE or self.options:
            raise ValueError(
                f"reward.components make a mixture, but reward.name is '{self.name}' with options {self.options}: "
                "leave name and options to the components, or empty components"
            )
        labels = [component.called for component in self.components]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"reward.components has two components named '{twice}': give each its own label")
        if not any(component.weight for component in self.components):
            raise ValueError("every component of reward.components has weight 0: give at least one another weight")
        return self
