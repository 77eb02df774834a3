"""The Fréchet distance of a prompt set from renders, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.evaluation.set_statistics import PerSet, set_statistics
from stepcredit.evaluation.set_statistics.frechet import OF_RENDERS, FrechetMeter
from stepcredit.shapes.composition import realism
from stepcredit.shapes.composition.captions import distinct_captions, parse
from stepcredit.shapes.composition.scenes import render, sample_scene

CAPTIONS = [caption for caption in distinct_captions(30, "held_out", seed=0) for _ in range(2)]


def drawn(seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return render([sample_scene(parse(caption), rng) for caption in CAPTIONS], rng)


def measured(images: Tensor, captions: list[str] = CAPTIONS, size: int = 16) -> PerSet | None:
    meter = FrechetMeter(2)
    for start in range(0, len(images), size):
        meter.add(images[start : start + size], captions[start : start + size])
    return meter.value()


def test_it_is_that_of_all_images_however_they_are_split() -> None:
    images = drawn(5)
    for size in (1, 7, 100):
        found = measured(images, size=size)
        assert found is not None and found.value == pytest.approx(realism.realism(images, CAPTIONS), rel=1e-6)


def test_bleached_images_are_farther_than_fresh_renders() -> None:
    images = drawn(5)
    near, far = measured(images), measured((images + 0.1).clamp(0, 1))
    assert near is not None and far is not None
    assert near.baselines == far.baselines and list(near.baselines) == [OF_RENDERS] == list(FrechetMeter.baselines)
    fresh = near.baselines[OF_RENDERS]
    assert 0 < fresh < 2 and near.value < 4 * fresh and far.value > 4 * near.value


@pytest.mark.parametrize(
    ("images", "captions"),
    [
        (torch.rand(3, 3, 32, 32), ["a red circle", "a lake", "a red circle"]),
        (torch.rand(3, 3, 64, 64), ["a red circle"] * 3),
        (torch.rand(3, 1, 32, 32), ["a red circle"] * 3),
        (torch.rand(1, 3, 32, 32), ["a red circle"]),
    ],
    ids=["another prompt", "another size", "gray", "one image"],
)
def test_other_images_have_none(images: Tensor, captions: list[str]) -> None:
    for size in (1, 3):
        assert measured(images, captions, size) is None


def test_renders_are_drawn_once_for_all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    images, drawings = drawn(5), []
    monkeypatch.setattr(realism, "render", lambda *arguments: drawings.append(1) or render(*arguments))
    captions = CAPTIONS[::-1]
    for side in (images, 1 - images):
        measured(side, captions)
    assert len(drawings) == 2, "the reference and the fresh renders"


def test_every_file_of_the_folder_is_a_statistic_with_words_for_tables() -> None:
    assert set_statistics()["frechet"] is FrechetMeter
    for statistic in set_statistics().values():
        assert statistic.label and statistic.meaning
