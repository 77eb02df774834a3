"""Open a run directory or a model, to sample from it or to evaluate it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.bundled import BUNDLED
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.runs import checkpoint, recipes
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Policy
from stepcredit.utils.paths import expanded


@dataclass(frozen=True)
class Source:
    """A run or a model that is not loaded yet.

    Attributes:
        name: the path or hub id as the user wrote it.
        config: the run's configuration; for a model, the defaults with `model.path` set.
        checkpoint: the newest checkpoint of the run; None for a model.
    """

    name: str
    config: TrainConfig
    checkpoint: Path | None

    @property
    def is_run(self) -> bool:
        return self.checkpoint is not None

    @property
    def prompt_source(self) -> str:
        """The prompts that the run was trained on. Prompts that were passed in Python are in the run directory."""
        saved, recorded = RunDirectory(expanded(self.name)).prompts_path, self.config.prompts.source
        return str(saved) if Path(recorded).name == saved.name and saved.is_file() else recorded

    def load(
        self, *, steps: int | None = None, guidance: float | None = None, safety_checker: bool = False
    ) -> tuple[Policy, TrainConfig]:
        """Load the policy with its newest weights.

        Args:
            steps: denoising steps. None uses those of the run, or of the model's family.
            guidance: guidance scale. None uses that of the run, or of the model's family.
            safety_checker: keep the pipeline's safety checker, if it has one.

        Returns:
            The policy, and the configuration with `steps` and `guidance` set.
        """
        from stepcredit.policy import loading  # diffusers takes seconds to import
        from stepcredit.utils.logging import quiet_libraries

        quiet_libraries()
        changes: dict[str, Any] = {} if guidance is None else {"guidance": guidance}
        if steps is not None:
            changes |= {"steps": steps, "evaluation_steps": None}
        base = self.config if self.is_run else _model_config(self.name)
        config = _with_sampling(base, changes)
        if self.checkpoint is None:
            pipeline = loading.load_pipeline(config.model)
            return loading.make_policy(pipeline, config, safety_checker=safety_checker, trained=False), config
        policy = loading.load_policy(config, safety_checker=safety_checker)
        policy.load_state_dict(checkpoint.load(self.checkpoint).part("policy"))
        return policy, config


def open_source(name: str, purpose: str, *, runs_only: bool = False) -> Source:
    """Open a run directory, or a model given as a hub id, a folder or a bundled name such as `embedded`.

    Args:
        purpose: what the checkpoint is needed for, as error messages write it: "to evaluate".
        runs_only: refuse models.

    Raises:
        InputError: the folder is neither a run nor a pipeline, the run has no checkpoint, or its model is a Python
            object.
    """
    folder = expanded(name)
    if runs_only or (folder / "config.yaml").is_file():
        directory = RunDirectory.open(folder)
        _require_named_model(name, directory.config)
        saved = checkpoint.folders(directory.checkpoint_root)
        if not saved:
            raise InputError(f"{name} holds no checkpoint {purpose}")
        return Source(name, directory.config, saved[-1])
    if len(folder.parts) > 1 and folder.parent.is_dir() and not folder.exists():
        raise InputError(f"there is no folder {name}: give a run directory, a folder of a pipeline, or a hub id")
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise InputError(f"{name} is neither a run (no config.yaml) nor a diffusers pipeline (no model_index.json)")
    return Source(name, recipes.validate({"model": {"path": name}}, "the command line"), None)


def _model_config(path: str) -> TrainConfig:
    """The configuration to sample from a model. Training may use smaller images, so their size is not a default."""
    config = recipes.validate({"model": {"path": path}}, "the command line", model_defaults=True)
    bundled = BUNDLED.get(path)
    best: dict[str, Any] = {"steps": bundled.steps, "guidance": bundled.guidance} if bundled else {"call": {}}
    return _with_sampling(config, best)


def _with_sampling(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    tree = config.model_dump(mode="json")
    return recipes.validate({**tree, "sample": {**tree["sample"], **changes}}, "the arguments")


def _require_named_model(name: str, config: TrainConfig) -> None:
    if "model.path" in config.python_objects:
        raise InputError(
            f"{name} trained a model that a Python program made ({config.model.path}): pass it again in Python, as in "
            f"Trainer(model=..., output_dir={name!r}), and use the methods of the Trainer"
        )
