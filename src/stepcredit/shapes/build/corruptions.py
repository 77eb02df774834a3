"""Corruptions of an image at a severity from 0 to 1, so that scorers also see images that are no clean renders.

A model in training soon produces images that the renderer never makes. These functions imitate likely failures on clean
renders: noise, blotches, blur, color ramps, waves, overlays and patches of other pictures, and noise in the
autoencoder's latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepcredit.shapes.random_tensors import normal, uniform
from stepcredit.shapes.render import SIZE

Corruption = Callable[[Tensor, Tensor, np.random.Generator], Tensor]

INVISIBLE, TOTAL = 0.1, 0.7
MIXES_PICTURES = ("ghost", "patches")
"""Corruptions that add content, and with it a shape, from another picture of the batch."""


def damage(severity: Tensor) -> Tensor:
    """min(1, max(0, (severity - 0.1) / 0.6)): no damage up to a barely visible 0.1, total damage from 0.7."""
    return ((severity - INVISIBLE) / (TOTAL - INVISIBLE)).clamp(0, 1)


def grain(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Add independent noise to each pixel."""
    return images + 0.4 * severity * normal(rng, *images.shape)


def blotches(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise on a grid of 4x4 or 8x8 cells, interpolated smoothly or in blocks."""
    cells = int(rng.choice([4, 8]))
    coarse = normal(rng, len(images), 3, cells, cells)
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    blocks = F.interpolate(coarse, size=(SIZE, SIZE), mode="nearest")
    return images + 0.4 * severity * (smooth if rng.random() < 0.5 else blocks)


def blur(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Interpolate towards the image after two 9x9 mean filters."""
    blurred = images
    for _ in range(2):
        blurred = F.avg_pool2d(F.pad(blurred, (4, 4, 4, 4), mode="replicate"), 9, stride=1)
    return images + severity * (blurred - images)


def ramp(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Add a linear color gradient."""
    position = torch.linspace(-1, 1, SIZE)
    slope = F.normalize(normal(rng, len(images), 3, 2, 1, 1), dim=1)
    return images + 0.8 * severity * (
        slope[:, :, 0] * position.view(1, 1, 1, SIZE) + slope[:, :, 1] * position.view(SIZE, 1)
    )


def waves(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Add a colored sine wave of two to eight periods in a random direction."""
    each = (len(images), 1, 1, 1)
    angle = uniform(rng, 0, np.pi, *each)
    position = torch.linspace(-1, 1, SIZE)
    along = angle.cos() * position.view(1, 1, 1, SIZE) + angle.sin() * position.view(1, 1, SIZE, 1)
    wave = (along * np.pi * uniform(rng, 1, 4, *each) * 2 + uniform(rng, 0, 7, *each)).sin()
    return images + severity * wave * F.normalize(normal(rng, len(images), 3, 1, 1), dim=1)


def ghost(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Blend with another picture of the batch, with a weight of up to one half."""
    return images + 0.5 * severity * (images.roll(1, 0) - images)


def patches(images: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Replace cells of 4x4 pixels, up to three quarters of them, with those of another picture of the batch."""
    replaced = torch.from_numpy(rng.random((len(images), 1, 8, 8))) < 0.75 * severity.square()
    return torch.where(F.interpolate(replaced.float(), size=(SIZE, SIZE)) > 0, images.roll(1, 0), images)


def latent_noise(latents: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Add independent noise to each latent."""
    return latents + 2.0 * severity * normal(rng, *latents.shape)


def latent_shuffle(latents: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Replace some latent cells with other cells of the same image."""
    batch, cells = len(latents), latents.shape[2] * latents.shape[3]
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(cells), (batch, 1)), axis=1))
    moved = torch.from_numpy(rng.random((batch, cells))) < severity.square().view(batch, 1)
    source = torch.where(moved, order, torch.arange(cells))
    flat = latents.flatten(2)
    return flat.gather(2, source.unsqueeze(1).expand_as(flat)).view_as(latents)


PIXEL_CORRUPTIONS: Mapping[str, Corruption] = {
    "grain": grain,
    "blotches": blotches,
    "blur": blur,
    "ramp": ramp,
    "waves": waves,
    "ghost": ghost,
    "patches": patches,
}
LATENT_CORRUPTIONS: Mapping[str, Corruption] = {
    "latent noise": latent_noise,
    "latent shuffle": latent_shuffle,
}
