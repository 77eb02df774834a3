"""Who samples and trains which images, and how what processes know is put together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.algorithms.minibatch import image_groups
from stepcredit.distributed.partition import Partition, partition_images, unpartitioned
from stepcredit.distributed.process_group import ProcessGroup, init_process_group
from stepcredit.errors import InputError, StepcreditError


class Imagined(ProcessGroup):
    """One of several processes, whose exchanges give what `others` say."""

    def __init__(self, rank: int, world_size: int, others: Callable[[Any], list[Any]] = lambda value: [value]) -> None:
        self.rank, self.world_size, self._others = rank, world_size, others

    def all_gather(self, value: Any) -> list[Any]:
        return self._others(value)


def groups(images: int, updates: int) -> list[Tensor]:
    return list(image_groups(images, updates, np.random.default_rng(0)))


@pytest.mark.parametrize(("images", "updates", "count"), [(64, 4, 2), (10, 3, 4), (7, 7, 3), (5, 1, 5)])
def test_every_image_has_one_owner_and_every_process_its_part_of_each_update(
    images: int, updates: int, count: int
) -> None:
    shares = [partition_images(groups(images, updates), Imagined(index, count)) for index in range(count)]
    assert sorted(torch.cat([partition.rows for partition in shares]).tolist()) == list(range(images))
    assert max(len(partition.rows) for partition in shares) == shares[0].size
    for group in groups(images, updates):
        parts = [len(partition.local_rows(group)) for partition in shares]
        assert sum(parts) == len(group) and max(parts) - min(parts) <= 1
        assert shares[0].largest_part(group) == max(parts)


def test_the_images_of_a_group_are_found_in_the_rows_of_a_process() -> None:
    for index in range(3):
        partition = partition_images(groups(11, 2), Imagined(index, 3))
        for group in groups(11, 2):
            own = partition.rows[partition.local_rows(group)]
            assert set(own.tolist()) == set(group.tolist()) & set(partition.rows.tolist())


def test_what_processes_have_comes_together_in_the_order_of_the_images() -> None:
    values = torch.arange(11.0) * 10
    rows = [partition_images(groups(11, 2), Imagined(index, 3)).rows for index in range(3)]
    for index in range(3):
        partition = partition_images(groups(11, 2), Imagined(index, 3, lambda _: [values[part] for part in rows]))
        assert partition.gather(values[partition.rows]).equal(values)
        assert partition.local(list("abcdefghijk")) == ["abcdefghijk"[row] for row in partition.rows.tolist()]


def test_counts_are_added_up_and_means_averaged_over_images() -> None:
    found = [
        (3, {"fallbacks": 1, "start": 0.5}),
        (1, {"fallbacks": 2, "start": 0.9}),
        (0, {"fallbacks": 0, "start": 0.0}),
    ]
    partition = Partition(torch.tensor([0, 0, 0, 1]), Imagined(0, 3, lambda _: found))
    assert partition.reduce_metrics({"fallbacks": 1, "start": 0.5}) == {"fallbacks": 3, "start": pytest.approx(0.6)}


def test_one_process_has_everything_as_it_is() -> None:
    partition, values = unpartitioned(3), torch.tensor([3.0, 1.0, 2.0])
    assert partition.gather(values) is values and partition.order.tolist() == partition.rows.tolist() == [0, 1, 2]
    assert partition.reduce_metrics({"start": 0.1}) == {"start": 0.1}


def test_an_error_of_any_process_is_raised_on_all() -> None:
    told: list[Any] = []

    def fail() -> None:
        raise StepcreditError("disk on fire")

    with pytest.raises(StepcreditError, match="disk on fire"):
        Imagined(1, 2, lambda own: told.append(own) or [own, own]).run_on_all(fail)
    other = Imagined(0, 2, lambda own: [own, *told])
    with pytest.raises(StepcreditError, match="disk on fire"):
        other.run_on_all(lambda: 1)
    assert other.error_is_shared


def test_the_main_process_alone_works_for_all() -> None:
    calls: list[int] = []
    answer = Imagined(0, 2, lambda own: [own, own]).run_on_main(lambda: calls.append(1) or 7)
    other = Imagined(1, 2, lambda own: [own, own]).run_on_main(lambda: calls.append(2) or 8)
    assert (answer, other, calls) == (7, None, [1])


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert init_process_group(1, cpu=True).world_size == init_process_group(None, cpu=True).count == 1
    with pytest.raises(InputError, match=r"run\.processes is 2, but the launcher has started one process"):
        init_process_group(2, cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"run\.processes is 2, but the launcher has started 4 processes$"):
        init_process_group(2, cpu=True)
