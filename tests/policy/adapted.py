"""Tiny pipelines with an adapter, and what they draw."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tests.families import TinyFamily
from tests.families.proof import for_each
from torch import Tensor

from stepcredit.config import ModelSection
from stepcredit.families import family_of
from stepcredit.policy.adapters import Adapter, attach

TEXTS = ["a cat", "two dogs"]


def attached(pipeline: Any, seed: int = 0, **options: Any) -> Adapter:
    """The keywords are fields of ModelSection."""
    return attach(pipeline, ModelSection(**options), seed)


def shift(adapter: Adapter, scale: float = 0.1, seed: int = 0) -> None:
    """Add normal noise to every trained weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def arguments(pipeline: Any, tiny: TinyFamily | None = None) -> dict[str, Any]:
    """Of a call of two steps with guidance."""
    family, tiny = family_of(pipeline), tiny or TinyFamily(type(pipeline))
    return {
        **for_each({**family.call, **tiny.call}, len(TEXTS)),
        "prompt": list(TEXTS),
        "num_inference_steps": 2,
        family.guidance: tiny.guidance,
        "generator": [torch.Generator().manual_seed(number) for number in range(len(TEXTS))],
    }


def images(pipeline: Any, tiny: TinyFamily | None = None) -> Tensor:
    """(2,3,H,W) as the pipeline draws them by itself."""
    with _stock_schedulers():
        drawn: Tensor = pipeline(**arguments(pipeline, tiny), output_type="pt").images
    return drawn


def latents_with_gradient(pipeline: Any, tiny: TinyFamily | None = None) -> Tensor:
    call = inspect.unwrap(type(pipeline).__call__)  # without its no_grad
    with _stock_schedulers():
        latents: Tensor = call(pipeline, **arguments(pipeline, tiny), output_type="latent").images
    return latents


@contextmanager
def _stock_schedulers() -> Iterator[None]:
    """Some of diffusers' schedulers make arrays of tensors in a way that numpy 2 warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        yield
