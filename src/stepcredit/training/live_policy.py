"""The policy that a Trainer keeps in memory: loaded once, then trained, sampled from and exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.policy import loading
from stepcredit.policy.adapters import denoiser_name
from stepcredit.policy.adapters.full import is_trained
from stepcredit.policy.export.formats import export_format, write
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.runs import checkpoint
from stepcredit.shapes import pipeline as shapes
from stepcredit.types import Policy
from stepcredit.utils.logging import library_logging_restored, quiet_libraries


class LivePolicy:
    """Loads a policy when it is first needed, and restores checkpoints into it.

    Args:
        model: a pipeline or a policy; None loads the model that the configuration names.

    Attributes:
        checkpoint: the checkpoint that `restore` has read the weights from.
    """

    def __init__(self, model: Any = None) -> None:
        self._model = model
        self._policy: Policy | None = None
        self._pipeline: DiffusionPipeline | None = None  # with the safety checker, which training leaves out
        self.checkpoint: Path | None = None

    def load(self, config: TrainConfig) -> Policy:
        """The policy, with whatever weights it has now."""
        if self._policy is None:
            with library_logging_restored():
                quiet_libraries()
                self._policy = self._load(config)
        return self._policy

    def restore(self, config: TrainConfig, checkpoints: Path) -> Policy:
        """The policy with the weights of the newest checkpoint, or of the base model if there is none."""
        policy = self.load(config)
        saved = checkpoint.folders(checkpoints)
        if saved and saved[-1] != self.checkpoint:
            policy.load_state_dict(checkpoint.load(saved[-1]).part("policy"))
            self.checkpoint = saved[-1]
        return policy

    def forget_checkpoint(self) -> None:
        """Training has changed the weights: `restore` reads them from the checkpoint again."""
        self.checkpoint = None

    def sampler(self, config: TrainConfig, *, safety_checker: bool = True) -> Policy:
        """The loaded policy, sampling as `config.sample` says.

        Args:
            safety_checker: whether to use the pipeline's safety checker, if it has one.
        """
        policy = self.load(config)
        if not isinstance(policy, PipelinePolicy):
            return policy
        pipeline = (safety_checker and self._pipeline) or policy.pipeline
        return PipelinePolicy(pipeline, policy.adapter, config.sample, shapes.CALL.get(config.model.path))

    def export(self, config: TrainConfig, form: str, folder: Path) -> Path:
        """Write the weights in an export format; the policy can be trained on afterwards.

        Raises:
            InputError: the format is unknown or cannot hold this model.
        """
        policy, form = self.load(config), export_format(form)
        if not isinstance(policy, PipelinePolicy):
            if form not in ("lora", "diffusers"):
                raise InputError(f"format '{form}' needs a diffusers pipeline, but the model is a {_kind(policy)}")
            return policy.export(folder)
        pipeline = self._pipeline or policy.pipeline
        adapter = policy.adapter
        if form == "merged":  # it changes the weights, so it gets a copy of the denoiser
            shared = {id(part): part for name, part in pipeline.components.items() if name != policy.denoiser}
            pipeline, adapter = copy.deepcopy((pipeline, adapter), shared)
        return write(pipeline, adapter, form, folder)

    def _load(self, config: TrainConfig) -> Policy:
        pipeline = self._model
        if pipeline is None:
            pipeline = loading.load_pipeline(config.model)
        elif isinstance(pipeline, DiffusionPipeline):
            loading.require_text_to_image(pipeline)
            _require_base_model(pipeline)
        else:
            policy: Policy = self._model
            return policy
        self._pipeline = pipeline
        return loading.make_policy(copy.copy(pipeline), config)


def _require_base_model(pipeline: DiffusionPipeline) -> None:
    """Refuse weights that are not there, or already being trained: the untrained ones are gone then."""
    name = denoiser_name(pipeline)
    if any(weight.is_meta for weight in getattr(pipeline, name).parameters()):
        raise InputError(
            f"the weights of the {name} of this {_kind(pipeline)} are not in memory: load the pipeline "
            "again without sequential offloading"
        )
    if is_trained(getattr(pipeline, name)):
        raise InputError(
            f"another Trainer has trained the {name} of this {_kind(pipeline)} with model.adapter=full: use that "
            "Trainer, or load the pipeline again"
        )
    if getattr(getattr(pipeline, name), "peft_config", None):
        unload = "call pipeline.unload_lora_weights(), or " if hasattr(pipeline, "unload_lora_weights") else ""
        raise InputError(f"the {name} of this {_kind(pipeline)} already has a LoRA: {unload}load the pipeline again")


def _kind(value: object) -> str:
    return type(value).__name__
