"""Limits of a reward server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stepcredit.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of requests. Status codes: 413 for bytes, images and pixels, 503 for the queue, 408 for the time to read.

    A reward needs up to about `queue` x (request_bytes + 3 pixels) bytes of memory, and 12 x pixels bytes for the batch
    that it scores.

    Attributes:
        request_bytes: size of a body.
        images: per request.
        pixels: per request, of all images together; the default is 32 images of 1024 x 1024.
        queue: requests per reward that are being read, waiting or being scored.
        remembered: finished requests whose scores are stored to answer retries without scoring again.
        read_seconds: time in which a body must arrive.

    Raises:
        InputError: a limit is not above 0.
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
