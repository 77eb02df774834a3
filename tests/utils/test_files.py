"""A folder is there whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from stepcredit.utils import files
from stepcredit.utils.files import locked, sweep, write_atomically, written_whole


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(target: Path, text: str) -> None:
    with written_whole(target) as folder:
        assert folder != target
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text(text)


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    write(target, "old")
    (target / "stray").touch()
    write(target, "new")
    assert names(tmp_path) == ["new", "new/target", "new/target/sub", "new/target/sub/file"]
    assert (target / "sub" / "file").read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ZeroDivisionError])
def test_what_fails_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    write(tmp_path / "target", "old")
    before = names(tmp_path)

    def fail() -> None:
        with written_whole(tmp_path / "target") as folder:
            (folder / "half").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == before


def test_an_interrupt_between_the_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "target", "old")
    rename: Callable[..., Path] = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if self.name.startswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "target", "new")
    assert (tmp_path / "target" / "sub" / "file").read_text() == "old"
    assert names(tmp_path) == ["target", "target/sub", "target/sub/file"]


def test_what_safetensors_cannot_write_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write .*target: .*No space left"), written_whole(tmp_path / "target"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_sweep_takes_what_was_not_finished_and_nothing_else(tmp_path: Path) -> None:
    for name in (".partial_epoch_0001", "checkpoints/.replaced_epoch_0002", "checkpoints/epoch_0003", ".git"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    for name in (".config.yaml.12.tmp", "checkpoints/.x.png.1.tmp", "notes.tmp", ".hidden"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert [name for name in names(tmp_path) if "." in name and "/" not in name] == [".git", ".hidden", "notes.tmp"]
    assert names(tmp_path / "checkpoints") == ["epoch_0003", "epoch_0003/file"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path) as held:
        assert len(held) == 1
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_not_taken_on_a_file_that_its_last_holder_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, waited = files.fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        if not waited:
            waited.append((tmp_path / ".lock").unlink())

    monkeypatch.setattr("stepcredit.utils.files.fcntl.flock", late)
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path):
        pass
    assert waited


def test_the_end_of_a_lock_says_nothing_and_takes_no_other_s_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        first = locked(folder)
        first.__enter__()
    with pytest.raises(BlockingIOError), locked(folder):
        pass

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", denied)
    first.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError), locked(folder):
        _ = 1 / 0
    with locked(folder):
        pass


def test_a_disk_without_locks_lets_everybody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("stepcredit.utils.files.fcntl.flock", unable)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_without_such_locks_at_all_everybody_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.utils.files.fcntl", None)
    with locked(tmp_path) as held, locked(tmp_path):
        assert held == () and list(tmp_path.iterdir()) == []
