"""Run directories whose files were torn, edited by hand or swapped for something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tests.hostile.trials import REFUSED, WORKS, cases, outcome_of, record, survive
from tests.hostile.values import JSON_VALUES, NUMBERS, TEXT, damaged
from tests.toy_policy import toy_config
from tests.training.test_trainer import resume, start

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.report import write_report
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory

METRICS, ENVIRONMENT, CHECKPOINT = "metrics.jsonl", "environment.json", "checkpoint folder"
CONFIG = toy_config(train={"epochs": 3})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs with two checkpoints."""
    path = tmp_path_factory.mktemp("hostile") / "run"
    trainer = start(path, CONFIG)
    trainer.train()
    shutil.rmtree(path / "tensorboard", ignore_errors=True)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to damage, as often as wanted: `fresh` mends it."""
    return fresh(finished, tmp_path / "run")


def fresh(finished: Path, path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(finished, path)
    return path


# Metrics


def used(path: Path) -> None:
    """Read the metrics as the report and a resumed run do, and add to them: rows that could be read stay."""
    directory = RunDirectory.open(path)
    before = directory.metrics()
    write_report(path)
    if before:
        directory.truncate_metrics(max(row["epoch"] for row in before))
    assert directory.metrics() == json.loads(json.dumps(before))


ROWS = st.fixed_dictionaries(
    {"epoch": st.integers(0, 5) | JSON_VALUES},
    optional={
        key: NUMBERS | JSON_VALUES | st.lists(NUMBERS, max_size=4)
        for key in ("reward_mean", "reward_std", "reward_queries", "credit_profile", "native_scale", "seconds_reward")
    }
    | {
        column: JSON_VALUES | st.dictionaries(st.sampled_from(["warmth", "b"]), JSON_VALUES)
        for column in ("reward_components", "reward_by_tag")
    }
    | {"<script>alert(1)</script>": JSON_VALUES},
)


@cases(fast=25, slow=800)
def test_any_rows(run: Path, cases: int) -> None:
    mixture = {"components": [{"name": "warmth"}, {"name": "b"}]}
    RunDirectory(run).rewrite_config(TrainConfig.model_validate({"reward": mixture}))

    def attempt(rows: list[dict[str, Any]]) -> None:
        (run / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        used(run)
        assert (run / "report.html").read_text().count("<script") == 1, "the slider's"

    survive(METRICS, "rows of random values, in the report", cases, st.lists(ROWS, max_size=4), attempt)


@pytest.mark.parametrize("extreme", [1e308, 10**400, 5e-324, 1e-310, float("inf"), float("nan")])
def test_numbers_too_large_or_small_to_draw_are_left_out(run: Path, extreme: float) -> None:
    rows = [{"epoch": epoch, "reward_mean": value, "seconds_reward": extreme, "credit_profile": [extreme, 1.0]}
            for epoch, value in enumerate([extreme, -extreme, 0.5, extreme])]  # fmt: skip
    (run / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert outcome_of(lambda: write_report(run)) == WORKS
    record(METRICS, "numbers at the ends of floating point, in the report", WORKS)


@cases(fast=25, slow=800)
def test_torn_and_damaged_metrics(run: Path, cases: int) -> None:
    sound = (run / METRICS).read_bytes()

    def attempt(content: bytes) -> None:
        (run / METRICS).write_bytes(content)
        used(run)

    found = survive(METRICS, "torn, garbage between, bytes changed", cases, damaged(sound), attempt)
    assert found[WORKS] and found[REFUSED]


@cases(fast=10, slow=300)
def test_a_torn_last_line_loses_that_epoch_alone(finished: Path, run: Path, cases: int) -> None:
    sound = (run / METRICS).read_bytes()
    lines = sound.splitlines(keepends=True)
    garbage = st.binary(max_size=20).map(lambda tail: tail.replace(b"\n", b"").replace(b"\r", b""))

    def attempt(case: tuple[int, bytes]) -> None:
        cut, tail = case
        fresh(finished, run)
        (run / METRICS).write_bytes(b"".join(lines[:2]) + lines[2][: cut % (len(lines[2]) - 1)] + tail)
        directory = RunDirectory.open(run)
        assert [row["epoch"] for row in directory.metrics()][:2] == [1, 2]
        directory.append_metrics({"epoch": 3})
        assert [row["epoch"] for row in directory.metrics()][-1] == 3

    found = survive(
        METRICS, "last line torn anywhere, garbage after it", cases, st.tuples(st.integers(0, 10**4), garbage), attempt
    )
    assert found[WORKS] == sum(found.values())


@pytest.mark.parametrize(
    "line",
    ["[" * 10**5, '{"epoch": ' + "9" * 5000 + "}", "{}", '{"epoch": true}', '{"epoch": 1e400}', "\xff"],
    ids=range(6),
)
def test_a_line_that_is_no_row_is_named(run: Path, line: str) -> None:
    (run / METRICS).write_bytes(line.encode("latin-1") + b"\n" + (run / METRICS).read_bytes())
    with pytest.raises(InputError, match=r"metrics\.jsonl line 1 is not a JSON object"):
        RunDirectory.open(run).metrics()
    record(METRICS, "hand-written lines", REFUSED)


# What else the report reads


@cases(fast=15, slow=400)
def test_any_environment(run: Path, cases: int) -> None:
    facts = st.fixed_dictionaries(
        {}, optional={"command": JSON_VALUES, "packages": JSON_VALUES, "created": TEXT, "cuda_device": TEXT}
    )

    def attempt(content: Any) -> None:
        (run / ENVIRONMENT).write_text(json.dumps(content))
        write_report(run)

    survive(ENVIRONMENT, "random values, in the report", cases, facts | JSON_VALUES, attempt)


@pytest.mark.parametrize("place", ["folder", "loop", "dangling", "garbage"])
def test_sample_grids_that_are_none(run: Path, place: str) -> None:
    grid = run / "samples" / "epoch_0003.png"
    grid.unlink(missing_ok=True)
    match place:
        case "folder":
            grid.mkdir()
        case "loop":
            grid.symlink_to(grid.name)
        case "dangling":
            grid.symlink_to("nowhere")
        case "garbage":
            grid.write_bytes(b"\0" * 10)
    assert outcome_of(lambda: write_report(run)) == WORKS
    record("sample grids", "folders, loops, dangling links and garbage, in the report", WORKS)


# Checkpoints


def resumed(path: Path) -> int:
    """Resume and go on to the end; how many epochs had to be done again."""
    trainer = resume(path, CONFIG)
    again = 3 - trainer.finished_epochs
    assert again in (0, 1, 2)
    trainer.train()
    assert [row["epoch"] for row in trainer.run.metrics()] == [1, 2, 3]
    return again


def newest(path: Path) -> Path:
    return checkpoint.folders(path / "checkpoints")[-1]


def tried(path: Path, how: str) -> str:
    """Resume a run whose newest checkpoint is damaged; if that is refused, it goes on once the folder is taken away."""
    again: list[int] = []
    outcome = outcome_of(lambda: again.append(resumed(path)))
    if outcome == REFUSED:
        shutil.rmtree(newest(path))
        again.append(resumed(path))
    lost = {0: "nothing", 1: "1 epoch"}[again[0]]
    record(CHECKPOINT, how, f"{outcome}; resumes without the folder" if outcome == REFUSED else outcome, lost)
    return outcome


@cases(fast=15, slow=400)
def test_damaged_checkpoints(finished: Path, run: Path, cases: int) -> None:
    files = sorted(path.relative_to(finished) for path in newest(finished).iterdir())
    strategy = st.sampled_from(files).flatmap(
        lambda file: st.tuples(st.just(file), damaged((finished / file).read_bytes()))
    )

    def attempt(case: tuple[Path, bytes]) -> str:
        file, content = case
        fresh(finished, run)
        (run / file).write_bytes(content)
        return tried(run, "bytes of the newest changed, cut, doubled or torn off")

    examine(strategy, cases, attempt, (WORKS,))


@cases(fast=15, slow=400)
def test_checkpoints_of_other_types(finished: Path, run: Path, cases: int) -> None:
    """The checksum is right, the content is not: a file edited by hand, or written by another version."""
    state = json.loads((newest(finished) / "state.json").read_text())
    strategy = st.sampled_from(paths(state)).flatmap(lambda place: st.tuples(st.just(place), JSON_VALUES))

    def attempt(case: tuple[tuple[str, ...], Any]) -> str:
        place, value = case
        fresh(finished, run)
        body = json.loads((newest(run) / "state.json").read_text())
        put(body, place, value)
        body.pop("sha256", None)
        (newest(run) / "state.json").write_text(json.dumps(body | {"sha256": checkpoint._json_digest(body)}))
        return tried(run, "values of other types with a correct checksum")

    examine(strategy, cases, attempt, (WORKS, REFUSED))


def examine(
    strategy: st.SearchStrategy[Any], count: int, attempt: Callable[[Any], str], allowed: Sequence[str]
) -> None:
    """`survive` without its own count: `tried` has counted with what was lost."""
    from hypothesis import HealthCheck, given, settings

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def trial(case: Any) -> None:
        assert attempt(case) in allowed

    trial()


def paths(tree: Any, start: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to every value in nested mappings, the mappings themselves among them."""
    if not isinstance(tree, dict):
        return []
    return [place for key, value in tree.items() for place in [(*start, key), *paths(value, (*start, key))]]


