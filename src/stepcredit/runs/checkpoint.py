"""Checkpoints: a folder of one safetensors file and one JSON file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.utils.files import written_whole

_TENSORS, _STATE = "tensors.safetensors", "state.json"
_POLICY, _CREDIT = "policy.", "credit."


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on after `epoch` finished epochs."""

    epoch: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(root: Path, checkpoint: Checkpoint, keep: int, best: Container[int] = ()) -> Path:
    """Write `root`/epoch_NNNN whole or not at all, then drop all but the newest `keep` and those of the epochs `best`.

    Raises OSError, and leaves the checkpoints that are there, if it cannot be written.
    """
    target = root / f"epoch_{checkpoint.epoch:04d}"
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in checkpoint.tensors.items()}
    with written_whole(target) as folder:
        save_file(tensors, folder / _TENSORS)
        digest = _digest(folder / _TENSORS)
        body = {"epoch": checkpoint.epoch, "tensors_sha256": digest, "state": checkpoint.state}
        (folder / _STATE).write_text(json.dumps(body | {"sha256": _seal(body)}))
    for old in found(root)[:-keep]:
        if epoch_of(old) not in best:
            shutil.rmtree(old)
    return target


def found(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    numbered = {path.name.removeprefix("epoch_"): path for path in root.glob("epoch_*") if path.is_dir()}
    return [numbered[digits] for digits in sorted(filter(str.isdecimal, numbered), key=int)]


def epoch_of(folder: Path) -> int:
    """The epoch that a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("epoch_"))


def newest_sound(root: Path, told: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is not damaged; None if there is none at all.

    One that is damaged is told of and renamed to `damaged_epoch_NNNN`, once a sound one is found before it.

    Raises:
        InputError: all of them are damaged.
    """
    damaged: list[tuple[Path, InputError]] = []
    for folder in reversed(found(root)):
        try:
            saved = load(folder)
        except InputError as error:
            damaged.append((folder, error))
            continue
        for other, complaint in damaged:
            set_aside = root / f"damaged_{other.name}"
            shutil.rmtree(set_aside, ignore_errors=True)
            other.rename(set_aside)
            told(f"{complaint}; put aside as {set_aside.name}, going back to {folder.name}")
        return folder, saved
    if damaged:
        before = ", as is every one before it" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0][1]}{before}")
    return None


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint; InputError naming the folder if it is incomplete or damaged."""
    for name in (_STATE, _TENSORS):
        if not (folder / name).is_file():  # a pipe or a device could be read for ever
            raise InputError(f"checkpoint {folder} is damaged: it has no file {name}")
    try:
        body = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        for name, sound in (
            (_STATE, body.pop("sha256") == _seal(body)),
            (_TENSORS, body["tensors_sha256"] == _digest(folder / _TENSORS)),
        ):
            if not sound:
                raise InputError(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        _require_types(body)
        # Version 0.1 wrote "optimiser.".
        tensors = {
            name.replace("optimiser.", "optimizer."): value for name, value in load_file(folder / _TENSORS).items()
        }
        return Checkpoint(body["epoch"], tensors, body["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"checkpoint {folder} is damaged: {type(error).__name__}: {error}") from error


def as_policy_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The policy's weights under the names that they have in a checkpoint."""
    return _within(_POLICY, weights)


def policy_tensors(saved: Checkpoint) -> dict[str, Tensor]:
    """The policy's weights in a checkpoint, under the policy's own names."""
    return _of(_POLICY, saved)


def as_credit_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a credit rule has learned, under the names that it has in a checkpoint."""
    return _within(_CREDIT, state)


def credit_tensors(saved: Checkpoint) -> dict[str, Tensor]:
    """What the credit rule had learned, under the rule's own names; empty for a rule that learns nothing."""
    return _of(_CREDIT, saved)


def optimizer_part(saved: Checkpoint) -> dict[str, Tensor]:
    """What `optimizer_tensors` gave, as it is in a checkpoint."""
    return {name: value for name, value in saved.tensors.items() if name.startswith("optimizer.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `optimizer.<parameter index>.<name>`."""
    return {
        f"optimizer.{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; hyper-parameters stay those of `optimizer`, that is, of the config."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _within(owner: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{owner}{name}": value for name, value in tensors.items()}


def _of(owner: str, saved: Checkpoint) -> dict[str, Tensor]:
    return {name.removeprefix(owner): value for name, value in saved.tensors.items() if name.startswith(owner)}


def _require_types(body: dict[str, Any]) -> None:
    epoch, state = body["epoch"], body["state"]
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0 or not isinstance(state, dict):
        raise TypeError("epoch is no whole number, or state no mapping")


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
