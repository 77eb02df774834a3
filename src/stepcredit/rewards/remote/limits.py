"""How much one client may ask of a reward server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stepcredit.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What a request is refused for, with 413 for the first three, 503 for the fourth and 408 for the last.

    The worst case in memory is about `queue` times (request_bytes + 3 `pixels`) bytes per reward, and 12 `pixels` more
    for the batch that is being scored.

    Attributes:
        request_bytes: of a body.
        images: of a request.
        pixels: of a request, all images together (32 images of 1024 x 1024).
        queue: requests of a reward at the same time: being read, waiting and being scored.
        remembered: finished requests whose scores are kept, so that a retry is answered and not scored again.
        read_seconds: for a body to arrive.

    Raises:
        InputError: one that is not above 0.
    """

    request_bytes: int = 2**26
    images: int = 256
    pixels: int = 2**25
    queue: int = 32
    remembered: int = 4096
    read_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"limit {field.name} is {getattr(self, field.name)}, expected more than 0")
