"""The versions that results are recorded with."""

from __future__ import annotations

import json
import platform

import pytest
import torch

from stepcredit.runs import versions
from stepcredit.runs.directory import package_versions


def test_every_package_that_affects_numbers_is_recorded_with_the_build_of_torch() -> None:
    found = json.loads(json.dumps(versions.result_versions()))
    assert found["packages"] == {**package_versions(), "torch": torch.__version__}
    assert {"stepcredit", "torch", "diffusers", "transformers", "peft", "numpy"} <= found["packages"].keys()
    assert (found["python"], found["platform"]) == (platform.python_version(), platform.platform())
    assert found["cuda"] == torch.version.cuda and found["cpu_capability"]


def test_two_builds_of_one_version_of_torch_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []
    for build in ("2.15.0+cpu", "2.15.0+cu132"):
        monkeypatch.setattr(torch, "__version__", build)
        builds.append(versions.build_versions())
    assert builds[0] != builds[1]


def test_the_line_names_every_installed_package() -> None:
    text = versions.versions_text(versions.result_versions() | {"packages": {"torch": "2.15.0+cpu", "peft": None}})
    assert "torch 2.15.0+cpu" in text and platform.python_version() in text and "peft" not in text
