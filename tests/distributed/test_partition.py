"""Who samples and trains which images, and how what processes know is put together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.distributed.partition import Share, alone, deal
from stepcredit.distributed.process_group import Processes, joined
from stepcredit.errors import InputError, StepcreditError
from stepcredit.training.sampling_plan import image_groups


class Imagined(Processes):
    """One of several processes, whose exchanges give what `others` say."""

    def __init__(self, index: int, count: int, others: Callable[[Any], list[Any]] = lambda value: [value]) -> None:
        self.index, self.count, self._others = index, count, others

    def exchange(self, value: Any) -> list[Any]:
        return self._others(value)


def groups(images: int, updates: int) -> list[Tensor]:
    return list(image_groups(images, updates, np.random.default_rng(0)))


@pytest.mark.parametrize(("images", "updates", "count"), [(64, 4, 2), (10, 3, 4), (7, 7, 3), (5, 1, 5)])
def test_every_image_has_one_owner_and_every_process_its_part_of_each_update(
    images: int, updates: int, count: int
) -> None:
    shares = [deal(groups(images, updates), Imagined(index, count)) for index in range(count)]
    assert sorted(torch.cat([share.rows for share in shares]).tolist()) == list(range(images))
    assert max(len(share.rows) for share in shares) == shares[0].size
    for group in groups(images, updates):
        parts = [len(share.among(group)) for share in shares]
        assert sum(parts) == len(group) and max(parts) - min(parts) <= 1
        assert shares[0].largest(group) == max(parts)


def test_the_images_of_a_group_are_found_in_the_rows_of_a_process() -> None:
    for index in range(3):
        share = deal(groups(11, 2), Imagined(index, 3))
        for group in groups(11, 2):
            own = share.rows[share.among(group)]
            assert set(own.tolist()) == set(group.tolist()) & set(share.rows.tolist())


def test_what_processes_have_comes_together_in_the_order_of_the_images() -> None:
    values = torch.arange(11.0) * 10
    rows = [deal(groups(11, 2), Imagined(index, 3)).rows for index in range(3)]
    for index in range(3):
        share = deal(groups(11, 2), Imagined(index, 3, lambda _: [values[part] for part in rows]))
        assert share.whole(values[share.rows]).equal(values)
        assert share.of(list("abcdefghijk")) == ["abcdefghijk"[row] for row in share.rows.tolist()]


def test_counts_are_added_up_and_means_averaged_over_images() -> None:
    found = [
        (3, {"fallbacks": 1, "start": 0.5}),
        (1, {"fallbacks": 2, "start": 0.9}),
        (0, {"fallbacks": 0, "start": 0.0}),
    ]
    share = Share(torch.tensor([0, 0, 0, 1]), Imagined(0, 3, lambda _: found))
    assert share.figures({"fallbacks": 1, "start": 0.5}) == {"fallbacks": 3, "start": pytest.approx(0.6)}


def test_one_process_has_everything_as_it_is() -> None:
    share, values = alone(3), torch.tensor([3.0, 1.0, 2.0])
    assert share.whole(values) is values and share.order.tolist() == share.rows.tolist() == [0, 1, 2]
    assert share.figures({"start": 0.1}) == {"start": 0.1}


def test_an_error_of_any_process_is_raised_on_all() -> None:
    told: list[Any] = []

    def fail() -> None:
        raise StepcreditError("disk on fire")

    with pytest.raises(StepcreditError, match="disk on fire"):
        Imagined(1, 2, lambda own: told.append(own) or [own, own]).together(fail)
    other = Imagined(0, 2, lambda own: [own, *told])
    with pytest.raises(StepcreditError, match="disk on fire"):
        other.together(lambda: 1)
    assert other.agreed


def test_the_main_process_alone_works_for_all() -> None:
    calls: list[int] = []
    answer = Imagined(0, 2, lambda own: [own, own]).on_main(lambda: calls.append(1) or 7)
    other = Imagined(1, 2, lambda own: [own, own]).on_main(lambda: calls.append(2) or 8)
    assert (answer, other, calls) == (7, None, [1])


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert joined(1, cpu=True).count == joined(None, cpu=True).count == 1
    with pytest.raises(InputError, match=r"run\.processes is 2, but the launcher has started one process"):
        joined(2, cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"run\.processes is 2, but the launcher has started 4 processes$"):
        joined(2, cpu=True)
