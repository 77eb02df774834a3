"""The differences between families of text-to-image pipelines, as a table.

A pipeline that is not in the table is `GENERIC`. Most of these are called and trained like Stable Diffusion; the replay
check refuses the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of self- and cross-attention."""

JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Projections of blocks in which image and text attend to each other, each with its own."""

FUSED_ATTENTION = (*JOINT_ATTENTION, "to_qkv_mlp_proj", "to_out")
"""The same, and those of FLUX.2's single blocks, where one matrix makes queries, keys, values and the MLP's input."""


@dataclass(frozen=True)
class Family:
    """How pipelines of one kind are called and trained.

    Attributes:
        name: shown in reports.
        pipelines: names of diffusers classes.
        guidance: the argument of `__call__` that `sample.guidance` is passed as.
        unguided: the value of that argument that switches guidance off, so that each step calls the denoiser once per
            image. None if the scale is an input of the model, which then cannot be switched off.
        lora_targets: endings of the names of the layers that get a LoRA by default, except `lora_excluded`.
        call: further arguments of `__call__`, which sample.call overrides. A text is passed once per prompt.
        note: what is unusual about the guidance, for `stepcredit doctor`; may be empty.
    """

    name: str
    pipelines: tuple[str, ...]
    guidance: str = "guidance_scale"
    unguided: float | None = 1.0
    lora_targets: tuple[str, ...] = ATTENTION
    call: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def unguided_call(self, call: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `__call__` that leave only the conditional prediction of `call`."""
        kept = {name: value for name, value in call.items() if not name.startswith("negative_prompt")}
        if "true_cfg_scale" in kept:
            kept["true_cfg_scale"] = 1.0
        return kept if self.unguided is None else {**kept, self.guidance: self.unguided}


GENERIC = Family("generic", ())

FAMILIES = (
    Family("sd", ("StableDiffusionPipeline",)),
    Family("sdxl", ("StableDiffusionXLPipeline",)),
    Family("sd3", ("StableDiffusion3Pipeline",), lora_targets=JOINT_ATTENTION),
    Family(
        "flux",
        ("FluxPipeline",),
        unguided=None,
        lora_targets=JOINT_ATTENTION,
        note="the guidance scale is an input of the model, 3.5 by default (schnell ignores it); for classifier-free "
        "guidance set true_cfg_scale and negative_prompt in sample.call",
    ),
    Family("chroma", ("ChromaPipeline",), lora_targets=JOINT_ATTENTION),
    Family(
        "flux2",
        ("Flux2Pipeline",),
        unguided=None,
        lora_targets=FUSED_ATTENTION,
        note="the guidance scale is an input of the model, 4 by default",
    ),
    Family(
        "flux2_klein",
        ("Flux2KleinPipeline",),
        lora_targets=FUSED_ATTENTION,
        note="distilled checkpoints (is_distilled) ignore the guidance scale",
    ),
    Family(
        "qwen_image",
        ("QwenImagePipeline",),
        guidance="true_cfg_scale",
        lora_targets=JOINT_ATTENTION,
        call={"negative_prompt": " "},
        note="guidance is true_cfg_scale and needs a negative prompt; the guided prediction is rescaled to the norm "
        "of the conditional one",
    ),
    Family(
        "qwen_image_2.1",
        ("QwenImage21Pipeline",),
        guidance="true_cfg_scale",
        call={"negative_prompt": " ", "use_kv_cache": False},
        note="guidance is true_cfg_scale and needs a negative prompt; the key-value cache between steps is off, so "
        "that each step can be replayed alone",
    ),
    Family(
        "z_image",
        ("ZImagePipeline",),
        unguided=0.0,
        note="guidance scale g corresponds to a classifier-free scale of 1 + g, and 0 is off; sample Turbo checkpoints "
        "at 0",
    ),
    Family("sana", ("SanaPipeline",)),
    Family("pixart", ("PixArtSigmaPipeline", "PixArtAlphaPipeline")),
)


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline, by the names of its class and base classes; `GENERIC` if none is in the table."""
    known = {name: family for family in FAMILIES for name in family.pipelines}
    return next((known[kind.__name__] for kind in type(pipeline).__mro__ if kind.__name__ in known), GENERIC)
