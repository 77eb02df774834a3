"""The section `credit`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stepcredit.config.section import STANDARDIZE, Section


class CreditSection(Section):
    """How the advantage of an image is distributed over its denoising steps."""

    name: str = Field(
        "contribution",
        description="Name of the credit rule, or `module:name` or `path/file.py:name` of your own. `stepcredit "
        "list credit` lists the rules.",
    )
    window: int = Field(
        5,
        ge=1,
        description="Number of steps per window of the contribution rules. With `sample.steps` or more, they equal "
        "`linear`.",
    )
    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the advantage that every step gets regardless of its credit. 1 turns step credit off.",
    )
    clamp: bool = Field(False, description="Set negative contributions to zero.")
    standardize: bool = Field(
        True,
        validation_alias=STANDARDIZE,
        description="Standardize step advantages, pooled over the images and steps of a prompt.",
    )
    options: dict[str, Any] = Field({}, description="Further options of the rule, such as `gamma` of `discount`.")
