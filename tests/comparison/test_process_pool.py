"""Runs as processes: scheduled, resumed, killed, interrupted, failing. `fake_train.py` replaces training."""

from __future__ import annotations

import errno
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
import yaml
from tests.comparison.faked import FILE, fake_compare, results

from stepcredit.comparison import process_pool
from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.process_pool import slots
from stepcredit.config import ModelSection, TrainConfig
from stepcredit.errors import InputError, Interrupted, StepcreditError

SMALL = FILE.replace("[0.005, 0.01, 0.02]", "[0.005, 0.01]").replace("[11, 12, 13]", "[11, 12]")
RUNS = 2 * 2 * 2 + 2 * 2

# A signal may arrive while a file is being opened, which is then closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_pool, "POLL_SECONDS", 0.01)


@pytest.fixture
def file() -> Path:
    Path("mine.yaml").write_text(SMALL)
    return Path("mine.yaml")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that ran from start to end."""
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "mine.yaml").write_text(SMALL)
    with chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_pool, "POLL_SECONDS", 0.01)
        fake_compare(Path("mine.yaml"), Path("whole"))
    return place / "whole"


@pytest.fixture
def whole(file: Path, undisturbed: Path) -> Path:
    """A copy of `undisturbed`."""
    shutil.copytree(undisturbed, "whole")
    return Path("whole")


class Listener:
    """Makes every run wait in its second epoch, and detects when it waits and when it is gone."""

    def __init__(self) -> None:
        os.mkfifo("stop")
        self._file = os.fdopen(os.open("stop", os.O_RDONLY | os.O_NONBLOCK))
        os.set_blocking(self._file.fileno(), True)
        self._kept = os.open("stop", os.O_WRONLY)  # so that the FIFO does not end before `all_gone`

    def waiting(self, count: int) -> list[str]:
        """Wait until `count` runs are waiting, and return their folders."""
        return [self._file.readline().strip() for _ in range(count)]

    def all_gone(self) -> None:
        """Wait until no process holds the FIFO."""
        os.close(self._kept)
        assert select.select([self._file], [], [], 20)[0], "a run is still alive"
        assert self._file.read() == ""
        self._file.close()
        Path("stop").unlink()


@pytest.fixture
def listener() -> Iterator[Listener]:
    yield Listener()
    Path("stop").unlink(missing_ok=True)


def compare_process(*arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("faked.py")), *arguments]
    places = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(parent: int) -> list[int]:
    said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    return [int(word) for word in said.stdout.split()]


# Without interruption


def test_results_carry_the_versions_that_they_were_made_with(whole: Path) -> None:
    versions = results(whole)["versions"]
    assert versions["packages"]["torch"] == torch.__version__ and versions["packages"]["stepcredit"]
    assert versions["python"] == platform.python_version()
    assert f"torch {torch.__version__}" in (whole / "summary.md").read_text()
    protocol = yaml.safe_load((whole / "protocol.yaml").read_text())["protocol"]
    assert protocol["versions"] == versions["packages"]


def test_rates_are_chosen_on_tuning_seeds_and_arms_compared_on_fresh_seeds(whole: Path) -> None:
    arms = results(whole)["rewards"]["jpeg_compressibility"]["arms"]
    for arm in arms.values():
        assert arm["tuning"]["learning_rate"] == 0.01
        assert [row["seed"] for row in arm["by_seed"]] == [11, 12]
    assert arms["linear"]["factor"]["median"] > 1.3
    names = sorted(str(path.parent.relative_to(whole / "runs")) for path in whole.glob("runs/**/finished"))
    assert len(names) == RUNS
    assert "fresh/jpeg_compressibility/linear/lr-0.01-clip-0.01/seed-12" in names
    config = yaml.safe_load((whole / "runs" / names[0] / "config.yaml").read_text())
    assert (config["train"]["learning_rate"], config["run"]["seed"]) == (0.01, 11)


def test_the_protocol_is_written_before_the_first_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    start = process_pool.ProcessPool._start

    def spy(self: process_pool.ProcessPool, *arguments: object) -> object:
        seen.append(yaml.safe_load(Path("a/protocol.yaml").read_text())["protocol"])
        return start(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(process_pool.ProcessPool, "_start", spy)
    fake_compare(file, Path("a"))
    assert len(seen) == RUNS and all(one == seen[0] for one in seen)
    assert (seen[0]["tuning_seeds"], seen[0]["fresh_seeds"]) == ([1, 2], [11, 12])
    assert seen[0]["learning_rates"] == [0.005, 0.01] and seen[0]["criterion"] == {"last_epochs": 2}
    assert set(seen[0]["arms"]) == {"uniform", "linear"} and seen[0]["versions"]["torch"]


def test_the_same_comparison_gives_the_same_numbers(file: Path, whole: Path) -> None:
    fake_compare(file, Path("again"), jobs=3)
    assert results(Path("again")) | {"jobs": 2} == results(whole)


def test_finished_runs_are_not_repeated(file: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    monkeypatch.setattr(process_pool.ProcessPool, "_start", lambda *_: pytest.fail("nothing is left to run"))
    fake_compare(file, whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_run_without_a_checkpoint_starts_again(file: Path, whole: Path) -> None:
    left = whole / "runs/tuning/jpeg_compressibility/uniform/lr-0.005-clip-0.01/seed-1"
    for path in (left / "finished", *(left / "checkpoints").iterdir()):
        path.rmdir() if path.is_dir() else path.unlink()
    expected = (left / "config.yaml").read_text()
    (left / "config.yaml").write_text("torn")
    fake_compare(file, whole)
    assert (left / "config.yaml").read_text() == expected


# Kill and interrupt


def test_a_killed_comparison_resumes_to_the_same_results(file: Path, listener: Listener, undisturbed: Path) -> None:
    killed = compare_process("mine.yaml", "a")
    stopped = listener.waiting(2)
    runs = children(killed.pid)
    killed.kill()
    for run in runs:
        os.kill(run, signal.SIGKILL)
    killed.communicate()
    listener.all_gone()
    assert len(runs) == 2 and not Path("a/results.json").exists()
    assert all((Path(run) / "checkpoints" / "epoch_0001").is_dir() for run in stopped)
    fake_compare(file, Path("a"))
    assert results(Path("a")) == results(undisturbed)
    assert timeless_summary(Path("a")) == timeless_summary(undisturbed)


def timeless_summary(run: Path) -> str:
    """summary.md without the columns in seconds, the last ones of the first two tables."""
    return re.sub(r"\| [^|]* \|$", "", (run / "summary.md").read_text(), flags=re.MULTILINE)


@pytest.mark.slow
def test_runs_that_outlive_their_comparison_lock_the_folder(file: Path, listener: Listener) -> None:
    killed = compare_process("mine.yaml", "a")
    listener.waiting(2)
    runs = children(killed.pid)
    killed.kill()
    killed.communicate()
    with pytest.raises(InputError, match="a is in use"):
        fake_compare(file, Path("a"))
    for run in runs:
        os.kill(run, signal.SIGKILL)
    listener.all_gone()


def test_a_failed_fork_is_not_taken_for_a_lock(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
        fake_compare(file, Path("a"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_runs(file: Path, listener: Listener, number: int) -> None:
    before = signal.getsignal(number)

    def interrupt() -> None:
        listener.waiting(2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="interrupted"):
        fake_compare(file, Path("a"))
    thread.join()
    listener.all_gone()
    assert signal.getsignal(number) is before


def test_a_run_that_ignores_sigterm_is_killed(file: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(process_pool.signal, "SIGTERM", 0)
    thread = threading.Thread(target=lambda: (listener.waiting(2), os.kill(os.getpid(), signal.SIGINT)))
    thread.start()
    with pytest.raises(Interrupted):
        fake_compare(file, Path("a"))
    thread.join()
    listener.all_gone()


# Failing


def test_a_failed_run_does_not_stop_the_others(file: Path, undisturbed: Path) -> None:
    Path("broken").write_text("uniform/lr-0.005-clip-0.01/seed-2")
    with pytest.raises(StepcreditError) as raised:
        fake_compare(file, Path("a"))
    name = "tuning/jpeg_compressibility/uniform/lr-0.005-clip-0.01/seed-2"
    assert f"{name} failed (exit 2): reward 'x' is down" in str(raised.value) and raised.value.exit_code == 1
    assert not Path("a/results.json").exists()
    done = {path.parent.relative_to("a/runs").as_posix() for path in Path("a").glob("runs/**/finished")}
    assert len(done) == RUNS - 1 - 2, "all but that run and the two fresh runs whose rate waits for it"
    Path("broken").unlink()
    fake_compare(file, Path("a"))
    assert results(Path("a")) == results(undisturbed)


def test_failed_runs_can_be_skipped(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken").write_text("fresh/jpeg_compressibility/linear/lr-0.01-clip-0.01/seed-12")
    fake_compare(file, Path("a"), skip_failed=True)
    found = results(Path("a"))
    assert found["failed"] == [
        "fresh/jpeg_compressibility/linear/lr-0.01-clip-0.01/seed-12 failed (exit 2): reward 'x' is down"
    ]
    assert [row["seed"] for row in found["rewards"]["jpeg_compressibility"]["arms"]["linear"]["by_seed"]] == [11]
    assert "fresh/jpeg_compressibility/linear/lr-0.01-clip-0.01/seed-12 failed" in capsys.readouterr().out


# Another protocol


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("train.epochs: 4", "train.epochs: 5", "base.train.epochs: 4"),
        ("fresh_seeds: [11, 12]", "fresh_seeds: [12]", "fresh_seeds: [11, 12]"),
        ("last_epochs: 2", "last_epochs: 1", "criterion.last_epochs: 2"),
        ("linear: linear", "other: linear", "arms.other.credit.name: absent"),
        ("reference: uniform", "reference: linear", "reference: uniform"),
        ("jobs: 2", "evaluate: {prompts: [animals]}", "evaluate.images: absent"),
    ],
)
def test_the_folder_of_another_protocol_is_refused(
    file: Path, whole: Path, old: str, new: str, difference: str
) -> None:
    before = (whole / "protocol.yaml").read_bytes()
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(InputError) as raised:
        fake_compare(file, whole)
    assert str(raised.value).startswith(f"whole holds a comparison with another protocol ({difference}")
    assert (whole / "protocol.yaml").read_bytes() == before


def test_user_code_that_changes_during_the_comparison_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.py").write_text("def score(images, prompts, metadata):\n    return images.mean((1, 2, 3))\n")
    file.write_text(f"{SMALL}rewards: [own.py:score]\n")
    finish = ComparisonDirectory.mark_finished

    def edit_meanwhile(directory: ComparisonDirectory, cell: Cell) -> None:
        finish(directory, cell)
        Path("own.py").write_text("def score(images, prompts, metadata):\n    return -images.mean((1, 2, 3))\n")

    monkeypatch.setattr(ComparisonDirectory, "mark_finished", edit_meanwhile)
    with pytest.raises(StepcreditError, match=r"^own.py changed"):
        fake_compare(file, Path("edited"))
    assert not Path("edited/results.json").exists()
    with pytest.raises(InputError, match=r"another protocol \(files.own.py: "):
        fake_compare(file, Path("edited"))


def test_other_package_versions_are_another_protocol(file: Path, whole: Path) -> None:
    text = (whole / "protocol.yaml").read_text()
    (whole / "protocol.yaml").write_text(re.sub(r"(versions:\n(?:.*\n)*?\s+torch: ).*", r"\g<1>1.0", text, count=1))
    with pytest.raises(InputError, match=r"versions.torch: 1.0"):
        fake_compare(file, whole)


def test_the_number_of_jobs_is_not_part_of_the_protocol(file: Path, whole: Path) -> None:
    fake_compare(file, whole, jobs=1)


def test_a_folder_with_other_files_is_refused(file: Path) -> None:
    Path("a").mkdir()
    Path("a/notes.txt").touch()
    with pytest.raises(InputError, match="a is not empty and holds no comparison"):
        fake_compare(file, Path("a"))
    with pytest.raises(InputError, match=r"mine.yaml is a file, not a folder"):
        fake_compare(file, file)


# Slots


def test_a_run_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(process_pool, "cores", lambda: 3)
    assert slots(TrainConfig(), None) == [{"OMP_NUM_THREADS": "1"}] * 3
    assert len(slots(TrainConfig(), 5)) == 5


@pytest.mark.parametrize(
    ("visible", "device", "jobs", "expected"),
    [
        (None, "auto", None, ["0", "1"]),
        (None, "cuda", 3, ["0", "1", "0"]),
        ("5,7", "auto", 3, ["5", "7", "5"]),
        (None, "cpu", 2, [None, None]),
        (None, "cuda:1", 1, [None]),
    ],
)
def test_devices_are_used_in_turn(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, jobs: int | None, expected: list[str | None]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = TrainConfig(model=ModelSection(device=device))
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in slots(config, jobs)] == expected
