"""A reward on several workers: in this process, and once on real Ray actors."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, RewardError
from stepcredit.rewards import Scores, build_reward, checked
from stepcredit.rewards.core.scores import Component, mix
from stepcredit.rewards.remote.ray import PooledReward, WorkerDied, _even_slices, _same_sigterm_handler, ray_reward


class Workers:
    """Workers in this process. The score of an image is its sum. Workers record the prompts that they received.

    Args:
        fatal: {prompt: how many workers it kills}.
        broken: prompts for which the reward fails.
        refuses: raised when the reward is built.
    """

    def __init__(
        self, fatal: dict[str, int] | None = None, broken: Sequence[str] = (), refuses: Exception | None = None
    ) -> None:
        self.fatal, self.broken, self.refuses = dict(fatal or {}), broken, refuses
        self.started = 0
        self.stopped: list[int] = []
        self.scored: list[tuple[int, list[str]]] = []
        self.collected = 0

    def start(self) -> int:
        self.started += 1
        return self.started - 1

    def ready(self, worker: int) -> None:
        if self.refuses is not None:
            raise self.refuses

    def submit(self, worker: int, images: np.ndarray, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        assert isinstance(images, np.ndarray) and images.dtype in (np.float32, np.uint8)
        assert len(images) == len(prompts) == len(metadata)
        assert worker not in self.stopped
        self.scored.append((worker, prompts))
        return images, prompts

    def result(self, pending: Any) -> Scores:
        self.collected += 1
        images, prompts = pending
        for prompt in prompts:
            if self.fatal.get(prompt, 0):
                self.fatal[prompt] -= 1
                raise WorkerDied("killed")
            if prompt in self.broken:
                raise RewardError(f"cannot score '{prompt}'")
        scores = torch.from_numpy(images.copy()).sum((1, 2, 3))
        return mix({"sum": Component(scores), "twice": Component(scores, weight=2.0)})

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(count))


def score(reward: Any, images: Tensor) -> Any:
    return reward(images, [f"p{row}" for row in range(len(images))], [{"row": row} for row in range(len(images))])


# Splitting a batch


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("total", [0, 1, 3, 4, 7, 8])
def test_even_slices(total: int, count: int) -> None:
    slices = _even_slices(total, count)
    assert [row for part in slices for row in range(total)[part]] == list(range(total))
    sizes = [part.stop - part.start for part in slices]
    assert len(sizes) == min(total, count) and (not sizes or max(sizes) - min(sizes) <= 1)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_scores_are_in_order_with_their_components(count: int) -> None:
    workers, images = Workers(), pictures(7)
    scores = score(PooledReward(workers, count), images)
    assert torch.equal(scores.components["sum"].scores, images.sum((1, 2, 3)))
    assert torch.equal(scores.values, 3 * images.sum((1, 2, 3)))
    assert [worker for worker, _ in workers.scored] == list(range(min(7, count)))
    assert [prompt for _, prompts in workers.scored for prompt in prompts] == [f"p{row}" for row in range(7)]


def test_an_empty_batch() -> None:
    workers = Workers()
    assert score(PooledReward(workers, 2), pictures(0)).values.shape == (0,) and workers.scored == []


def test_half_precision_images_become_float32() -> None:
    images = pictures(3).to(torch.bfloat16)
    assert torch.equal(
        score(PooledReward(Workers(), 2), images).components["sum"].scores, images.float().sum((1, 2, 3))
    )


def test_uint8_images_stay_uint8() -> None:
    images = (pictures(3) * 255).to(torch.uint8)
    assert torch.equal(score(PooledReward(Workers(), 2), images).components["sum"].scores, images.sum((1, 2, 3)))


def test_a_checked_pool() -> None:
    images = pictures(5)
    assert torch.equal(score(checked(PooledReward(Workers(), 2), "sum"), images), 3 * images.sum((1, 2, 3)))


def test_calls_from_several_threads() -> None:
    reward, batches = PooledReward(Workers(), 2), [pictures(count) for count in range(1, 9)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda batch: score(reward, batch).values, batches))
    assert all(torch.equal(values, 3 * batch.sum((1, 2, 3))) for values, batch in zip(found, batches, strict=True))


def test_batches_are_scored_one_after_the_other() -> None:
    class Watching(Workers):
        second: threading.Thread | None = None

        def result(self, pending: Any) -> Scores:
            if self.second is None:
                self.second = threading.Thread(target=lambda: score(reward, pictures(2)))
                self.second.start()
                self.second.join(0.2)  # the second call waits for the first
                self.begun = len(self.scored)
            return super().result(pending)

    workers = Watching()
    reward = PooledReward(workers, 1)
    score(reward, pictures(1))
    assert workers.second is not None
    workers.second.join()
    assert (workers.begun, len(workers.scored)) == (1, 2)


# Failing workers


def test_a_dead_worker_is_replaced() -> None:
    workers, images = Workers(fatal={"p3": 1}), pictures(6)
    reward = PooledReward(workers, 3)
    assert torch.equal(score(reward, images).components["sum"].scores, images.sum((1, 2, 3)))
    assert (workers.started, workers.stopped) == (4, [1])
    assert workers.scored[-1] == (3, ["p2", "p3"])
    score(reward, images)
    assert [worker for worker, _ in workers.scored[-3:]] == [0, 3, 2], "the new one stays"


def test_a_part_that_kills_two_workers_is_an_error() -> None:
    workers = Workers(fatal={"p3": 2})
    with pytest.raises(RewardError, match="two reward workers died one after the other on 2 images, first prompt 'p2'"):
        score(PooledReward(workers, 3), pictures(6))
    assert workers.started == 4


def test_a_worker_may_die_in_every_batch() -> None:
    workers = Workers(fatal={"p0": 1})
    reward = PooledReward(workers, 1)
    for _ in range(3):
        workers.fatal["p0"] = 1
        assert len(score(reward, pictures(2)).values) == 2
    assert workers.started == 4


def test_an_error_is_raised_after_all_parts_have_finished() -> None:
    workers = Workers(broken=["p0", "p5"])
    with pytest.raises(RewardError, match=r"^cannot score 'p0'$"):
        score(PooledReward(workers, 3), pictures(6))
    assert workers.collected == 3 and workers.started == 3


def test_an_error_on_a_replacement_worker() -> None:
    with pytest.raises(RewardError, match=r"^cannot score 'p1'$"):
        score(PooledReward(Workers(fatal={"p0": 1}, broken=["p1"]), 1), pictures(2))


@pytest.mark.parametrize(
    ("refuses", "line"),
    [
        (InputError("unknown option"), "^unknown option$"),
        (WorkerDied("no memory"), "no memory"),
    ],
)
def test_workers_are_stopped_if_the_reward_cannot_be_built(refuses: Exception, line: str) -> None:
    workers = Workers(refuses=refuses)
    with pytest.raises(InputError, match=line) as caught:
        PooledReward(workers, 3)
    assert not isinstance(caught.value, RewardError) and workers.stopped == [0, 1, 2]


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.rewards.core.extras.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^reward\.ray_workers needs ray: pip install 'stepcredit\[ray\]'$"):
        ray_reward(RewardSection(ray_workers=2))


def test_the_sigterm_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with _same_sigterm_handler():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


# Ray itself


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray has no wheel for every Python and platform")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


REWARDS = """
import os, pathlib