def put(tree: Any, place: tuple[str, ...], value: Any) -> None:
    for key in place[:-1]:
        tree = tree[key]
    tree[place[-1]] = value


def _swap(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    (folder / name).unlink()
    make(folder / name)


SWAPS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: os.mkfifo(path),
    "an empty file": lambda path: path.touch(),
}


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("instead", SWAPS)
def test_files_of_the_newest_checkpoint_swapped(run: Path, name: str, instead: str) -> None:
    _swap(newest(run), name, SWAPS[instead])
    assert tried(run, "a file gone, or a folder, link, pipe or device in its place") == WORKS


def test_the_same_file_reached_through_a_link_is_as_good(run: Path) -> None:
    target = run / "elsewhere"
    shutil.move(newest(run) / "tensors.safetensors", target)
    (newest(run) / "tensors.safetensors").symlink_to(target)
    assert tried(run, "a link to the file itself") == WORKS


def test_files_that_do_not_belong_there_do_no_harm(run: Path) -> None:
    root = run / "checkpoints"
    for stranger in ("epoch_", "epoch_x", "epoch_0002.bak", "epoch_²", ".partial_epoch_0009", "epoch_-1", "notes"):
        (root / stranger).mkdir()
    (root / "README").write_text("mine")
    (newest(run) / "extra.bin").write_bytes(b"x")
    (newest(run) / "sub").mkdir()
    assert tried(run, "files and folders that do not belong there") == WORKS


def test_a_file_called_like_a_checkpoint_does_no_harm(run: Path) -> None:
    (run / "checkpoints" / "epoch_0009").write_text("mine")
    assert tried(run, "a file with the name of a checkpoint") == WORKS
