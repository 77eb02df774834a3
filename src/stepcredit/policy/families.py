"""What differs from one family of text-to-image pipelines to another, as data.

The facts are those of diffusers' pipelines and denoisers. A pipeline that is not in the table is `GENERIC`: most are
called and trained like Stable Diffusion, and the self-check refuses one that does not replay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Self- and cross-attention projections."""

JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Those of both streams where image and text attend to each other, each with projections of its own."""

FUSED_ATTENTION = (*JOINT_ATTENTION, "to_qkv_mlp_proj", "to_out")
"""The same, and the single blocks of FLUX.2, which make queries, keys, values and the MLP with one matrix."""


@dataclass(frozen=True)
class Family:
    """How pipelines of one kind are called and trained.

    Attributes:
        name: what reports call it.
        pipelines: names of diffusers classes.
        guidance: the argument of `__call__` that `sample.guidance` is passed as.
        unguided: its value that leaves guidance off, one forward of the denoiser per image and step; None where the
            scale is an input of the model, which then has no unguided mode.
        lora_targets: layers a LoRA goes on by default, by the end of their names; without `lora_excluded`.
        call: further arguments of `__call__`, unless sample.call gives them. A text stands for one per prompt.
        note: what surprises about the guidance, in a sentence for `stepcredit doctor`; empty where nothing does.
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
        note="the guidance scale is an input of the model (of schnell it is ignored), 3.5 by default; classifier-free "
        "guidance besides needs true_cfg_scale and negative_prompt in sample.call",
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
        note="guidance is true_cfg_scale, in effect only with a negative prompt; the guided prediction is rescaled to "
        "the norm of the conditional one",
    ),
    Family(
        "qwen_image_2.1",
        ("QwenImage21Pipeline",),
        guidance="true_cfg_scale",
        call={"negative_prompt": " ", "use_kv_cache": False},
        note="guidance is true_cfg_scale, in effect only with a negative prompt; keys and values are not kept from one "
        "step to the next, so that each can be replayed alone",
    ),
    Family(
        "z_image",
        ("ZImagePipeline",),
        unguided=0.0,
        note="the guidance scale g adds g (conditional - unconditional) to the conditional prediction: 0 is off and g "
        "is a classifier-free scale of 1 + g; Turbo checkpoints are sampled at 0",
    ),
    Family("sana", ("SanaPipeline",)),
    Family("pixart", ("PixArtSigmaPipeline", "PixArtAlphaPipeline")),
)

_TEXT_READ_BY_NOTHING = ("attn.add_q_proj", "attn.to_add_out", "ff_context", "txt_mlp")


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline, by the names of its class and of the classes it derives from; else `GENERIC`."""
    known = {name: family for family in FAMILIES for name in family.pipelines}
    return next((known[kind.__name__] for kind in type(pipeline).__mro__ if kind.__name__ in known), GENERIC)


def lora_excluded(denoiser: nn.Module) -> list[str]:
    """Full names of modules that no LoRA belongs on, though targets match them.

    Two kinds. Layers without influence on the output: where joint blocks come last, nothing reads the text stream of
    the final one, so its queries, its output projection and its MLP receive no gradient (its keys and values do). And
    the list around a layer that elsewhere is the layer itself: FLUX.2 has both `attn.to_out.0` and `attn.to_out`.

    Args:
        denoiser: a transformer or UNet, before any adapter is on it.
    """
    return [*_unread_text_layers(denoiser), *_lists_named_like_layers(denoiser)]


def _unread_text_layers(denoiser: nn.Module) -> list[str]:
    blocks = getattr(denoiser, "transformer_blocks", None)
    if not blocks or getattr(denoiser, "single_transformer_blocks", None):
        return []
    last = f"transformer_blocks.{len(blocks) - 1}."
    joint = getattr(getattr(blocks[-1], "attn", None), "add_q_proj", None) is not None
    unread = tuple(last + part for part in _TEXT_READ_BY_NOTHING) if joint else ()
    return [name for name, part in denoiser.named_modules() if isinstance(part, nn.Linear) and name.startswith(unread)]


def _lists_named_like_layers(denoiser: nn.Module) -> list[str]:
    named = [(name, name.rpartition(".")[2], part) for name, part in denoiser.named_modules()]
    layers = {ending for _, ending, part in named if isinstance(part, nn.Linear)}
    return [name for name, ending, part in named if isinstance(part, nn.ModuleList) and ending in layers]
