"""Images whose size is not the one that was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from stepcredit.config import SampleSection
from stepcredit.evaluation.image_size import size_note


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ({"height": 64}, ["height=64", "sample.call.width", "32"]),
        ({"width": 32}, ["width=32", "sample.call.height", "64"]),
        ({"height": 70, "width": 32}, ["height=70", "height 64", "width 32"]),
        ({"height": 70}, ["height=70", "height 64"]),
    ],
)
def test_another_size_is_noted(call: dict[str, Any], parts: list[str]) -> None:
    note = size_note(SampleSection(call=call), 64, 32)
    assert note is not None and [part for part in parts if part not in note] == []


@pytest.mark.parametrize("call", [{}, {"height": 64, "width": 32}, {"height": None}])
def test_the_size_asked_for_is_not_noted(call: dict[str, Any]) -> None:
    assert size_note(SampleSection(call=call), 64, 32) is None
