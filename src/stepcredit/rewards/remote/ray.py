"""A reward on several Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, RewardError, caused_by, shortened
from stepcredit.plugins import PluginState
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.core.scores import Scores, join

PLACEMENT_TIMEOUT = 300.0
"""Seconds within which Ray must start a worker."""


class WorkerDied(Exception):
    """The process of a worker ended."""


class Workers(Protocol):
    """Starts workers, each with a copy of the reward, and communicates with them. Handles are opaque."""

    def start(self) -> Any:
        """Start a worker, which builds the reward in the background."""
        ...

    def ready(self, worker: Any) -> None:
        """Wait until the reward is built. Raises InputError if it cannot be built, or WorkerDied."""
        ...

    def submit(self, worker: Any, images: np.ndarray, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        """Start to score a part of a batch: images (B,3,H,W), float32 or uint8. Returns a handle."""
        ...

    def result(self, pending: Any) -> Scores:
        """Wait for the scores of a `submit`. Raises RewardError or WorkerDied."""
        ...

    def stop(self, worker: Any) -> None: ...


def ray_reward(section: RewardSection) -> PooledReward:
    """The reward of `section` on `section.ray_workers` actors. Connects to the Ray cluster RAY_ADDRESS or starts one.

    Raises:
        InputError: Ray is not installed, has too few CPUs or GPUs, or the reward cannot be built.
    """
    require_extra("ray", "ray", "reward.ray_workers")
    assert section.ray_workers is not None
    single = section.model_copy(update={"ray_workers": None})
    return PooledReward(RayActors(single, section.ray_workers, section.ray_gpus), section.ray_workers)


class PooledReward:
    """Splits a batch evenly over workers that each hold the same reward, and joins the scores in order. Thread-safe.

    The workers receive float32 images, so scores equal those of the same parts scored locally. A worker that dies is
    replaced, and its part is scored once more. If the replacement dies too, the call raises a RewardError. Batches are
    scored one after the other.

    Args:
        count: number of workers. The constructor waits until they are ready.

    Raises:
        InputError: the reward cannot be built on the workers.
    """

    def __init__(self, workers: Workers, count: int) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._pool = [workers.start() for _ in range(count)]
        try:
            for worker in self._pool:
                workers.ready(worker)
        except BaseException as error:  # no worker may outlive a pool that failed to start
            self.close()
            if isinstance(error, WorkerDied):
                raise InputError(f"a reward worker died while it was building the reward: {error}") from error
            raise

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """(images (B,3,H,W) in [0,1], prompts, metadata) -> Scores of B images.

        Raises:
            RewardError: the reward failed on a worker, or two workers died on the same part.
        """
        if len(prompts) == 0:
            return Scores(torch.zeros(0))
        pixels = _array(images)
        with self._lock:
            parts = [
                (number, (pixels[rows], list(prompts[rows]), list(metadata[rows])))
                for number, rows in enumerate(_even_slices(len(prompts), len(self._pool)))
            ]
            submitted = [self._workers.submit(self._pool[number], *part) for number, part in parts]
            results = [self._collect(pending, *part) for pending, part in zip(submitted, parts, strict=True)]
        for result in results:
            if isinstance(result, RewardError):
                raise result
        return join([result for result in results if isinstance(result, Scores)])

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._pool:
            self._workers.stop(worker)

    def _collect(self, pending: Any, number: int, part: tuple[Any, ...]) -> Scores | RewardError:
        """The scores or the error of a part; errors are raised after all parts have finished."""
        try:
            return self._workers.result(pending)
        except WorkerDied:
            return self._retry(number, part)
        except RewardError as error:
            return error

    def _retry(self, number: int, part: tuple[Any, ...]) -> Scores | RewardError:
        self._workers.stop(self._pool[number])
        self._pool[number] = self._workers.start()
        try:
            self._workers.ready(self._pool[number])
            return self._workers.result(self._workers.submit(self._pool[number], *part))
        except WorkerDied as error:
            batch = f"{len(part[1])} images, first prompt '{shortened(part[1][0])}'"
            return RewardError(f"two reward workers died one after the other on {batch}: {error}")
        except RewardError as error:
            return error


class RayActors:
    """Workers that are Ray actors.

    Args:
        section: the reward that each of them builds.
        count: number of actors; refused if Ray has too few CPUs or GPUs.
        gpus: GPUs per actor, possibly a fraction.
    """

    def __init__(self, section: RewardSection, count: int, gpus: float) -> None:
        import ray

        self._section = section
        _require_ray(count, gpus)
        self._actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")(_Worker)

    def start(self) -> Any:
        worker = self._actor.remote()
        return worker, worker.placed.remote(), worker.build.remote(self._section, PluginState.of_this_process())

    def ready(self, worker: Any) -> None:
        _, placed, built = worker
        _get(placed, PLACEMENT_TIMEOUT)
        _get(built)

    def submit(self, worker: Any, images: np.ndarray, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        return worker[0].score.remote(images, prompts, metadata)

    def result(self, pending: Any) -> Scores:
        scores: Scores = _get(pending)
        return scores

    def stop(self, worker: Any) -> None:
        import ray

        ray.kill(worker[0])


class _Worker:
    """The class of the actors."""

    def placed(self) -> None:
        """Returns when Ray has started the actor."""

    def build(self, section: RewardSection, plugins: PluginState) -> None:
        from stepcredit.rewards import build_reward

        plugins.restore()
        self._reward = build_reward(section)

    def score(self, images: np.ndarray, prompts: list[str], metadata: list[dict[str, Any]]) -> Scores:
        # torch warns of read-only arrays, which Ray's views of shared memory are.
        return self._reward.scores(torch.from_numpy(images.copy()), prompts, metadata)


def _get(pending: Any, timeout: float | None = None) -> Any:
    """The result. Ray's errors become one line, because they contain the worker's traceback."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, WorkerCrashedError

    try:
        return ray.get(pending, timeout=timeout)
    except GetTimeoutError as error:
        remedy = "run `ray status` to see free resources, or lower reward.ray_workers"
        raise InputError(f"Ray did not start a reward worker within {timeout:g} s: {remedy}") from error
    except RayTaskError as error:
        if isinstance(error.cause, InputError | RewardError):
            raise error.cause from None
        problem = RewardError(f"a Ray worker raised {type(error.cause).__name__}: {shortened(str(error.cause))}")
        raise caused_by(error, problem) from error
    except (RayActorError, WorkerCrashedError) as error:
        raise WorkerDied(shortened(str(error), 200)) from error
    except RayError as error:
        raise RewardError(f"Ray failed: {shortened(str(error), 200)}") from error


def _require_ray(count: int, gpus: float) -> None:
    import ray

    if not ray.is_initialized():
        with _same_sigterm_handler():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, needed in (("CPU", count), ("GPU", count * gpus)):
        available = resources.get(kind, 0)
        if needed > available:
            raise InputError(
                f"reward.ray_workers is {count}, which needs {needed:g} {kind}s, but Ray has {available:g}"
            )


@contextmanager
def _same_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler after Ray has replaced it, so that SIGTERM still saves a checkpoint."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _array(images: Tensor) -> np.ndarray:
    """uint8 unchanged, anything else as float32, which represents half precision exactly."""
    local = images.detach().cpu()
    return (local if local.dtype == torch.uint8 else local.float()).numpy()


def _even_slices(total: int, parts: int) -> list[slice]:
    """Up to `parts` consecutive slices of range(total), none empty, whose lengths differ by at most 1.

    >>> _even_slices(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    ends = [-(-total * number // parts) for number in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends) if end > start]
