"""The versions that a recorded result depends on."""

from __future__ import annotations

import platform
from typing import Any

from stepcredit.runs.directory import package_versions


def build_versions() -> dict[str, str | None]:
    """`package_versions`, with the build of torch: `2.15.0+cpu` and `2.15.0+cu132` may give different numbers."""
    import torch  # takes seconds to import

    return {**package_versions(), "torch": str(torch.__version__)}


def result_versions() -> dict[str, Any]:
    """What a file of results says about the installation that made it.

    Returns:
        `packages`, see `build_versions`; `python`; `platform`; `cpu_capability`, the vector instructions that torch
        uses, such as AVX2; and `cuda`, the CUDA version of torch's build, None without CUDA.
    """
    import torch

    return {
        "packages": build_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
    }


def versions_text(versions: dict[str, Any]) -> str:
    """One line of `result_versions`."""
    packages = ", ".join(f"{name} {version}" for name, version in versions["packages"].items() if version)
    return f"{packages}; python {versions['python']}; {versions['platform']}, {versions['cpu_capability']}"
