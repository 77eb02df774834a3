"""The packaged embedded pipeline and its checker, in float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from stepcredit.embedded.checker import Checker

WEIGHTS = Path(__file__).parent / "weights"


def load_pipeline(folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """A fresh copy of the tiny StableDiffusionPipeline (its weights ship as float16)."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder / "pipeline", dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def load_checker(folder: Path = WEIGHTS) -> Checker:
    """The frozen attribute checker."""
    checker = Checker()
    checker.load_state_dict({name: value.float() for name, value in load_file(folder / "checker.safetensors").items()})
    return checker.eval().requires_grad_(False)
