"""The toy policy behind the command line, in an empty working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.toy_policy import ToyPolicy

from stepcredit.config import TrainConfig


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def toy(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[ToyPolicy]:
    """Every model is the toy policy; those that were loaded, in order."""
    loaded: list[ToyPolicy] = []

    def load_policy(config: TrainConfig, **_: bool) -> ToyPolicy:
        loaded.append(ToyPolicy(config.sample.steps))
        return loaded[-1]

    index = {"_class_name": "StableDiffusionPipeline"}
    monkeypatch.setattr("stepcredit.runs.model_defaults.read_model_index", lambda _: index)
    monkeypatch.setattr("stepcredit.policy.loading.load_policy", load_policy)
    monkeypatch.setattr("stepcredit.policy.loading.make_policy", lambda pipeline, config, **_: load_policy(config))
    return loaded
