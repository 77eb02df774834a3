"""The rules of taste on pictures with known values."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from stepcredit.shapes import rules
from stepcredit.shapes.build.random_pictures import draw_pictures, random_pictures
from stepcredit.shapes.render import SIZE, Pictures, coverage, measures
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.world import caption, sample_scene

MIDDLE = (SIZE / 2, SIZE / 2)
RED, GREEN, BLUE, CYAN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 1.0)
GREY, WHITE, BLACK = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
Color = tuple[float, float, float]


def picture(
    foreground: Color = RED,
    background: Color = CYAN,
    center: tuple[float, float] = MIDDLE,
    radius: float = 8.0,
    shape: int = 0,
    texture: int = 0,
) -> Pictures:
    return Pictures(
        torch.tensor([shape]),
        torch.tensor([texture]),
        torch.tensor([center]),
        torch.tensor([radius]),
        torch.tensor([foreground]),
        torch.tensor([background]),
    )


def value(name: str, one: Pictures, text: str = "") -> float:
    return float(RULES[name](one, [text]))


@pytest.mark.parametrize("name", RULES)
def test_rule_values_are_between_0_and_1(name: str) -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(300)]
    pictures, _ = draw_pictures(scenes, rng)
    values = RULES[name](pictures, [caption(scene) for scene in scenes])
    assert values.shape == (300,) and values.min() >= 0 and values.max() <= 1 + 1e-6
    assert values.std() > 0.1


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (RED, CYAN, 1.0),  # opposite
        (RED, RED, 1.0),  # alike
        (RED, GREEN, (1 + math.cos(math.radians(240))) / 2),
        (RED, (1.0, 1.0, 0.0), (1 + math.cos(math.radians(120))) / 2),
        (RED, WHITE, 0.5),
        (BLACK, WHITE, 0.5),
        ((0.75, 0.25, 0.25), (0.25, 0.75, 0.75), 1.0),  # opposite, of just the chroma that counts in full
        ((0.625, 0.375, 0.375), (0.375, 0.625, 0.625), 0.75),  # opposite, of half of it
    ],
)
def test_harmony_of_two_colors(left: Color, right: Color, expected: float) -> None:
    assert value("harmony", picture(left, right)) == pytest.approx(expected, abs=1e-5)
    assert value("harmony", picture(right, left)) == pytest.approx(expected, abs=1e-5)


def test_harmony_and_balance_are_invariant_to_recoloring() -> None:
    pictures = random_pictures(100, np.random.default_rng(1))
    for name in ("harmony", "balance"):
        values = RULES[name](pictures, [""] * 100)
        for order in permutations(range(3)):
            swapped = replace(
                pictures, foreground=1 - pictures.foreground[:, order], background=1 - pictures.background[:, order]
            )
            torch.testing.assert_close(RULES[name](swapped, [""] * 100), values, atol=1e-5, rtol=0)


def test_balance_of_size_and_position() -> None:
    radius = math.sqrt(rules.BEST_SHARE * SIZE**2 / math.pi)
    assert value("balance", picture(radius=radius)) == pytest.approx(1, abs=0.01)
    assert value("balance", picture(radius=radius / 2)) == pytest.approx(0.5, abs=0.02), "a quarter of the share"
    aside = picture(radius=6.0, center=(16 + 6.0, 16.0))
    assert value("balance", picture(radius=6.0)) - value("balance", aside) == pytest.approx(6 / 16 / 0.75 / 2, abs=0.01)


def test_balance_counts_only_the_visible_part() -> None:
    cut = picture(radius=8.0, center=(32.0, 16.0))
    assert float(coverage(cut).mean()) == pytest.approx(math.pi * 64 / 2 / SIZE**2, rel=0.02)
    centroid = 1 - 4 * 8 / (3 * math.pi) / 16
    filled = 1 - abs(math.log2(math.pi * 32 / SIZE**2 / rules.BEST_SHARE)) / 2
    assert value("balance", cut) == pytest.approx((max(0, 1 - centroid / 0.75) + filled) / 2, abs=0.01)


@pytest.mark.parametrize("name", ["balance", "legibility"])
def test_flipped_pictures_have_the_same_value(name: str) -> None:
    pictures = replace(random_pictures(100, np.random.default_rng(2)), shape=torch.zeros(100, dtype=torch.int64))
    flipped = replace(pictures, center=SIZE - pictures.center.flip(1))
    torch.testing.assert_close(RULES[name](flipped, [""] * 100), RULES[name](pictures, [""] * 100))


def test_legibility_is_the_wcag_contrast_ratio() -> None:
    assert value("legibility", picture(BLACK, WHITE)) == pytest.approx(1)
    assert value("legibility", picture(WHITE, BLACK)) == pytest.approx(1)
    # WCAG's own example values: luminance of pure green 0.7152, of pure blue 0.0722.
    expected = math.log((0.7152 + 0.05) / (0.0722 + 0.05)) / math.log(21)
    assert value("legibility", picture(GREEN, BLUE)) == pytest.approx(expected, abs=1e-5)
    assert value("legibility", picture(RED, RED)) == 0


def test_legibility_of_textures() -> None:
    # Stripes of a light shape on black are half as bright; those of a dark one on black are half white.
    bright = math.log(21) * value("legibility", picture(WHITE, BLACK, texture=1))
    assert bright == pytest.approx(math.log((0.5225 - 0.3085 + 0.05) / 0.05), abs=0.01)
    assert value("legibility", picture(BLACK, WHITE, texture=1)) < value("legibility", picture(BLACK, WHITE))
    assert value("legibility", picture(BLACK, BLACK, texture=1)) == 0


def test_legibility_of_a_tiny_shape() -> None:
    share = math.pi * 9 / SIZE**2
    assert value("legibility", picture(BLACK, WHITE, radius=3.0)) == pytest.approx(share / 0.08, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_faithfulness_prefers_the_own_caption(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(100)]
    captions = [caption(scene) for scene in scenes]
    pictures = measures(scenes, rng)
    own = RULES["faithfulness"](pictures, captions)
    others = RULES["faithfulness"](pictures, [*captions[1:], captions[0]])
    assert own.min() > 0.8 and (own > others).all() and others.mean() < 0.45


def test_faithfulness_weights_mentioned_words_equally() -> None:
    red_circle = replace(picture(), foreground=rules.PALETTE[:1], background=rules.PALETTE[2:3])
    assert value("faithfulness", red_circle, "a red circle on a blue background") == pytest.approx(1)
    assert value("faithfulness", red_circle, "a red square on a blue background") == pytest.approx(2 / 3)
    assert value("faithfulness", red_circle, "a striped red circle on a blue background") == pytest.approx(3 / 4)
    assert value("faithfulness", red_circle, "a large red circle on a blue background") == pytest.approx(
        (3 + 1 - 1 / 3) / 4, abs=1e-6
    )
    aside = replace(red_circle, center=torch.tensor([[16.0, 16 + 3.5]]))
    text = "a red circle on a blue background in the center"
    assert value("faithfulness", aside, text) == pytest.approx((3 + 0.5) / 4)
    assert value("faithfulness", red_circle, "a cat") == 0


def test_utility_of_damaged_pictures() -> None:
    values, left = torch.tensor([0.8, 0.8, 0.8, 0.0]), torch.tensor([1.0, 0.5, 0.0, 1.0])
    torch.testing.assert_close(rules.utility(values, left), torch.tensor([0.8, -0.1, -1.0, 0.0]))


def test_visibility() -> None:
    assert float(rules.visibility(picture(RED, RED))) == 0
    assert float(rules.visibility(picture(GREY, (0.56, 0.56, 0.56)))) == pytest.approx(0.06 / 0.15)
    assert float(rules.visibility(picture())) == 1
