"""The section `prompts`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepcredit.config.section import Section

PromptOrder = Literal["shuffled", "fixed", "random"]
_DEFAULT_PROMPTS = "shapes"


def default_order(source: str) -> PromptOrder:
    """`prompts.order` of a prompt source for which none is set."""
    return "fixed" if source == _DEFAULT_PROMPTS else "shuffled"


class PromptsSection(Section):
    """The prompts to train on."""

    source: str = Field(
        _DEFAULT_PROMPTS,
        description="Name of a prompt list, path of a .txt or .jsonl file, or `module:function` or "
        "`path/file.py:function` of your own. `stepcredit list prompt` lists the names.",
    )
    order: PromptOrder = Field(
        default_factory=lambda values: default_order(values.get("source", "")),
        json_schema_extra={"default": "shuffled"},
        description="Which `sample.prompts_per_epoch` prompts an epoch trains on. `shuffled` goes through the whole "
        "list in random order, epoch after epoch, before it uses a prompt again. `fixed` uses the first ones in every "
        "epoch. `random` draws with replacement. The default is `fixed` for the list `shapes`, whose first 8 prompts "
        "cover every shape and color.",
    )
