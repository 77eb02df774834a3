"""What a launcher such as torchrun or accelerate tells this process, and the wait for the other processes.

A launcher sets environment variables for every process. Some of them may also be left in a shell from another program.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from stepcredit.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

log = logging.getLogger(__name__)

VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
)
"""Variables that describe one process of several."""

_REQUIRED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_NOTE_AFTER = 10.0  # seconds
_NOTE_EVERY = 60.0
_POLL = 0.1
_MOST_RANKS = 8  # in a message
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Launch:
    """One process of several, as a launcher describes it.

    Attributes:
        rank: number of this process among all processes.
        local_rank: number of this process among those of this machine.
        world_size: number of processes, at least 2 unless DeepSpeed launched one.
        address: host name of rank 0.
        port: port of the store on that host, through which the processes find each other.
        agent_store: whether the launcher hosts that store; otherwise rank 0 does.
        attempt: how many times the launcher has restarted the processes.
    """

    rank: int
    local_rank: int
    world_size: int
    address: str
    port: int
    agent_store: bool
    attempt: int


def read_launch(variables: Mapping[str, str] = os.environ, *, even_one: bool = False) -> Launch | None:
    """The process that a launcher has started; None without a launcher, or for the only process of one.

    Args:
        even_one: return a Launch also for a launcher that has started a single process.

    Raises:
        InputError: variables are missing, are not numbers, or contradict each other.
    """
    world_size = launched_processes(variables)
    if "WORLD_SIZE" not in variables:
        _require_no_rank(variables)
    if world_size == 1 and not even_one:
        rank = _number(variables, "RANK", 0)
        if rank > 0:
            raise InputError(f"RANK is {rank}, but WORLD_SIZE is 1: {_remedy('RANK')}")
        return None
    missing = [name for name in _REQUIRED if not variables.get(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"WORLD_SIZE is {world_size}, but {' and '.join(missing)} {verb} not set: {_remedy('WORLD_SIZE')}"
        )
    rank = _number(variables, "RANK", 0)
    if rank >= world_size:
        raise InputError(f"RANK is {rank}, but WORLD_SIZE is {world_size}: {_remedy('RANK and WORLD_SIZE')}")
    agent_store = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Launch(
        rank,
        _number(variables, "LOCAL_RANK", 0),
        world_size,
        variables["MASTER_ADDR"],
        _number(variables, "MASTER_PORT", 0),
        agent_store,
        _number(variables, "TORCHELASTIC_RESTART_COUNT", 0),
    )


def launched_processes(variables: Mapping[str, str] = os.environ) -> int:
    """The number of processes that a launcher has started (WORLD_SIZE); 1 without a launcher.

    Raises:
        InputError: WORLD_SIZE is not a number of at least 1.
    """
    return _number(variables, "WORLD_SIZE", 1)


def without_launch(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that is not one of the launched processes."""
    return {name: value for name, value in variables.items() if name not in VARIABLES}


def await_ranks(launch: Launch, timeout: float | None) -> TCPStore:
    """Wait until all processes have found each other. A signal interrupts this, unlike the wait of torch.distributed.

    Returns:
        The store through which they did; keep it until torch.distributed is initialized.

    Raises:
        InputError: another process was missing for `timeout` seconds, or the port of rank 0 is in use.
    """
    wait = _Wait(launch, timeout)
    hosts = launch.rank == 0 and not launch.agent_store
    while not hosts and not _accepts_connections(launch):
        wait.poll([0], logs=True)
    store = _store(launch, hosts)
    store.set(_key(launch, launch.rank), "")
    missing = [rank for rank in range(launch.world_size) if rank != launch.rank]
    while missing and not store.check([_key(launch, rank) for rank in missing]):
        missing = [rank for rank in missing if not store.check([_key(launch, rank)])]
        if missing:
            present = set(range(launch.world_size)) - set(missing)
            wait.poll(missing, logs=launch.rank == min(present))
    return store


class _Wait:
    """Waits for other ranks, and after a while logs which ones are missing."""

    def __init__(self, launch: Launch, timeout: float | None) -> None:
        self._launch = launch
        self._timeout = timeout
        self._start = time.monotonic()
        self._note_after = _NOTE_AFTER

    def poll(self, missing: Sequence[int], *, logs: bool) -> None:
        """Wait a moment.

        Args:
            missing: the ranks that are waited for.
            logs: whether this process may log.

        Raises:
            InputError: the time is over.
        """
        elapsed = time.monotonic() - self._start
        if self._timeout is not None and elapsed > self._timeout:
            raise _shown(
                f"rank {self._launch.rank} waited {self._timeout:g} s (run.connect_timeout) "
                f"{self._describe(missing)}: start them too, or, to train in one process, unset WORLD_SIZE, which "
                "another program may have left in the shell"
            )
        if logs and elapsed > self._note_after:
            note = "rank %d waits %s; to train in one process, stop this one and unset WORLD_SIZE"
            log.warning(note, self._launch.rank, self._describe(missing))
            self._note_after = elapsed + _NOTE_EVERY
        time.sleep(_POLL)

    def _describe(self, missing: Sequence[int]) -> str:
        launch = self._launch
        ranks = ", ".join(map(str, missing[:_MOST_RANKS])) + (" and others" if len(missing) > _MOST_RANKS else "")
        return f"for rank {ranks} of {launch.world_size} processes to connect to {launch.address}:{launch.port}"


def _shown(message: str) -> InputError:
    """An error that this process prints even if it is not the first on its machine. The others do not know it."""
    error = InputError(message)
    error.show_on_every_rank = True
    return error


def _accepts_connections(launch: Launch) -> bool:
    try:
        with socket.create_connection((launch.address, launch.port), timeout=1.0):
            return True
    except OSError:
        return False


def _store(launch: Launch, hosts: bool) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(
            "localhost" if hosts else launch.address,
            launch.port,
            launch.world_size,
            hosts,
            timedelta(seconds=_CONNECT_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,  # torch.distributed hosts its own store at the same port
        )
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            problem = f"port {launch.port} (MASTER_PORT) is in use by another program: choose another port"
        else:
            problem = f"no store at {launch.address}:{launch.port}: check MASTER_ADDR and MASTER_PORT"
        raise _shown(f"rank {launch.rank} cannot connect to the other processes: {problem}") from error


def _key(launch: Launch, rank: int) -> str:
    return f"stepcredit/{launch.attempt}/{rank}"


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or (name == "WORLD_SIZE" and int(text) == 0):
        expected = "a number of at least 1" if name == "WORLD_SIZE" else "a number"
        raise InputError(f"{name} is '{text}', expected {expected}: {_remedy(name)}")
    return int(text)


def _require_no_rank(variables: Mapping[str, str]) -> None:
    given = next((name for name in ("RANK", "LOCAL_RANK") if name in variables), None)
    if given is not None:
        raise InputError(f"{given} is {variables[given]}, but WORLD_SIZE is not set: {_remedy(given)}")


def _remedy(names: str) -> str:
    return f"start the run with torchrun or `accelerate launch`, or unset {names} to train in one process"
