"""Checkpoint files: one folder with one safetensors file and one JSON file, written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.utils.files import written_whole
from stepcredit.utils.state_dict import strip_prefix

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume after `epoch` finished epochs.

    Attributes:
        epoch: number of finished epochs.
        tensors: tensors by name. The names start with `policy.`, `optimizer.` or `credit.`.
        state: everything else, as JSON values.
    """

    epoch: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of `policy`, `optimizer` or `credit`, without that prefix."""
        return strip_prefix(f"{name}.", self.tensors)


def save(root: Path, checkpoint: Checkpoint, keep: int, best: Container[int] = ()) -> Path:
    """Write `root`/epoch_NNNN, then delete the checkpoints that are neither among the newest `keep` nor in `best`.

    Args:
        best: epochs whose checkpoints are kept.

    Raises:
        OSError: it cannot be written. The existing checkpoints stay.
    """
    target = root / f"epoch_{checkpoint.epoch:04d}"
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in checkpoint.tensors.items()}
    with written_whole(target) as folder:
        save_file(tensors, folder / _TENSORS)
        digest = _file_digest(folder / _TENSORS)
        body = {"epoch": checkpoint.epoch, "tensors_sha256": digest, "state": checkpoint.state}
        (folder / _STATE).write_text(json.dumps(body | {"sha256": _json_digest(body)}))
    for old in folders(root)[:-keep]:
        if epoch_of(old) not in best:
            shutil.rmtree(old)
    return target


def folders(root: Path) -> list[Path]:
    """The checkpoint folders in `root`, oldest first."""
    by_digits = {path.name.removeprefix("epoch_"): path for path in root.glob("epoch_*") if path.is_dir()}
    return [by_digits[digits] for digits in sorted(filter(str.isdecimal, by_digits), key=int)]


def epoch_of(folder: Path) -> int:
    """The epoch in the name of a checkpoint folder."""
    return int(folder.name.removeprefix("epoch_"))


def load_newest(root: Path, note: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is not damaged, with its folder. None if there are no checkpoints.

    Damaged checkpoints that are newer are renamed to `damaged_epoch_NNNN`.

    Args:
        note: called with one line for each damaged checkpoint.

    Raises:
        InputError: all checkpoints are damaged. None is renamed.
    """
    damaged: list[tuple[Path, InputError]] = []
    for folder in reversed(folders(root)):
        try:
            loaded = load(folder)
        except InputError as error:
            damaged.append((folder, error))
            continue
        for other, reason in damaged:
            renamed = root / f"damaged_{other.name}"
            shutil.rmtree(renamed, ignore_errors=True)
            other.rename(renamed)
            note(f"{reason}; renamed to {renamed.name}, resuming from {folder.name}")
        return folder, loaded
    if damaged:
        others = ", and so are all older ones" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0][1]}{others}")
    return None


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: it is incomplete or damaged. The message names the folder.
    """
    for name in (_STATE, _TENSORS):
        if not (folder / name).is_file():  # reading a pipe or a device might never end
            raise InputError(f"checkpoint {folder} is damaged: it has no file {name}")
    try:
        body = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        for name, intact in (
            (_STATE, body.pop("sha256") == _json_digest(body)),
            (_TENSORS, body["tensors_sha256"] == _file_digest(folder / _TENSORS)),
        ):
            if not intact:
                raise InputError(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        _require_types(body)
        tensors = load_file(folder / _TENSORS)
        # Version 0.1 wrote "optimiser.".
        tensors = {name.replace("optimiser.", "optimizer."): value for name, value in tensors.items()}
        return Checkpoint(body["epoch"], tensors, body["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"checkpoint {folder} is damaged: {type(error).__name__}: {error}") from error


def _require_types(body: dict[str, Any]) -> None:
    epoch, state = body["epoch"], body["state"]
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0 or not isinstance(state, dict):
        raise TypeError("`epoch` must be a non-negative integer and `state` an object")


def _json_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
