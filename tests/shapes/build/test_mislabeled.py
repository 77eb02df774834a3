"""Training pairs of the composition world with wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from stepcredit.shapes.build import mislabeled
from stepcredit.shapes.build.mislabeled import TRUE, composition_data, draw_images
from stepcredit.shapes.composition.captions import parse, split_of
from stepcredit.shapes.composition.claims import TASKS, Claim, all_claims
from stepcredit.shapes.composition.detector import detect
from stepcredit.shapes.composition.facts import facts
from stepcredit.shapes.pipeline import load_pipeline


def differences(left: Claim, right: Claim) -> int:
    """In how many words two claims of the same number of objects differ."""
    pairs = zip(left.objects, right.objects, strict=True)
    words = [(a.shape, b.shape) for a, b in pairs]
    words += [(a.color, b.color) for a, b in zip(left.objects, right.objects, strict=True)]
    return sum(a != b for a, b in words) + (left.relation != right.relation)


@pytest.mark.parametrize("task", TASKS)
def test_the_share_of_true_labels(task: str) -> None:
    rng, claims = np.random.default_rng(0), list(all_claims(task))
    drawn = [(claim, mislabeled.mislabeled(claim, rng)) for claim in (claims * 2000)[:4000]]
    assert np.mean([before == after for before, after in drawn]) == pytest.approx(TRUE[task], abs=0.03)
    assert {after for _, after in drawn} <= set(claims)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "counting"])
def test_a_wrong_label_differs_in_one_respect(task: str) -> None:
    rng = np.random.default_rng(1)
    changes = [differences(claim, mislabeled.mislabeled(claim, rng)) for claim in all_claims(task) for _ in range(20)]
    wrong = [count for count in changes if count]
    assert set(wrong) == {2 if task == "color_attribution" else 1}


def test_every_wrong_number_is_as_frequent() -> None:
    rng, claim = np.random.default_rng(2), parse("three circles")
    numbers = [len(mislabeled.mislabeled(claim, rng).objects) for _ in range(4000)]
    wrong = [numbers.count(2), numbers.count(4)]
    assert set(numbers) == {2, 3, 4} and wrong[0] == pytest.approx(wrong[1], rel=0.15)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    vae: AutoencoderKL = load_pipeline().vae
    return vae


def test_pairs_are_reproducible_and_of_training_captions(vae: AutoencoderKL) -> None:
    draws = [composition_data(vae, np.random.default_rng(seed), 300)(256) for seed in (0, 0, 1)]
    (latents, captions), again, other = draws
    assert latents.shape == (256, 4, 8, 8) and len(captions) == 256
    assert torch.equal(latents, again[0]) and captions == again[1] and captions != other[1]
    assert {split_of(caption) for caption in captions} == {"training"}
    assert {parse(caption).task for caption in captions} == set(TASKS)


def test_images_of_the_autoencoder_show_scenes_of_all_tasks() -> None:
    images = draw_images(np.random.default_rng(0), 60)
    counts = [len(found) for found in detect(images)]
    assert images.shape == (60, 3, 32, 32) and set(counts) == {1, 2, 3, 4}


def test_pictures_are_what_the_wrong_label_says(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    own = mislabeled.render

    def recording(*arguments: object) -> torch.Tensor:
        drawn.append(own(*arguments))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(mislabeled, "render", recording)
    monkeypatch.setattr(mislabeled, "mislabeled", lambda claim, rng: parse("three circles"))
    composition_data(vae, np.random.default_rng(0), 30)
    held = [facts(parse("three circles"), found) for found in detect(torch.cat(drawn))]
    assert len(held) == 30 and all(all(row.values()) for row in held)
