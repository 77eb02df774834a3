"""The differences between families of text-to-image pipelines, as a table: how they are called, and their defaults.

A pipeline that is not in the table is `GENERIC`. Most of these are called and trained like Stable Diffusion; the replay
check refuses the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of self- and cross-attention."""

JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Projections of blocks in which image and text attend to each other, each with its own."""

FUSED_ATTENTION = (*JOINT_ATTENTION, "to_qkv_mlp_proj", "to_out")
"""The same, and those of FLUX.2's single blocks, where one matrix makes queries, keys, values and the MLP's input."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Values of the configuration that suit a family. They apply to keys that the user does not set.

    Attributes:
        source: where the values come from.
        learning_rate: for a LoRA.
        full_learning_rate: for `model.adapter=full`.
        guidance: the scale that users of the model sample with.
        steps: denoising steps of training.
        evaluation_steps: denoising steps of sample grids, `sample` and `evaluate`.
        lora_rank: rank of the LoRA.
        lora_alpha: its alpha.
        size: height and width of the images in pixels. None uses the pipeline's own default.
        clip_range: `train.clip_range`.
        dtype: on a GPU. On a CPU, the default is float32.
    """

    source: str
    learning_rate: float
    guidance: float
    steps: int
    evaluation_steps: int
    lora_rank: int
    lora_alpha: int
    full_learning_rate: float = 1e-5
    size: int | None = None
    clip_range: float = 1e-4
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Family:
    """How pipelines of one kind are called and trained.

    Attributes:
        name: shown in reports.
        pipelines: names of diffusers classes.
        defaults: of the configuration.
        few_steps: the usual number of steps of a distilled checkpoint; None if the family has none. Such checkpoints
            are sampled without guidance.
        guidance: the argument of `__call__` that `sample.guidance` is passed as.
        unguided: the value of that argument that switches guidance off, so that each step calls the denoiser once per
            image. None if the scale is an input of the model, which then cannot be switched off.
        lora_targets: endings of the names of the layers that get a LoRA by default, except `lora_excluded`.
        call: further arguments of `__call__`, which sample.call overrides. A text is passed once per prompt.
        note: what is unusual about the guidance, for `stepcredit doctor`; may be empty.
    """

    name: str
    pipelines: tuple[str, ...]
    defaults: Defaults
    few_steps: int | None = None
    guidance: str = "guidance_scale"
    unguided: float | None = 1.0
    lora_targets: tuple[str, ...] = ATTENTION
    call: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def defaults_of(self, distilled: bool) -> Defaults:
        """The defaults of a checkpoint of the family."""
        if not distilled or self.few_steps is None:
            return self.defaults
        guidance = self.defaults.guidance if self.unguided is None else self.unguided
        steps = self.few_steps
        return replace(self.defaults, steps=steps, evaluation_steps=steps, guidance=guidance)

    def unguided_call(self, call: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `__call__` that leave only the conditional prediction of `call`."""
        kept = {name: value for name, value in call.items() if not name.startswith("negative_prompt")}
        if "true_cfg_scale" in kept:
            kept["true_cfg_scale"] = 1.0
        return kept if self.unguided is None else {**kept, self.guidance: self.unguided}


_DDPO = "DDPO (kvablack/ddpo-pytorch, config/base.py and dgx.py); steps as in CoCA (arXiv 2505.19196)"
_FLOW_GRPO = "Flow-GRPO (yifan123/flow_grpo, config/grpo.py)"
_FLOW_FACTORY = "Flow-Factory (X-GenGroup/Flow-Factory, examples/grpo/lora)"
_LIKE_SD3 = "not published; the values of SD 3.5 with the guidance and steps of the pipeline"
_LIKE_FLUX = "not published; the values of FLUX.1 with the guidance of the pipeline"

_SD3 = Defaults(
    source=f"{_FLOW_GRPO}, pickscore_sd3",
    learning_rate=3e-4,
    guidance=4.5,
    steps=10,
    evaluation_steps=40,
    lora_rank=32,
    lora_alpha=64,
    size=512,
)
_FLUX = Defaults(
    source=f"{_FLOW_GRPO}, pickscore_flux",
    learning_rate=3e-4,
    guidance=3.5,
    steps=6,
    evaluation_steps=28,
    lora_rank=64,
    lora_alpha=128,
    size=512,
)
_QWEN_IMAGE = replace(_FLUX, source=f"{_FLOW_GRPO}, pickscore_qwenimage", guidance=4.0, steps=10, evaluation_steps=50)
_CAUTIOUS = Defaults(
    source="not published; guidance and steps of the pipeline, and a learning rate below that of DDPO",
    learning_rate=3e-5,
    guidance=4.5,
    steps=20,
    evaluation_steps=20,
    lora_rank=16,
    lora_alpha=16,
)

