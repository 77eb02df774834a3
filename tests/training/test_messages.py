"""What a run says about settings that were made for another model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.tiny import tiny_policy

from stepcredit.config import TrainConfig
from stepcredit.training import messages


def note(path: str = "model", adapter: str = "lora", **train: Any) -> str | None:
    config = TrainConfig.model_validate({"model": {"path": path, "adapter": adapter}, "train": train})
    loop: Any = SimpleNamespace(config=config, parts=SimpleNamespace(policy=tiny_policy()))
    return messages.unusual_settings(loop)


def test_values_of_another_model_are_named_with_the_defaults() -> None:
    """The defaults of the configuration are those of the bundled models."""
    assert note() == (
        "note: train.learning_rate is 0.012 and train.clip_range is 0.01, far above the default of the model's family: "
        "train.learning_rate=0.0001 train.clip_range=0.0001"
    )
    assert note("embedded") is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 3e-4, "clip_range": 5e-4}, []),
        ({"learning_rate": 3e-4, "clip_range": 0.2}, ["clip_range is 0.2"]),
        ({"learning_rate": 3e-4, "clip_range": 0.2, "algorithm": "matching"}, []),
        ({"learning_rate": 2e-3, "clip_range": 1e-4, "adapter": "full"}, ["learning_rate=3e-05"]),
    ],
)
def test_only_what_is_far_off_is_named(settings: dict[str, Any], named: list[str]) -> None:
    said = note(**settings)
    assert (said is not None) == bool(named)
    assert all(part in (said or "") for part in named)
