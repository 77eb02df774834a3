"""Scenes of the shapes world and the captions that describe them.

A scene is one shape on a plain background. Its caption always names the shape, the foreground color and the background
color; size, texture and position are optional. A tenth of the captions, chosen by hash, is held out: no training recipe
uses them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "white", "black")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross"),
    "foreground": COLORS,
    "background": COLORS,
    "size": ("small", "large"),
    "texture": ("solid", "striped", "checkered"),
    "position": ("left", "right", "top", "bottom", "center"),
}
OPTIONAL = ("size", "texture", "position")
PLACES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
HELD_OUT_EVERY = 10


@dataclass(frozen=True)
class Scene:
    """The content of one picture: a word for each attribute of ATTRIBUTES."""

    shape: str
    foreground: str
    background: str
    size: str
    texture: str
    position: str

    def labels(self) -> dict[str, int]:
        """The index of each attribute's word in ATTRIBUTES."""
        return {name: words.index(getattr(self, name)) for name, words in ATTRIBUTES.items()}


def caption(scene: Scene, mention: frozenset[str] | set[str] = frozenset(OPTIONAL)) -> str:
    """The caption of `scene` that names the optional attributes in `mention`.

    >>> caption(Scene("circle", "red", "blue", "large", "striped", "top"), {"size", "position"})
    'a large red circle on a blue background at the top'
    """
    words = ["a"]
    words += [getattr(scene, name) for name in ("size", "texture") if name in mention]
    words += [scene.foreground, scene.shape, "on a", scene.background, "background"]
    if "position" in mention:
        words.append(PLACES[scene.position])
    return " ".join(words)


def parse(text: str) -> dict[str, str]:
    """The attributes that a caption of this world mentions; `{}` for any other text.

    >>> parse("a large red circle on a blue background")
    {'shape': 'circle', 'foreground': 'red', 'background': 'blue', 'size': 'large'}
    """
    return dict(_CAPTIONS.get(text, ()))


def is_held_out(text: str) -> bool:
    """Whether a caption is reserved for evaluation (one in HELD_OUT_EVERY, by its CRC-32)."""
    return zlib.crc32(text.encode()) % HELD_OUT_EVERY == 0


def sample_scene(rng: np.random.Generator) -> Scene:
    """A uniformly random scene with different foreground and background colors."""
    words = {name: options[rng.integers(len(options))] for name, options in ATTRIBUTES.items()}
    while words["foreground"] == words["background"]:
        words["background"] = COLORS[rng.integers(len(COLORS))]
    return Scene(**words)


def sample_caption(scene: Scene, rng: np.random.Generator, held_out: bool) -> str | None:
    """A random caption of `scene` that is held out or not, as given. Optional words have probability 1/2 each.

    Returns None if 16 draws find no such caption, which happens if nearly all captions of the scene are of the other
    kind.
    """
    for _ in range(16):
        text = caption(scene, {name for name in OPTIONAL if rng.random() < 0.5})
        if is_held_out(text) == held_out:
            return text
    return None


def held_out_captions(count: int, seed: int) -> list[str]:
    """`count` different random captions that no training recipe uses."""
    rng = np.random.default_rng(seed)
    captions: dict[str, None] = {}
    while len(captions) < count:
        text = sample_caption(sample_scene(rng), rng, held_out=True)
        if text is not None:
            captions[text] = None
    return list(captions)


def _all_captions() -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    optional = [(None, *ATTRIBUTES[name]) for name in OPTIONAL]
    for shape, foreground, background in product(*(ATTRIBUTES[n] for n in ("shape", "foreground", "background"))):
        if foreground == background:
            continue
        for choice in product(*optional):
            extra = {name: word for name, word in zip(OPTIONAL, choice, strict=True) if word is not None}
            words = {"shape": shape, "foreground": foreground, "background": background, **extra}
            complete = {name: words.get(name, options[0]) for name, options in ATTRIBUTES.items()}
            yield caption(Scene(**complete), set(extra)), tuple(words.items())


_CAPTIONS = dict(_all_captions())
