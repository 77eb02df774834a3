"""The checker's accuracy and log-probabilities for captions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stepcredit.shapes.checker import Checker, accuracy_table, attribute_hits, attribute_log_probs
from stepcredit.shapes.world import ATTRIBUTES

SEEN = {"shape": "circle", "foreground": "red", "background": "blue", "size": "large", "texture": "solid"}
CAPTIONS = ["a large red circle on a blue background", "a striped red square on a blue background", "a cat"]


def seeing(images: Tensor) -> Any:
    """Logits of a checker that predicts SEEN with odds e^2 over each other word, and no position."""
    logits = {name: torch.zeros(len(images), len(words)) for name, words in ATTRIBUTES.items()}
    for name, word in SEEN.items():
        logits[name][:, ATTRIBUTES[name].index(word)] = 2.0
    return logits


def test_logits_per_attribute() -> None:
    torch.manual_seed(0)
    logits = Checker(width=8)(torch.rand(3, 3, 32, 32))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        name: (3, len(words)) for name, words in ATTRIBUTES.items()
    }


def test_hits_cover_mentioned_attributes() -> None:
    hits = attribute_hits(seeing, torch.zeros(3, 3, 32, 32), CAPTIONS)  # type: ignore[arg-type]
    assert hits == [
        {"shape": True, "foreground": True, "background": True, "size": True},
        {"shape": False, "foreground": True, "background": True, "texture": False},
        {},
    ]


def test_log_probs_of_named_words() -> None:
    first, second, other = attribute_log_probs(seeing, torch.zeros(3, 3, 32, 32), CAPTIONS)  # type: ignore[arg-type]
    likely, unlikely = math.exp(2), 1.0
    assert first["shape"] == pytest.approx(math.log(likely / (likely + 3)))
    assert second["shape"] == pytest.approx(math.log(unlikely / (likely + 3)))
    assert second["texture"] == pytest.approx(math.log(unlikely / (likely + 2)))
    assert first.keys() == {"shape", "foreground", "background", "size"} and other == {}


def test_accuracy_per_attribute_and_overall() -> None:
    hits = [{"shape": True, "size": True}, {"shape": False, "size": True}, {"shape": True}, {"shape": True}]
    assert accuracy_table(hits) == {"shape": 0.75, "size": 1.0, "all": 0.75}
    assert accuracy_table([]) == {"all": 0.0}
