"""What can happen to an image, at a severity from 0 to 1: so that scorers also know what is no picture at all.

A model in training leaves the renderer's images soon. Its failures, as far as they can be foreseen, are made here from
clean renders: noise, blotches, blur, slopes, bars, ghosts, pieces of elsewhere, and the like in the latents of the
autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepcredit.shapes.draws import normal, uniform
from stepcredit.shapes.render import SIZE

Change = Callable[[Tensor, Tensor, np.random.Generator], Tensor]

UNSEEN, LOST = 0.1, 0.7
ELSEWHERE = ("ghost", "pieces")
"""Changes that bring in another picture, and with it a shape."""


def damage(severity: Tensor) -> Tensor:
    """min(1, max(0, (severity - 0.1) / 0.6)): nothing counts that is hardly seen, and beyond 0.7 all is lost."""
    return ((severity - UNSEEN) / (LOST - UNSEEN)).clamp(0, 1)


def grain(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Independent noise in every pixel."""
    return images + 0.4 * severity * normal(rng, *images.shape)


def blotches(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Noise of 4 to 8 cells across, smooth or in blocks."""
    cells = int(rng.choice([4, 8]))
    coarse = normal(rng, len(images), 3, cells, cells)
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    blocks = F.interpolate(coarse, size=(SIZE, SIZE), mode="nearest")
    return images + 0.4 * severity * (smooth if rng.random() < 0.5 else blocks)


def blur(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Towards the mean of 9x9 pixels, taken twice."""
    soft = images
    for _ in range(2):
        soft = F.avg_pool2d(F.pad(soft, (4, 4, 4, 4), mode="replicate"), 9, stride=1)
    return images + severity * (soft - images)


def ramp(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """A slope of color across the picture."""
    place = torch.linspace(-1, 1, SIZE)
    slope = F.normalize(normal(rng, len(images), 3, 2, 1, 1), dim=1)
    return images + 0.8 * severity * (slope[:, :, 0] * place.view(1, 1, 1, SIZE) + slope[:, :, 1] * place.view(SIZE, 1))


def bars(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Waves of a color in any direction, two to eight of them."""
    each = (len(images), 1, 1, 1)
    angle = uniform(rng, 0, np.pi, *each)
    place = torch.linspace(-1, 1, SIZE)
    along = angle.cos() * place.view(1, 1, 1, SIZE) + angle.sin() * place.view(1, 1, SIZE, 1)
    wave = (along * np.pi * uniform(rng, 1, 4, *each) * 2 + uniform(rng, 0, 7, *each)).sin()
    return images + severity * wave * F.normalize(normal(rng, len(images), 3, 1, 1), dim=1)


def ghost(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Another picture shines through, at half strength at most."""
    return images + 0.5 * severity * (images.roll(1, 0) - images)


def pieces(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Cells of 4x4 pixels come from another picture, at most three in four."""
    taken = torch.from_numpy(rng.random((len(images), 1, 8, 8))) < 0.75 * severity.square()
    return torch.where(F.interpolate(taken.float(), size=(SIZE, SIZE)) > 0, images.roll(1, 0), images)


def latent_noise(latents: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Independent noise in every latent."""
    return latents + 2.0 * severity * normal(rng, *latents.shape)


def latent_shuffle(latents: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Some latent cells change places."""
    batch, cells = len(latents), latents.shape[2] * latents.shape[3]
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(cells), (batch, 1)), axis=1))
    moved = torch.from_numpy(rng.random((batch, cells))) < severity.square().view(batch, 1)
    source = torch.where(moved, order, torch.arange(cells))
    flat = latents.flatten(2)
    return flat.gather(2, source.unsqueeze(1).expand_as(flat)).view_as(latents)


ON_PIXELS: Mapping[str, Change] = {
    "grain": grain,
    "blotches": blotches,
    "blur": blur,
    "ramp": ramp,
    "bars": bars,
    "ghost": ghost,
    "pieces": pieces,
}
ON_LATENTS: Mapping[str, Change] = {
    "latent noise": latent_noise,
    "latent shuffle": latent_shuffle,
}
