"""The section `model`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepcredit.bundled import BUNDLED
from stepcredit.config.section import Section

BUNDLED_MODELS = tuple(BUNDLED)
"""Values of `model.path` that name a model of the package. The defaults of the configuration are theirs."""


class ModelSection(Section):
    """The model to train."""

    path: str = Field(
        "embedded",
        description="Hub id, folder of a diffusers pipeline, or a bundled model: `embedded`, `embedded-flow` or "
        "`embedded-composition`.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Data type of the frozen weights, or of the autocast with `adapter=full`. Trained weights, "
        "log-probabilities and credit are always float32.",
    )
    variant: str | None = Field(
        None, description="Variant of the weight files, such as `fp16`. `null` loads the files without a variant."
    )
    device: str = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:1`, `xpu`, `mps` and so on. `auto` uses CUDA if it is available, "
        "else the CPU.",
    )
    adapter: Literal["lora", "full"] = Field(
        "lora", description="What is trained: a LoRA, or every weight of the denoiser."
    )
    lora_rank: int = Field(4, ge=1, description="Rank of the LoRA.")
    lora_alpha: float | None = Field(
        None, gt=0, description="Alpha of the LoRA, which is scaled by alpha / rank. `null` means alpha = rank."
    )
    lora_targets: list[str] | None = Field(
        None,
        min_length=1,
        description="Layers that get a LoRA, by the end of their name. `null` selects the attention layers of "
        "the model's family.",
    )
    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average of the trained weights. Sample grids, `sample`, `evaluate` "
        "and exports use the average. `null` keeps none.",
    )
    shard: bool = Field(
        False, description="Shard the denoiser's weights over the processes with FSDP2. Needs two or more processes."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass. Needs less memory and more time."
    )
    compile: bool = Field(False, description="Compile the denoiser with torch.compile.")
    vae_tiling: bool = Field(False, description="Decode large images tile by tile. Needs less memory.")
