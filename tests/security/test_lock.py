"""The lock file: every package from one registry, every file of it pinned by its hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
REGISTRY = "https://pypi.org/simple"
FILES = "https://files.pythonhosted.org/packages/"


def packages() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return found


def complaints(package: dict[str, Any]) -> list[str]:
    """What is wrong with where a locked package comes from."""
    if package["source"] == {"editable": "."}:
        return []
    name = f"{package['name']} {package.get('version')}"
    if package["source"] != {"registry": REGISTRY}:
        return [f"{name} comes from {package['source']}"]
    files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    wrong = [file["url"] for file in files if not file["url"].startswith(FILES)]
    bare = [file["url"] for file in files if not re.fullmatch("sha256:[0-9a-f]{64}", file.get("hash", ""))]
    none = [] if files else [f"{name} has no files"]
    return [*none, *(f"{url} is elsewhere" for url in wrong), *(f"{url} has no hash" for url in bare)]


def test_every_package_is_of_one_registry_and_every_file_has_its_hash() -> None:
    found = packages()
    assert len(found) > 50
    assert [line for package in found for line in complaints(package)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"git": "https://example.org/x"}},
        {"source": {"url": "https://example.org/x.whl"}},
        {"source": {"registry": "http://pypi.org/simple"}},
        {"wheels": [], "sdist": {"url": FILES + "x.tar.gz"}},
        {"wheels": [{"url": FILES + "x.whl", "hash": "md5:" + "0" * 32}]},
        {"wheels": [{"url": "https://example.org/x.whl", "hash": "sha256:" + "0" * 64}]},
        {"wheels": []},
    ],
    ids=str,
)
def test_the_rule_sees_another_source(change: dict[str, Any]) -> None:
    sound = {"name": "x", "version": "1", "source": {"registry": REGISTRY}}
    sound["wheels"] = [{"url": FILES + "x.whl", "hash": "sha256:" + "0" * 64}]
    assert complaints(sound) == []
    assert complaints(sound | change)
