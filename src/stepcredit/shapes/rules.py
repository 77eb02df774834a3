"""Four rules of taste: the ground truth behind the preference rewards.

A rule maps the exact measures of a picture and its caption to a value in [0, 1]. `utility` combines this value with
the share of the picture that is left in the judged image. Nothing is left if the shape is invisible or all is noise.
The scorers never see the rules; they learn from the choices of a noisy judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from stepcredit.shapes.render import CENTERS, PALETTE, RADII, SIZE, Pictures, coverage
from stepcredit.shapes.world import ATTRIBUTES, parse

Rule = Callable[[Pictures, Sequence[str]], Tensor]

VISIBLE_CONTRAST = 0.15
FULL_CHROMA = 0.5
MIDDLE = 0.75
BEST_SHARE, DOUBLINGS = 0.22, 2.0
LEGIBLE_SHARE = 0.08
COLOR_REACH, RADIUS_REACH, PLACE_REACH = 0.3, 3.0, 7.0


def harmony(pictures: Pictures, captions: Sequence[str]) -> Tensor:
    """Prefers hues that are equal or opposite over hues in between; gray is neutral.

        (1 + sqrt(c_f c_b) cos(2 D)) / 2,  c = min(1, C / 0.5)

    D is the angle between the hues of foreground and background, and C is their chroma, both in the projection along
    the gray diagonal of the RGB cube. A strong simplification of Moon and Spencer (J. Opt. Soc. Am. 34, 1944). (B,).
    """
    foreground, background = _hue_and_chroma(pictures.foreground), _hue_and_chroma(pictures.background)
    chroma = torch.stack([foreground.norm(dim=1), background.norm(dim=1)])
    cosine = (foreground * background).sum(1) / chroma.prod(0).clamp_min(1e-6)
    colorful = (chroma / FULL_CHROMA).clamp_max(1).prod(0).sqrt()
    return (colorful * (2 * cosine.square() - 1) + 1) / 2


def balance(pictures: Pictures, captions: Sequence[str]) -> Tensor:
    """Prefers a shape in the middle that covers about a fifth of the picture.

        (max(0, 1 - r / 0.75) + max(0, 1 - |log2(a / 0.22)| / 2)) / 2

    r is the distance of the visible shape's centroid from the middle, in half-widths of the picture. a is the share of
    the picture that the shape covers. (B,).
    """
    covered = coverage(pictures)
    share = covered.mean((1, 2)).clamp_min(1e-6)
    place = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    x = (covered.mean(1) * place).mean(1) / share
    y = (covered.mean(2) * place).mean(1) / share
    middle = _falling((x.square() + y.square()).sqrt(), MIDDLE)
    return (middle + _falling((share / BEST_SHARE).log2().abs(), DOUBLINGS)) / 2


def legibility(pictures: Pictures, captions: Sequence[str]) -> Tensor:
    """Prefers a shape whose lightness differs from the background in all its parts, and that is not tiny.

        min(1, a / 0.08) ln(k) / ln(21)

    k is WCAG 2's contrast ratio (L1 + 0.05) / (L2 + 0.05) between foreground and background, or between the texture's
    second color and the background if that is smaller. a is the share of the picture that the shape covers. (B,).
    """
    contrast = _contrast(pictures.foreground, pictures.background)
    second = _contrast(pictures.shade, pictures.background)
    solid = pictures.texture == ATTRIBUTES["texture"].index("solid")
    worst = torch.where(solid, contrast, torch.minimum(contrast, second))
    return (coverage(pictures).mean((1, 2)) / LEGIBLE_SHARE).clamp_max(1) * worst.log() / math.log(21)


def faithfulness(pictures: Pictures, captions: Sequence[str]) -> Tensor:
    """Prefers a picture that matches its caption; every mentioned attribute counts the same.

        mean of match over the mentioned attributes

    The match of shape and texture is 1 or 0. The match of the others is max(0, 1 - d / reach), where d is the root mean
    square distance of colors (reach 0.3), the difference of radii (3 pixels) or the distance of centers (7 pixels). A
    text that is not a caption of the world gives 0. (B,).
    """
    mentioned = [parse(text) for text in captions]
    total, count = torch.zeros(len(pictures)), torch.zeros(len(pictures))
    for name, words in ATTRIBUTES.items():
        named = torch.tensor([name in words_of for words_of in mentioned])
        label = torch.tensor([words.index(words_of.get(name, words[0])) for words_of in mentioned])
        total += named * _match(pictures, name, label)
        count += named
    return total / count.clamp_min(1)


RULES: Mapping[str, Rule] = {
    "harmony": harmony,
    "balance": balance,
    "legibility": legibility,
    "faithfulness": faithfulness,
}


def visibility(pictures: Pictures) -> Tensor:
    """How visible the shape is: min(1, d / 0.15), d the root mean square distance of foreground and background (B,)."""
    return (_distance(pictures.foreground, pictures.background) / VISIBLE_CONTRAST).clamp_max(1)


def utility(value: Tensor, left: Tensor) -> Tensor:
    """The value of a damaged picture: left value - (1 - left), which is -1 where nothing is left.

    Args:
        value: (B,) in [0, 1], a rule's value of the clean picture.
        left: (B,) in [0, 1], the share of the picture that is left.
    """
    return left * value - (1 - left)


def _match(pictures: Pictures, name: str, label: Tensor) -> Tensor:
    if name in ("foreground", "background"):
        return _falling(_distance(getattr(pictures, name), PALETTE[label]), COLOR_REACH)
    if name == "size":
        return _falling((pictures.radius - RADII[label]).abs(), RADIUS_REACH)
    if name == "position":
        return _falling((pictures.center - CENTERS[label]).norm(dim=1), PLACE_REACH)
    return torch.eq(getattr(pictures, name), label).float()


def _falling(distance: Tensor, reach: float) -> Tensor:
    """Linear from 1 at distance 0 to 0 at `reach`, and 0 beyond."""
    return (-distance / reach + 1).clamp_min(0)


def _distance(left: Tensor, right: Tensor) -> Tensor:
    return (left - right).square().mean(1).sqrt()


def _hue_and_chroma(color: Tensor) -> Tensor:
    """(B,2): the color projected along the gray diagonal. The direction is the hue, the length is the chroma."""
    red, green, blue = color.unbind(1)
    return torch.stack([red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)], 1)


def _contrast(left: Tensor, right: Tensor) -> Tensor:
    """WCAG 2's contrast ratio of two sRGB colors (B,3): (B,), from 1 to 21."""
    first, second = _luminance(left) + 0.05, _luminance(right) + 0.05
    return torch.maximum(first, second) / torch.minimum(first, second)


def _luminance(color: Tensor) -> Tensor:
    linear = torch.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return linear @ torch.tensor([0.2126, 0.7152, 0.0722])
