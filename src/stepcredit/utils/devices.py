"""Devices by name."""

from __future__ import annotations

import torch

from stepcredit.errors import InputError, shortened

EXPECTED = "auto, cpu, cuda, xpu or mps, or one of several, such as cuda:1"


def find_device(name: str, key: str) -> torch.device:
    """The device called `name`; `auto` is CUDA if available, else the CPU.

    Args:
        key: what errors call the setting, such as `model.device`.

    Raises:
        InputError: torch has no device of that name, or has none on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{key} is {name!r}, expected {EXPECTED}") from error
    if device.type != "cpu":
        _require_accelerator(device, name, key)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"{key} is '{name}', which cannot be used here: {shortened(str(error))}") from error
    return device


def _require_accelerator(device: torch.device, name: str, key: str) -> None:
    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = device.type.upper()
    if present is None or device.type != present.type:
        others = "cpu" if present is None else f"cpu and {present.type}"
        raise InputError(f"{key} is '{name}' but this machine has no {kind} device for torch, only {others}")
    count = torch.accelerator.device_count()
    if (device.index or 0) >= count:
        raise InputError(f"{key} is '{name}' but this machine has {count} {kind} devices, numbered from 0")
