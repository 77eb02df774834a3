"""Load the bundled pipelines and their checker, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from stepcredit.bundled import BUNDLED
from stepcredit.errors import unknown
from stepcredit.shapes.checker import Checker

WEIGHTS = Path(__file__).parent / "weights"

DDIM, FLOW, COMPOSITION = BUNDLED
NAMES = tuple(BUNDLED)

TEXT_PADDING = 1
"""Zero vectors after the text tokens: the fewest that StableDiffusion3Pipeline appends without a T5 encoder."""

_FLOW_CALL = {"max_sequence_length": TEXT_PADDING}

CALL: Mapping[str, Mapping[str, Any]] = {
    name: _FLOW_CALL if model.architecture == "flow" else {} for name, model in BUNDLED.items()
}
"""Additional call arguments of each pipeline.

Without a T5 encoder, StableDiffusion3Pipeline appends `max_sequence_length` zero vectors (256 by default) to the 16
text tokens. The transformer attends to them, so their number must be the one it was trained with. 256 would also make
every step several times slower.
"""

_LOADING: Mapping[str, tuple[type[DiffusionPipeline], Mapping[str, None]]] = {
    "ddim": (StableDiffusionPipeline, {}),
    "flow": (StableDiffusion3Pipeline, {"text_encoder_3": None, "tokenizer_3": None}),
}
"""Each architecture's class, and the components to pass as None because the pipeline has none."""


def load_pipeline(name: str = DDIM, folder: Path = WEIGHTS) -> DiffusionPipeline:
    """A new copy of the pipeline `name` in float32 (the weights ship as float16), with the progress bar off.

    Args:
        name: one of NAMES.
        folder: the folder that holds the pipelines, by default the bundled one.

    Raises:
        InputError: `name` is not in NAMES.
    """
    if name not in NAMES:
        raise unknown("embedded pipeline", name, NAMES)
    kind, missing = _LOADING[BUNDLED[name].architecture]
    pipeline = kind.from_pretrained(
        folder / BUNDLED[name].folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, **missing
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def load_checker(folder: Path = WEIGHTS) -> Checker:
    """The frozen attribute checker."""
    checker = Checker()
    checker.load_state_dict({name: value.float() for name, value in load_file(folder / "checker.safetensors").items()})
    return checker.eval().requires_grad_(False)
