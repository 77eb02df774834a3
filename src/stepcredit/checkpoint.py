"""Checkpoints: a folder of one safetensors file and one JSON file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepcredit.errors import InputError

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on after `epoch` finished epochs."""

    epoch: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(root: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `root`/epoch_NNNN through a temporary folder and a rename, then drop all but the newest `keep`."""
    target = root / f"epoch_{checkpoint.epoch:04d}"
    partial = root / f".partial_{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in checkpoint.tensors.items()}
    save_file(tensors, partial / _TENSORS)
    digest = _digest(partial / _TENSORS)
    body = {"epoch": checkpoint.epoch, "tensors_sha256": digest, "state": checkpoint.state}
    (partial / _STATE).write_text(json.dumps(body | {"sha256": _seal(body)}))
    for path in (partial / _TENSORS, partial / _STATE, partial):
        _sync(path)
    replaced = root / f".replaced_{target.name}"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    _sync(root)
    shutil.rmtree(replaced, ignore_errors=True)
    for old in found(root)[:-keep]:
        shutil.rmtree(old)
    return target


def found(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    numbered = {path.name.removeprefix("epoch_"): path for path in root.glob("epoch_*")}
    return [numbered[digits] for digits in sorted(filter(str.isdecimal, numbered), key=int)]


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint; InputError naming the folder if it is incomplete or damaged."""
    try:
        body = json.loads((folder / _STATE).read_text())
        for name, sound in (
            (_STATE, body.pop("sha256") == _seal(body)),
            (_TENSORS, body["tensors_sha256"] == _digest(folder / _TENSORS)),
        ):
            if not sound:
                raise InputError(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        return Checkpoint(body["epoch"], load_file(folder / _TENSORS), body["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"checkpoint {folder} is damaged: {error}") from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as `optimiser.<parameter index>.<name>`."""
    return {
        f"optimiser.{index}.{name}": value
        for index, entries in optimiser.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave; hyper-parameters stay those of `optimiser`, that is, of the config."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