GENERIC = Family(
    "generic", (), replace(_CAUTIOUS, source="unknown class; values that suit many models, with a low learning rate")
)

FAMILIES = (
    Family(
        "sd",
        ("StableDiffusionPipeline",),
        Defaults(
            source=_DDPO,
            learning_rate=1e-4,
            full_learning_rate=3e-5,
            guidance=5.0,
            steps=50,
            evaluation_steps=50,
            lora_rank=4,
            lora_alpha=4,
            dtype="float16",
        ),
        few_steps=4,
    ),
    Family(
        "sdxl",
        ("StableDiffusionXLPipeline",),
        replace(_CAUTIOUS, guidance=5.0, steps=30, evaluation_steps=30),
        few_steps=4,
    ),
    Family("sd3", ("StableDiffusion3Pipeline",), _SD3, few_steps=4, lora_targets=JOINT_ATTENTION),
    Family(
        "flux",
        ("FluxPipeline",),
        _FLUX,
        few_steps=4,
        unguided=None,
        lora_targets=JOINT_ATTENTION,
        note="the guidance scale is an input of the model, 3.5 by default (schnell ignores it); for classifier-free "
        "guidance set true_cfg_scale and negative_prompt in sample.call",
    ),
    Family(
        "chroma",
        ("ChromaPipeline",),
        replace(_FLUX, source=_LIKE_FLUX, guidance=5.0, steps=10, evaluation_steps=35),
        lora_targets=JOINT_ATTENTION,
    ),
    Family(
        "flux2",
        ("Flux2Pipeline",),
        replace(_FLUX, source=f"{_FLOW_FACTORY}; guidance of the pipeline", guidance=4.0, steps=10),
        unguided=None,
        lora_targets=FUSED_ATTENTION,
        note="the guidance scale is an input of the model, 4 by default",
    ),
    Family(
        "flux2_klein",
        ("Flux2KleinPipeline",),
        replace(_FLUX, source=f"{_FLOW_FACTORY}, flux2_klein_base", guidance=4.0, steps=8, size=384),
        few_steps=4,
        lora_targets=FUSED_ATTENTION,
        note="distilled checkpoints (is_distilled) ignore the guidance scale",
    ),
    Family(
        "qwen_image",
        ("QwenImagePipeline",),
        _QWEN_IMAGE,
        few_steps=4,
        guidance="true_cfg_scale",
        lora_targets=JOINT_ATTENTION,
        call={"negative_prompt": " "},
        note="guidance is true_cfg_scale and needs a negative prompt; the guided prediction is rescaled to the norm "
        "of the conditional one",
    ),
    Family(
        "qwen_image_2.1",
        ("QwenImage21Pipeline",),
        replace(_QWEN_IMAGE, source="not published; the values of Qwen-Image"),
        guidance="true_cfg_scale",
        call={"negative_prompt": " ", "use_kv_cache": False},
        note="guidance is true_cfg_scale and needs a negative prompt; the key-value cache between steps is off, so "
        "that each step can be replayed alone; images have an alpha channel and are put on a white background",
    ),
    Family(
        "z_image",
        ("ZImagePipeline",),
        replace(_FLUX, source=f"{_FLOW_FACTORY}, z_image", guidance=4.0, steps=10, evaluation_steps=40),
        few_steps=8,
        unguided=0.0,
        note="guidance scale g corresponds to a classifier-free scale of 1 + g, and 0 is off; sample Turbo checkpoints "
        "at 0",
    ),
    Family(
        "hidream",
        ("HiDreamImagePipeline",),
        replace(_CAUTIOUS, guidance=5.0, evaluation_steps=50),
        lora_targets=("to_q", "to_k", "to_v", "to_out"),
        note="the experts of published checkpoints compute without gradients, so these can be sampled but not trained",
    ),
    Family("sana", ("SanaPipeline",), replace(_SD3, source=_LIKE_SD3, evaluation_steps=20, size=None)),
    Family("pixart", ("PixArtSigmaPipeline", "PixArtAlphaPipeline"), _CAUTIOUS),
)


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline, by the names of its class and base classes; `GENERIC` if none is in the table."""
    return find_family(kind.__name__ for kind in type(pipeline).__mro__)


def find_family(classes: Iterable[str]) -> Family:
    """The family of the first of these class names that is in the table, else `GENERIC`."""
    known = {name: family for family in FAMILIES for name in family.pipelines}
    return next((known[name] for name in classes if name in known), GENERIC)
