"""A run or a model, as the commands that only use one are given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.runs import checkpoint, recipes
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Policy


@dataclass(frozen=True)
class Source:
    """A run or a model, not loaded yet.

    Attributes:
        name: as it was given.
        config: of the run; of a model, how it is loaded.
        weights: the newest checkpoint of the run; None for a model.
    """

    name: str
    config: TrainConfig
    weights: Path | None

    @property
    def trained(self) -> bool:
        return self.weights is not None

    def load(self, asked: Mapping[str, float | None], *, safety_checker: bool = False) -> tuple[Policy, TrainConfig]:
        """The policy with its weights, and its configuration with the `steps` and `guidance` asked for.

        Args:
            asked: by default, and where None, those of the run; for a model, its usual ones.
            safety_checker: keep the model's own, where it has one.
        """
        from stepcredit.policy import loading  # diffusers takes longest to import
        from stepcredit.utils.logging import quiet_libraries

        quiet_libraries()
        asked = {key: value for key, value in asked.items() if value is not None}

        if self.weights is None:
            pipeline = loading.load_pipeline(self.config.model)
            config = self._sampling({**loading.usual_sampling(pipeline, self.name), **asked})
            return loading.make_policy(pipeline, config, safety_checker=safety_checker), config
        config = self._sampling({**asked, **({"evaluation_steps": None} if "steps" in asked else {})})
        policy = loading.load_policy(config, safety_checker=safety_checker)
        policy.load_state_dict(checkpoint.policy_tensors(checkpoint.load(self.weights)))
        return policy, config

    def _sampling(self, changed: Mapping[str, Any]) -> TrainConfig:
        return self.config.model_copy(update={"sample": self.config.sample.model_copy(update=dict(changed))})


def open_source(name: str, purpose: str) -> Source:
    """The run in a folder, or a model by hub id, folder or `embedded`.

    Args:
        purpose: what its checkpoint is for, as in "to evaluate".

    Raises:
        InputError: the folder is neither, or the run holds no checkpoint.
    """
    folder = Path(name)
    if (folder / "config.yaml").is_file():
        directory = RunDirectory.open(folder)
        saved = checkpoint.found(directory.checkpoint_root)
        if not saved:
            raise InputError(f"{name} holds no checkpoint {purpose}")
        return Source(name, directory.config, saved[-1])
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise InputError(f"{name} is neither a run (no config.yaml) nor a diffusers pipeline (no model_index.json)")
    return Source(name, recipes.validate({"model": {"path": name}}, purpose.removeprefix("to ")), None)
