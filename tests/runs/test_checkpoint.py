"""A checkpoint is whole or it is refused, and a run goes on from it as if nothing had happened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepcredit.errors import InputError
from stepcredit.runs import checkpoint
from stepcredit.runs.checkpoint import Checkpoint

STATE = {"queries": 64, "mean": 0.1 + 0.2, "names": ["a", "ü"], "none": None, "nested": {"1": [1.5, 2]}}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 6, generator=generator)
    return {
        "wide": wide,
        "turned": wide.T,
        "view": wide[1],
        "half": wide.bfloat16(),
        "scalar": torch.tensor(3.0),
        "trained": nn.Parameter(wide.clone()),
    }


def saved(root: Path, epoch: int, keep: int = 9, value: float = 0.0) -> Path:
    return checkpoint.save(root, Checkpoint(epoch, {"value": torch.tensor([value])}, {}), keep)


def epochs(root: Path) -> list[int]:
    return [checkpoint.load(folder).epoch for folder in checkpoint.folders(root)]


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    given = tensors()
    folder = checkpoint.save(tmp_path / "new" / "root", Checkpoint(7, given, STATE), keep=1)
    assert folder == tmp_path / "new" / "root" / "epoch_0007"
    back = checkpoint.load(folder)
    assert (back.epoch, back.state) == (7, STATE)
    assert back.tensors.keys() == given.keys()
    for name, value in back.tensors.items():
        assert value.dtype == given[name].dtype and torch.equal(value, given[name]), name


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "bit flipped at every place", "emptied", "removed"])
def test_a_damaged_file_is_refused_naming_the_folder(name: str, damage: str, tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, Checkpoint(2, {"value": torch.arange(4.0)}, {"mean": 0.25}), keep=1)
    whole = (folder / name).read_bytes()
    if damage == "removed":
        (folder / name).unlink()
        contents = [None]
    elif damage == "bit flipped at every place":
        contents = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    else:
        contents = [whole[: len(whole) // 2] if damage == "truncated" else b""]
    for content in contents:
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(InputError) as refused:
            checkpoint.load(folder)
        assert str(refused.value).startswith(f"checkpoint {folder} is damaged: ")
        assert "\n" not in str(refused.value)


def test_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    for text in ("[]", "3", "{}", '{"sha256": 1}'):
        (folder / "state.json").write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            checkpoint.load(folder)


def test_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    for epoch in (8, 9, 10, 11):
        saved(tmp_path, epoch, keep=3)
    assert epochs(tmp_path) == [9, 10, 11]
    saved(tmp_path, 9_999, keep=2)
    saved(tmp_path, 10_000, keep=2)
    assert epochs(tmp_path) == [9_999, 10_000]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "epoch_0001_mine").mkdir()
    (tmp_path / ".partial_epoch_0009").mkdir()
    saved(tmp_path, 1, keep=1)
    saved(tmp_path, 2, keep=1)
    assert epochs(tmp_path) == [2]
    assert (tmp_path / "epoch_0001_mine").is_dir()


def test_what_an_interrupted_save_left_is_overwritten(tmp_path: Path) -> None:
    left = tmp_path / ".partial_epoch_0001"
    left.mkdir()
    (left / "tensors.safetensors").write_text("half")
    (left / "stray").write_text("")
    assert sorted(path.name for path in saved(tmp_path, 1).iterdir()) == ["state.json", "tensors.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0001"]


def test_an_epoch_can_be_saved_again(tmp_path: Path) -> None:
    saved(tmp_path, 1, value=1.0)
    folder = saved(tmp_path, 1, value=2.0)
    assert checkpoint.load(folder).tensors["value"].item() == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0001"]


@pytest.mark.parametrize(
    "failing",
    ["stepcredit.runs.checkpoint.save_file", "stepcredit.runs.checkpoint._file_digest", "stepcredit.utils.files.sync"],
)
def test_a_save_that_fails_leaves_the_checkpoints_before_it(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1, keep=1)
    saved(tmp_path, 2, keep=1, value=5.0)

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(failing, full)
        for epoch in (2, 3):
            with pytest.raises(OSError, match="No space left"):
                saved(tmp_path, epoch, keep=1)
    assert epochs(tmp_path) == [2] and len(list(tmp_path.iterdir())) == 1
    assert checkpoint.load(checkpoint.folders(tmp_path)[0]).tensors["value"].item() == 5.0


def test_no_checkpoints_where_there_is_no_folder(tmp_path: Path) -> None:
    assert checkpoint.folders(tmp_path / "nowhere") == []


def test_a_copied_checkpoint_loads(tmp_path: Path) -> None:
    copy = shutil.copytree(saved(tmp_path, 3, value=4.0), tmp_path / "elsewhere")
    assert checkpoint.load(Path(copy)).tensors["value"].item() == 4.0
