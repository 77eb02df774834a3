"""Which process samples and trains which images, and how results are gathered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.distributed.test_process_group import FakeProcessGroup
from torch import Tensor

from stepcredit.algorithms.minibatch import image_groups
from stepcredit.distributed.partition import Partition, partition_images, unpartitioned


def groups(images: int, updates: int) -> list[Tensor]:
    return list(image_groups(images, updates, np.random.default_rng(0)))


@pytest.mark.parametrize(("images", "updates", "world_size"), [(64, 4, 2), (10, 3, 4), (7, 7, 3), (5, 1, 5)])
def test_every_image_has_one_owner_and_each_update_is_balanced(images: int, updates: int, world_size: int) -> None:
    partitions = [
        partition_images(groups(images, updates), FakeProcessGroup(rank, world_size)) for rank in range(world_size)
    ]
    assert sorted(torch.cat([partition.rows for partition in partitions]).tolist()) == list(range(images))
    assert max(len(partition.rows) for partition in partitions) == partitions[0].size
    for group in groups(images, updates):
        parts = [len(partition.local_rows(group)) for partition in partitions]
        assert sum(parts) == len(group) and max(parts) - min(parts) <= 1
        assert partitions[0].largest_part(group) == max(parts)


def test_local_rows_are_positions_among_the_images_of_the_process() -> None:
    for rank in range(3):
        partition = partition_images(groups(11, 2), FakeProcessGroup(rank, 3))
        for group in groups(11, 2):
            local = partition.rows[partition.local_rows(group)]
            assert set(local.tolist()) == set(group.tolist()) & set(partition.rows.tolist())


def test_gather_restores_the_order_of_the_images() -> None:
    values = torch.arange(11.0) * 10
    rows = [partition_images(groups(11, 2), FakeProcessGroup(rank, 3)).rows for rank in range(3)]
    for rank in range(3):
        processes = FakeProcessGroup(rank, 3, lambda _: [values[part] for part in rows])
        partition = partition_images(groups(11, 2), processes)
        assert partition.gather(values[partition.rows]).equal(values)
        assert partition.local(list("abcdefghijk")) == ["abcdefghijk"[row] for row in partition.rows.tolist()]


def test_counts_are_summed_and_means_averaged_over_images() -> None:
    gathered = [
        (3, {"fallbacks": 1, "start": 0.5}),
        (1, {"fallbacks": 2, "start": 0.9}),
        (0, {"fallbacks": 0, "start": 0.0}),
    ]
    partition = Partition(torch.tensor([0, 0, 0, 1]), FakeProcessGroup(0, 3, lambda _: gathered))
    assert partition.reduce_metrics({"fallbacks": 1, "start": 0.5}) == {"fallbacks": 3, "start": pytest.approx(0.6)}


def test_one_process_has_all_images() -> None:
    partition, values = unpartitioned(3), torch.tensor([3.0, 1.0, 2.0])
    assert partition.gather(values) is values and partition.order.tolist() == partition.rows.tolist() == [0, 1, 2]
    assert partition.reduce_metrics({"start": 0.1}) == {"start": 0.1}
