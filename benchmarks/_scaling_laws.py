"""What `scaling.py` measures: laws, each with the points to measure and the line that their costs should follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import _tiny_sd
from _throughput import Seconds


@dataclass(frozen=True)
class Point:
    """The work of one measurement. Each of `processes` processes does all of it at the same time."""

    images: int = 8
    batch: int = 8
    steps: int = 10
    latent: int = _tiny_sd.LATENT
    rank: int = 4
    processes: int = 1


@dataclass(frozen=True)
class Cost:
    """The milliseconds per query of one measurement, and the `peak` resident memory of the largest process in MB."""

    sampling: Seconds
    training: Seconds
    peak: float


@dataclass(frozen=True)
class Law:
    """Points that differ in one field, and the quantity x that their cost should be linear in.

    Attributes:
        name: heading on the page.
        field: the field of `Point` that takes `values`.
        x: the quantity of a value; `formula` is its name.
        clock: "cpu", or "wall" where processes share the machine.
        reason: why the line should hold, and where it should not.
    """

    name: str
    field: str
    values: tuple[int, ...]
    formula: str
    reason: str
    x: Callable[[float], float] = float
    clock: str = "cpu"
    base: Point = field(default_factory=Point)

    def points(self) -> list[Point]:
        return [replace(self.base, **{self.field: value}) for value in self.values]


LAWS = (
    Law(
        "batch",
        "batch",
        (1, 2, 4, 8, 16),
        "1 / batch",
        "A forward has a fixed cost (Python, the pipeline's loop, small kernels), which its images share.",
        x=lambda batch: 1 / batch,
        base=Point(images=16),
    ),
    Law(
        "steps",
        "steps",
        (5, 10, 20, 40),
        "T",
        "Each step is one forward, and in training one backward. Other costs do not depend on T.",
    ),
    Law(
        "resolution",
        "latent",
        (8, 12, 16, 24, 32),
        "positions of a latent",
        "Convolutions and projections cost the same at each position. Self-attention compares all pairs of "
        "positions, here at full resolution, so the largest latents should cost more than the line.",
        x=lambda latent: latent**2,
        base=Point(images=4, batch=4),
    ),
    Law(
        "LoRA rank",
        "rank",
        (1, 4, 16, 64, 128),
        "rank",
        "A layer with n inputs and m outputs takes n m multiplications per position, and its LoRA (n + m) rank. This "
        "is small until the rank comes close to the widths, here 48 and 96. Below that, the LoRA costs two kernel "
        "calls per layer, whatever its rank.",
    ),
    Law(
        "processes",
        "processes",
        (1, 2, 4),
        "1 / processes",
        "Independent processes start together, each with its own model and images, and exchange no gradients. With one "
        "core each, n processes do n times the work in the same time. With fewer cores they take turns.",
        x=lambda processes: 1 / processes,
        clock="wall",
    ),
)
QUICK = tuple(
    replace(law, values=law.values[:2], base=replace(law.base, images=2, batch=min(law.base.batch, 2), steps=2))
    for law in LAWS
)
Measured = dict[str, list[list[Cost]]]
"""For each law, by name: the cost of each value in each round."""
