"""A reward computed by several Ray actors, on this machine or on a cluster."""

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
from stepcredit.errors import InputError, RewardError, shortened
from stepcredit.plugins import load_plugins, loaded_plugins
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.core.scores import Scores, join

PLACING = 300.0
"""Seconds that Ray gets to find a place for a worker."""


class WorkerDied(Exception):
    """The process of a worker is gone."""


class Workers(Protocol):
    """Starts workers that hold the reward, and talks to them. `worker` and `pending` are opaque."""

    def start(self) -> Any:
        """A new worker, which begins to build the reward."""
        ...

    def ready(self, worker: Any) -> None:
        """Wait until the reward is built. Raises InputError where it cannot be, WorkerDied."""
        ...

    def submit(self, worker: Any, images: np.ndarray, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        """Begin to score a part of a batch: images (B,3,H,W), float32, or uint8 if they were."""
        ...

    def result(self, pending: Any) -> Scores:
        """Wait for what `submit` began. Raises RewardError, WorkerDied."""
        ...

    def stop(self, worker: Any) -> None: ...


def ray_reward(section: RewardSection) -> PooledReward:
    """The reward of `section` on `section.ray_workers` actors. Joins the Ray that RAY_ADDRESS names, or starts one.

    Raises:
        InputError: Ray is not installed, has too few processors or GPUs, or the reward cannot be built.
    """
    require_extra("ray", "ray", "reward.ray_workers")
    assert section.ray_workers is not None
    alone = section.model_copy(update={"ray_workers": None})
    return PooledReward(RayActors(alone, section.ray_workers, section.ray_gpus), section.ray_workers)


class PooledReward:
    """Splits a batch evenly over workers that each hold the same reward, and joins the scores in order.

    The workers see the float32 images that the reward would see here, so its scores are those of the parts scored
    here. A worker that dies is replaced and its part scored once more; if the replacement dies of it too, that is a
    RewardError. Any thread may call it; batches are scored one after the other.

    Args:
        count: of workers. They are started, and ready, when this returns.

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
        except BaseException as error:  # no worker may outlive a pool that nobody got
            self.close()
            if isinstance(error, WorkerDied):
                raise InputError(f"a reward worker died while it was building the reward: {error}") from error
            raise

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """(images (B,3,H,W) in [0,1], prompts, metadata) -> Scores of B images.

        Raises:
            RewardError: the reward failed on a worker, or a part of the batch ended two workers.
        """
        if len(prompts) == 0:
            return Scores(torch.zeros(0))
        pixels = _array(images)
        with self._lock:
            parts = [
                (number, (pixels[rows], list(prompts[rows]), list(metadata[rows])))
                for number, rows in enumerate(_even_slices(len(prompts), len(self._pool)))
            ]
            begun = [self._workers.submit(self._pool[number], *part) for number, part in parts]
            found = [self._collect(pending, *part) for pending, part in zip(begun, parts, strict=True)]
        for scores in found:
            if isinstance(scores, RewardError):
                raise scores
        return join([scores for scores in found if isinstance(scores, Scores)])

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._pool:
            self._workers.stop(worker)

    def _collect(self, pending: Any, number: int, part: tuple[Any, ...]) -> Scores | RewardError:
        """The outcome of a part. All are waited for before an error is raised: no work is left behind."""
        try:
            return self._workers.result(pending)
        except WorkerDied:
            return self._again(number, part)
        except RewardError as error:
            return error

    def _again(self, number: int, part: tuple[Any, ...]) -> Scores | RewardError:
        self._workers.stop(self._pool[number])
        self._pool[number] = self._workers.start()
        try:
            self._workers.ready(self._pool[number])
            return self._workers.result(self._workers.submit(self._pool[number], *part))
        except WorkerDied as error:
            what = f"{len(part[1])} images, first prompt '{shortened(part[1][0])}'"
            return RewardError(f"two reward workers died one after the other on {what}: {error}")
        except RewardError as error:
            return error


class RayActors:
    """Workers that are Ray actors.

    Args:
        section: what each of them builds.
        count: how many will be started; refused if Ray has fewer processors or GPUs.
        gpus: of each, which may be a fraction.
    """

    def __init__(self, section: RewardSection, count: int, gpus: float) -> None:
        import ray

        self._section = section
        _require_ray(count, gpus)
        self._actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")(_Worker)

    def start(self) -> Any:
        worker = self._actor.remote()
        return worker, worker.placed.remote(), worker.build.remote(self._section, loaded_plugins())

    def ready(self, worker: Any) -> None:
        _, placed, built = worker
        _get(placed, PLACING)
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
    """What runs inside an actor."""

    def located(self) -> None:
        """Returns once Ray has found a place for the actor."""

    def build(self, section: RewardSection, plugins: Sequence[str]) -> None:
        from stepcredit.rewards import build_reward

        load_plugins(plugins)
        self._reward = build_reward(section)

    def score(self, images: np.ndarray, prompts: list[str], metadata: list[dict[str, Any]]) -> Scores:
        # Ray's arrays are read-only views of shared memory, of which torch warns.
        return self._reward.scores(torch.from_numpy(images.copy()), prompts, metadata)


def _get(pending: Any, timeout: float | None = None) -> Any:
    """The result, with Ray's errors told in our words: its own carry the worker's whole traceback."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, WorkerCrashedError

    try:
        return ray.get(pending, timeout=timeout)
    except GetTimeoutError as error:
        remedy = "`ray status` tells what is free; lower reward.ray_workers"
        raise InputError(f"Ray found no place for a reward worker within {timeout:g} s: {remedy}") from error
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise RewardError(f"a Ray worker raised {type(error.cause).__name__}: {shortened(str(error.cause))}") from error
    except (RayActorError, WorkerCrashedError) as error:
        raise WorkerDied(shortened(str(error), 200)) from error
    except RayError as error:
        raise RewardError(f"Ray failed: {shortened(str(error), 200)}") from error


def _require_ray(count: int, gpus: float) -> None:
    import ray

    if not ray.is_initialized():
        with _same_sigterm_handler():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, needed in (("CPU", count), ("GPU", count * gpus)):
        if needed > there.get(kind, 0):
            raise InputError(
                f"reward.ray_workers is {count}, which needs {needed:g} {kind}s, but Ray has {there.get(kind, 0):g}"
            )


@contextmanager
def _same_sigterm_handler() -> Iterator[None]:
    """Ray puts its own in place, under which SIGTERM would end a run without its last words."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _array(images: Tensor) -> np.ndarray:
    """float32, which holds every half precision number exactly; uint8 stays, as its range is another."""
    held = images.detach().cpu()
    return (held if held.dtype == torch.uint8 else held.float()).numpy()


def _even_slices(total: int, parts: int) -> list[slice]:
    """Up to `parts` slices of 0..total-1 in order, none empty, whose lengths differ by 1 at most.

    >>> _even_slices(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    ends = [-(-total * number // parts) for number in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends) if end > start]
