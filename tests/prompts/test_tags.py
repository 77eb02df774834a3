"""Tags of prompts."""

from __future__ import annotations

from typing import Any

import pytest

from stepcredit.prompts.tags import rows_by_tag, tag_of
from stepcredit.types import Prompt


@pytest.mark.parametrize(
    ("metadata", "tag"),
    [
        ({"tag": "counting"}, "counting"),
        ({"tag": "counting", "include": []}, "counting"),
        ({}, None),
        ({"tag": ""}, None),
        ({"tag": " "}, None),
        ({"tag": 3}, None),
        ({"tag": ["counting"]}, None),
        ({"tag": "half \ud83d"}, "half \\ud83d"),
    ],
)
def test_only_a_string_is_a_tag(metadata: dict[str, Any], tag: str | None) -> None:
    assert tag_of(Prompt("two cats", metadata)) == tag


def test_rows_of_each_tag_in_order_of_appearance() -> None:
    tags = ["b", None, "a", "b"]
    assert rows_by_tag([Prompt("x", {"tag": tag} if tag else {}) for tag in tags]) == {"b": [0, 3], "a": [2]}
