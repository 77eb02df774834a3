"""Augmentations, and their use in the scorer of harmony."""

from __future__ import annotations

import torch

from stepcredit.shapes.augmentations import FLIPS, RECOLORINGS, TEST_TIME, Augmentation
from stepcredit.shapes.scorers import Scorer


def test_augmentations() -> None:
    images = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    assert torch.equal(Augmentation()(images), images)
    assert Augmentation(flipped=(3,))(images)[0, 0].tolist() == images[0, 0].flip(1).tolist()
    assert Augmentation(transposed=True)(images)[0, 0].tolist() == images[0, 0].T.tolist()
    assert torch.equal(Augmentation(channels=(2, 0, 1))(images), images[:, [2, 0, 1]])
    assert torch.equal(Augmentation(inverted=True)(images), 1 - images)


def test_test_time_augmentations_cover_recolorings_and_flips() -> None:
    assert len(RECOLORINGS) == len(set(RECOLORINGS)) == len(TEST_TIME) == 12 and len(set(FLIPS)) == 8
    assert {(view.channels, view.inverted) for view in TEST_TIME} == set(RECOLORINGS)
    assert {(view.flipped, view.transposed) for view in TEST_TIME} == set(FLIPS)
    images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert len({view(images).numpy().tobytes() for view in TEST_TIME}) == 12


def test_harmony_averages_over_augmentations_in_eval_mode() -> None:
    torch.manual_seed(0)
    images, captions = torch.rand(5, 3, 32, 32), [""] * 5
    scorer = Scorer("harmony").requires_grad_(False)
    one = scorer(images, captions)
    torch.testing.assert_close(one, scorer.table(images, [""])[:, 0])
    each = torch.stack([scorer(view(images), captions) for view in TEST_TIME])
    scorer.eval()
    torch.testing.assert_close(scorer(images, captions), each.mean(0))
    recolored = TEST_TIME[5](images)
    moved = (scorer(recolored, captions) - scorer(images, captions)).abs().mean()
    assert moved < 0.3 * (each[5] - one).abs().mean(), "the set lacks some flips"


def test_other_scorers_do_not_augment() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    for name in ("balance", "legibility", "faithfulness"):
        scorer = Scorer(name).requires_grad_(False)
        assert torch.equal(scorer(images, ["", ""]), scorer.eval()(images, ["", ""]))
