"""What all sections of the configuration share."""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict

STANDARDIZE = AliasChoices("standardize", "standardise")  # version 0.1 wrote the second


class Section(BaseModel):
    """A frozen section. Unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
