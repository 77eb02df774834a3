"""The packaged embedded pipelines and their checker, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from stepcredit.errors import unknown
from stepcredit.shapes.checker import Checker
from stepcredit.shapes.flow_networks import TEXT_PADDING

WEIGHTS = Path(__file__).parent / "weights"

DDIM = "embedded"
FLOW = "embedded-flow"
NAMES = (DDIM, FLOW)

LAYOUT: Mapping[str, str] = {DDIM: "pipeline", FLOW: "flow_pipeline"}
"""The folder of each pipeline within WEIGHTS, or within a freshly built package."""

CALL: Mapping[str, Mapping[str, Any]] = {DDIM: {}, FLOW: {"max_sequence_length": TEXT_PADDING}}
"""What each pipeline's call needs beside the usual arguments.

Without a T5 encoder, StableDiffusion3Pipeline appends `max_sequence_length` zero vectors, 256 by default, to the 16
text tokens. The transformer attends to them, so it has to be called with as many as it was trained with, and 256 would
make every step several times as long.
"""

_LOADING: Mapping[str, tuple[type[DiffusionPipeline], Mapping[str, None]]] = {
    DDIM: (StableDiffusionPipeline, {}),
    FLOW: (StableDiffusion3Pipeline, {"text_encoder_3": None, "tokenizer_3": None}),
}
"""Each pipeline's class, and the parts that diffusers wants to be told are missing."""


def load_pipeline(name: str = DDIM, folder: Path = WEIGHTS) -> DiffusionPipeline:
    """A fresh copy of the pipeline of that name, one of NAMES (weights ship as float16); its bar is off.

    Raises InputError for another name. `folder` is where packages lie, by default the ones that ship.
    """
    if name not in NAMES:
        raise unknown("embedded pipeline", name, NAMES)
    kind, missing = _LOADING[name]
    pipeline = kind.from_pretrained(
        folder / LAYOUT[name], dtype=torch.float32, local_files_only=True, use_safetensors=True, **missing
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def load_checker(folder: Path = WEIGHTS) -> Checker:
    """The frozen attribute checker."""
    checker = Checker()
    checker.load_state_dict({name: value.float() for name, value in load_file(folder / "checker.safetensors").items()})
    return checker.eval().requires_grad_(False)
