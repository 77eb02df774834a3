"""Training data of the preference scorers: pictures, corruptions and the noisy judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from stepcredit.shapes.build import preference_pairs
from stepcredit.shapes.build.autoencoder import decode, encode
from stepcredit.shapes.build.corruptions import LATENT_CORRUPTIONS, PIXEL_CORRUPTIONS, damage
from stepcredit.shapes.build.loop import draw_images, draw_scenes
from stepcredit.shapes.build.preference_pairs import Comparisons, draw_comparisons, judge
from stepcredit.shapes.build.random_pictures import MAX_CHANGES, perturbed_scene, random_pictures, where
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.world import ATTRIBUTES, is_held_out, parse

CHANGES = {**PIXEL_CORRUPTIONS, **LATENT_CORRUPTIONS}


@pytest.fixture(scope="module")
def data(vae: AutoencoderKL) -> Comparisons:
    return draw_comparisons(np.random.default_rng(0), vae, 96, 4, held_out=False)


def test_perturbed_scene_differs_in_a_few_words() -> None:
    rng = np.random.default_rng(0)
    changes = []
    for scene in draw_scenes(rng, 200):
        other = perturbed_scene(scene, rng)
        assert other.foreground != other.background
        changes.append(sum(getattr(scene, name) != getattr(other, name) for name in ATTRIBUTES))
    assert set(changes) == set(range(1, MAX_CHANGES + 1))


def test_where_selects_rows() -> None:
    left, right = (random_pictures(3, np.random.default_rng(seed)) for seed in (0, 1))
    mixed = where(torch.tensor([True, False, True]), left, right)
    assert torch.equal(mixed.center, torch.stack([left.center[0], right.center[1], left.center[2]]))
    assert torch.equal(mixed.radius, torch.stack([left.radius[0], right.radius[1], left.radius[2]]))


@pytest.mark.parametrize("name", CHANGES)
def test_corruption_grows_with_severity(name: str, vae: AutoencoderKL) -> None:
    clean = draw_images(np.random.default_rng(0), 64)
    start = encode(vae, clean) if name in LATENT_CORRUPTIONS else clean
    distances = []
    for severity in (0.0, 0.1, 0.5, 1.0):
        changed = CHANGES[name](start, torch.full((64, 1, 1, 1), severity), np.random.default_rng(1))
        assert changed.shape == start.shape
        distances.append(float((changed - start).square().mean().sqrt()))
    assert distances[0] == pytest.approx(0, abs=1e-6) and distances == sorted(distances)
    assert distances[3] > 3 * distances[1] and distances[2] > 0.03


def test_damage_of_severity() -> None:
    severity = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0])
    torch.testing.assert_close(damage(severity), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_autoencoder_reconstructs_renders(vae: AutoencoderKL) -> None:
    clean = draw_images(np.random.default_rng(0), 32)
    assert (decode(vae, encode(vae, clean)) - clean).square().mean().sqrt() < 0.06


def test_comparisons_are_reproducible(vae: AutoencoderKL) -> None:
    first, again, other = (draw_comparisons(np.random.default_rng(seed), vae, 8, 4, False) for seed in (1, 1, 2))
    assert first.captions == again.captions and torch.equal(first.images, again.images)
    assert all(torch.equal(first.utilities[name], again.utilities[name]) for name in RULES)
    assert not torch.equal(first.images, other.images)


def test_comparisons_hold_clean_and_damaged_images(data: Comparisons) -> None:
    assert len(data) == 96 and data.images.shape == (96, 4, 3, 32, 32)
    assert data.images.min() >= 0 and data.images.max() <= 1
    assert all(
        values.shape == (96, 4) and values.min() >= -1 and values.max() <= 1 for values in data.utilities.values()
    )
    undamaged = data.damages.amax(1) == 0
    assert 0.4 < undamaged.float().mean() < 0.75, "half of the captions, and some by chance"
    lost = data.damages == 1
    assert 0.1 < lost.float().mean() < 0.3
    assert all((values[lost] == -1).all() for values in data.utilities.values())
    plain = data.images.flatten(3).std(3).amax(2) == 0
    assert plain.any() and (plain <= (data.damages == 1) | (data.utilities["balance"] < 0)).all()


def test_comparisons_use_no_held_out_caption(vae: AutoencoderKL, data: Comparisons) -> None:
    assert all(map(parse, data.captions)) and not any(map(is_held_out, data.captions))
    assert all(map(is_held_out, draw_comparisons(np.random.default_rng(0), vae, 8, 2, held_out=True).captions))


def test_some_images_match_their_caption(data: Comparisons) -> None:
    best = data.utilities["faithfulness"].amax(1)
    assert (best > 0.8).float().mean() > 0.4 and data.utilities["faithfulness"].median() < 0.5


def test_judge_follows_bradley_terry() -> None:
    left, right = torch.full((20_000,), 0.05), torch.zeros(20_000)
    share = judge(left, right, 0.05, np.random.default_rng(0)).float().mean()
    assert float(share) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.01)
    assert float(judge(left, right, 1e-4, np.random.default_rng(0)).float().mean()) == 1


def test_chunks_are_concatenated_in_order(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference_pairs, "CHUNK", 8)
    data = draw_comparisons(np.random.default_rng(3), vae, 5, 4, False)
    rng = np.random.default_rng(3)
    parts = [draw_comparisons(rng, vae, count, 4, False) for count in (2, 2, 1)]
    assert data.captions == [caption for part in parts for caption in part.captions]
    assert torch.equal(data.images, torch.cat([part.images for part in parts]))


def test_invisible_shapes_have_utility_minus_one(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference_pairs, "visibility", lambda pictures: torch.zeros(len(pictures)))
    data = draw_comparisons(np.random.default_rng(0), vae, 4, 2, False)
    assert all((values == -1).all() for values in data.utilities.values()) and (data.damages < 1).any()
