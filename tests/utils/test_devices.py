"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from stepcredit.errors import InputError
from stepcredit.utils.devices import find_device


@pytest.mark.parametrize("name", ["mps", "xpu", "mps:0", "xpu:3", "cuda", "hpu", "meta", "mtia", "privateuseone"])
def test_a_device_that_this_machine_lacks_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(InputError) as raised:
        find_device(name, "model.device")
    message = str(raised.value)
    assert f"'{name}'" in message and "model.device" in message and "cpu" in message and "\n" not in message


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_other_accelerators_are_used_where_torch_has_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = torch.zeros
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda size, device: zeros(size))
    assert find_device(kind, "model.device") == torch.device(kind)
    assert find_device(f"{kind}:1", "model.device") == torch.device(kind, 1)
    with pytest.raises(InputError, match="2"):
        find_device(f"{kind}:2", "model.device")
    with pytest.raises(InputError, match=kind):
        find_device("cuda", "model.device")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "CUDA", "npu:-1"])
def test_a_name_that_is_no_device_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match="expected auto, cpu, cuda"):
        find_device(name, "device")
