"""A tiny random pipeline of each diffusers family: the real classes, built offline, sampled in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline
from tests.families import (
    flux,
    flux2_klein,
    hidream,
    pixart_sigma,
    qwen_image,
    qwen_image_21,
    sana,
    sd,
    sd3,
    sdxl,
    z_image,
)


@dataclass(frozen=True)
class TinyFamily:
    """How to build and call a tiny pipeline.

    Attributes:
        build: seed -> pipeline in eval mode without progress bar; equal seeds give equal weights.
        call: arguments of `__call__` that keep it small, in addition to prompt, steps, guidance and generator.
        guidance: a scale that has a visible effect, passed as the argument `families.Family.guidance`.
    """

    build: Callable[[int], DiffusionPipeline]
    call: dict[str, Any] = field(default_factory=dict)
    guidance: float = 5.0


FAMILIES: dict[str, TinyFamily] = {
    "sd": TinyFamily(sd.build),
    "sd-v-prediction": TinyFamily(lambda seed: sd.build(seed, prediction_type="v_prediction")),
    "sd-sample": TinyFamily(lambda seed: sd.build(seed, prediction_type="sample")),
    "sdxl": TinyFamily(sdxl.build),
    "sd3": TinyFamily(sd3.build, sd3.CALL),
    "sd3-skip-layer-guidance": TinyFamily(sd3.build, sd3.CALL | sd3.SKIP_LAYER_GUIDANCE),
    "flux": TinyFamily(flux.build, flux.CALL, guidance=3.5),
    "flux-true-cfg": TinyFamily(flux.build, flux.CALL | flux.TRUE_CFG, guidance=3.5),
    "flux2_klein": TinyFamily(flux2_klein.build, flux2_klein.CALL),
    "hidream-without-experts": TinyFamily(lambda seed: hidream.build(seed, experts=0), hidream.CALL),
    "qwen_image": TinyFamily(qwen_image.build, qwen_image.CALL, guidance=4.0),
    "qwen_image_2.1": TinyFamily(qwen_image_21.build, qwen_image_21.CALL, guidance=4.0),
    "z_image": TinyFamily(z_image.build, z_image.CALL),
    "sana": TinyFamily(sana.build, sana.CALL),
    "pixart_sigma": TinyFamily(pixart_sigma.build, pixart_sigma.CALL),
}
