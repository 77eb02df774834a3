"""Variables of a launcher that were left in a shell, and processes that never come."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command_line import only_line, stepcredit
from tests.distributed.launched import RUN, finished, free_port

from stepcredit.distributed import launcher
from stepcredit.distributed.launcher import Launch, await_ranks, read_launch, without_launch
from stepcredit.distributed.process_group import DEEPSPEED, init_process_group
from stepcredit.errors import InputError

COMPLETE = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in COMPLETE.items() if name not in names}


def test_all_variables() -> None:
    assert read_launch(COMPLETE) == Launch(1, 0, 2, "127.0.0.1", 29500, agent_store=False, attempt=0)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"MASTER_ADDR": "node7", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "1"},
        {**COMPLETE, "WORLD_SIZE": "1", "RANK": "0"},
    ],
)
def test_one_process(variables: dict[str, str]) -> None:
    assert read_launch(variables) is None


@pytest.mark.parametrize(
    ("variables", "facts"),
    [
        ({"WORLD_SIZE": "2"}, ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]),
        *((without(name), [name, "WORLD_SIZE"]) for name in COMPLETE if name not in ("WORLD_SIZE",)),
        (without("WORLD_SIZE"), ["RANK is 1", "WORLD_SIZE is not set"]),
        ({"LOCAL_RANK": "1"}, ["LOCAL_RANK is 1", "WORLD_SIZE is not set"]),
        ({**COMPLETE, "MASTER_ADDR": ""}, ["MASTER_ADDR"]),
        *(({**COMPLETE, name: "x"}, [f"{name} is 'x'"]) for name in COMPLETE if name != "MASTER_ADDR"),
        ({**COMPLETE, "WORLD_SIZE": "0"}, ["WORLD_SIZE is '0'"]),
        ({**COMPLETE, "WORLD_SIZE": "-2"}, ["WORLD_SIZE is '-2'"]),
        ({**COMPLETE, "RANK": "2"}, ["RANK is 2", "WORLD_SIZE is 2"]),
        ({"RANK": "1", "WORLD_SIZE": "1"}, ["RANK is 1", "WORLD_SIZE is 1"]),
    ],
)
def test_variables_that_do_not_fit_together(
    variables: dict[str, str], facts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as raised:
        read_launch(variables)
    message = str(raised.value)
    assert [fact for fact in [*facts, "unset"] if fact not in message] == [], message
    for name in launcher.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError):
        init_process_group(None, cpu=True)


def test_one_process_of_deepspeed_needs_the_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEEPSPEED, "true")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("stepcredit.distributed.process_group.find_spec", lambda name: object())
    with pytest.raises(InputError, match="RANK and MASTER_ADDR and MASTER_PORT are not set"):
        init_process_group(None, cpu=True)


def test_the_environment_of_another_program() -> None:
    assert without_launch({**COMPLETE, "PATH": "/bin"}) == {"PATH": "/bin"}


# The wait


def launch(rank: int, processes: int = 2, **changes: Any) -> Launch:
    return replace(Launch(rank, rank, processes, "127.0.0.1", free_port(), False, 0), **changes)


def test_all_ranks_find_each_other() -> None:
    first = launch(0, 3)
    with ThreadPoolExecutor(3) as threads:
        stores = [threads.submit(await_ranks, replace(first, rank=rank), 30.0) for rank in (2, 1, 0)]
        assert all(store.result(30) for store in stores)


@pytest.mark.parametrize(("rank", "missing"), [(0, "rank 1 of 2"), (1, "rank 0 of 2")])
def test_a_rank_that_never_comes(rank: int, missing: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(launcher, "_NOTE_AFTER", 0.0)
    alone = launch(rank)
    with pytest.raises(InputError, match=r"run\.connect_timeout") as raised:
        await_ranks(alone, 0.3)
    for message in (str(raised.value), caplog.records[0].getMessage()):
        assert missing in message and f"127.0.0.1:{alone.port}" in message and "unset WORLD_SIZE" in message
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
    assert raised.value.show_on_every_rank


def test_a_restart_does_not_count_the_ranks_of_the_attempt_before() -> None:
    first = launch(0, 1)
    store = await_ranks(first, 5)
    second = replace(first, world_size=2, attempt=1, agent_store=True)
    with pytest.raises(InputError, match="rank 1 of 2"):
        await_ranks(second, 0.3)
    del store


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_wait(rank: int) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            await_ranks(launch(rank), 60)
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_port_that_is_in_use() -> None:
    other = socket.create_server(("", 0))
    with other, pytest.raises(InputError, match=r"MASTER_PORT.* in use"):
        await_ranks(launch(0, port=other.getsockname()[1]), 5)


def test_train_with_variables_left_in_the_shell_ends_with_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "stepcredit", "train", *RUN, "run.connect_timeout=0.3", "--run", "a"]
    ended = finished(words, tmp_path, **{**COMPLETE, "MASTER_PORT": str(free_port())})
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("stepcredit: ") and ended.stderr.count("\n") == 1 and "unset" in ended.stderr
    assert os.listdir(tmp_path) == []


def test_an_error_is_printed_although_local_rank_was_left_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert "LOCAL_RANK" in only_line(stepcredit("train"))