def score(images, prompts, metadata, folder=None):
    marker = pathlib.Path(folder) / "died"
    if "kill" in prompts or ("kill once" in prompts and not marker.exists()):
        marker.touch()
        os._exit(1)
    if "fail" in prompts:
        raise RuntimeError("broken")
    return images.mean((1, 2, 3))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_local_actors(ray: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    section = RewardSection(name=f"{tmp_path}/mine.py:score", options={"folder": str(tmp_path)})
    alone, shared = build_reward(section), build_reward(section.model_copy(update={"ray_workers": 2}))
    images, meta = pictures(7), [{}] * 7

    assert torch.equal(shared(images, ["a"] * 7, meta), alone(images, ["a"] * 7, meta))
    assert torch.equal(shared(images, ["kill once", *["a"] * 6], meta), alone(images, ["a"] * 7, meta))
    with pytest.raises(RewardError, match=r"raised RuntimeError \(broken\) on 3 images, first prompt 'a'"):
        shared(images, [*["a"] * 6, "fail"], meta)
    with pytest.raises(RewardError, match="two reward workers died one after the other on 4 images"):
        shared(images, ["kill", *["a"] * 6], meta)
    assert len(ray.nodes()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_actors_find_the_modules_of_the_current_folder(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_reward.py").write_text("from my_helper import score\n")
    (tmp_path / "my_helper.py").write_text("def score(images):\n    return images.mean((1, 2, 3))\n")
    monkeypatch.chdir(tmp_path)
    for name in ("my_reward:score", "my_reward.py:score"):
        shared = build_reward(RewardSection(name=name, ray_workers=1))
        assert shared(torch.ones(2, 3, 4, 4), ["a", "b"], [{}, {}]).tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_insufficient_resources(ray: Any) -> None:
    with pytest.raises(InputError, match="ray_workers is 3, which needs 3 CPUs, but Ray has 2"):
        build_reward(RewardSection(name="warmth", ray_workers=3))
    with pytest.raises(InputError, match=r"ray_workers is 1, which needs 0\.5 GPUs, but Ray has 0"):
        build_reward(RewardSection(name="warmth", ray_workers=1, ray_gpus=0.5))
    with pytest.raises(InputError, match=r"^unknown warmth option 'x'; known: none$"):
        build_reward(RewardSection(name="warmth", options={"x": 1}, ray_workers=1))
