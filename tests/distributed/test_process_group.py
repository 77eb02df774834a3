"""Work and errors that are shared by processes, and how a run finds its processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepcredit.distributed.process_group import DEEPSPEED, ProcessGroup, init_process_group
from stepcredit.errors import InputError, StepcreditError


class FakeProcessGroup(ProcessGroup):
    """One of several processes. `gather` maps the value of this process to the values of all."""

    def __init__(self, rank: int, world_size: int, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> None:
        self.rank, self.world_size, self._gather = rank, world_size, gather

    def all_gather(self, value: Any) -> list[Any]:
        return self._gather(value)


def failing() -> None:
    raise StepcreditError("disk on fire")


def test_run_on_all_returns_the_local_result() -> None:
    assert ProcessGroup().run_on_all(lambda: 7) == 7
    assert FakeProcessGroup(1, 2, lambda error: [None, error]).run_on_all(lambda: 8) == 8


def test_an_error_on_one_process_is_raised_on_all() -> None:
    with pytest.raises(StepcreditError, match="disk on fire"):
        FakeProcessGroup(1, 2, lambda error: [None, error]).run_on_all(failing)
    other = FakeProcessGroup(0, 2, lambda error: [error, StepcreditError("disk on fire")])
    with pytest.raises(StepcreditError, match="disk on fire"):
        other.run_on_all(lambda: 1)
    assert other.error_is_shared


def test_run_on_main_calls_only_rank_0_and_returns_its_result_on_all() -> None:
    calls: list[int] = []
    main = FakeProcessGroup(0, 2, lambda outcome: [outcome, (None, None)])
    other = FakeProcessGroup(1, 2, lambda outcome: [(7, None), outcome])
    assert main.run_on_main(lambda: calls.append(1) or 7) == 7
    assert other.run_on_main(lambda: calls.append(2) or 8) == 7
    assert calls == [1]


def test_an_error_on_rank_0_is_raised_on_all() -> None:
    with pytest.raises(StepcreditError, match="disk on fire"):
        FakeProcessGroup(1, 2, lambda outcome: [(None, StepcreditError("disk on fire")), outcome]).run_on_main(int)


def test_an_unexpected_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert init_process_group(1, cpu=True).world_size == init_process_group(None, cpu=True).world_size == 1
    with pytest.raises(InputError, match=r"run\.processes is 2.*one process"):
        init_process_group(2, cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"run\.processes is 2.*4 processes"):
        init_process_group(2, cpu=True)


def test_sharding_needs_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=r"model\.shard=false"):
        init_process_group(None, cpu=True, sharded=True)


def test_deepspeed_needs_a_launcher_a_package_and_unsharded_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEEPSPEED, "true")
    with pytest.raises(InputError, match=r"model\.shard=false"):
        init_process_group(None, cpu=True, sharded=True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match="accelerate launch"):
        init_process_group(None, cpu=True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("stepcredit.distributed.process_group.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'stepcredit\[deepspeed\]'"):
        init_process_group(None, cpu=True)
