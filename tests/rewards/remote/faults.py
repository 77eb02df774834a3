"""A server whose connections fail at random."""

from __future__ import annotations

from collections import Counter
from itertools import cycle
from typing import Any

import numpy as np

KINDS = [f"{kind} {when}" for kind in ("500", "hang", "drop") for when in ("before", "after")]


class Faulty:
    """An ASGI application in which a share of the requests fails, with each kind of fault in turn.

    A fault happens `before` the application receives the request or `after` it has scored it. It is a status 500, no
    answer until the client gives up, or a connection that closes in the middle of the answer.
    """

    def __init__(self, app: Any, share: float, seed: int = 0) -> None:
        self.app, self.share = app, share
        self.random = np.random.default_rng(seed)
        self.kinds = cycle(KINDS)
        self.injected: Counter[str] = Counter()
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.requests += 1
        if self.random.random() >= self.share:
            await self.app(scope, receive, send)
            return
        kind = next(self.kinds)
        self.injected[kind] += 1
        if kind.endswith("after"):
            await self.app(scope, receive, _nowhere)
        await _FAULTS[kind.split()[0]](receive, send)


async def _nowhere(message: Any) -> None:
    """The answer is lost."""


async def _broken(receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def _hang(receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def drop(receive: Any, send: Any) -> None:
    """Closes the connection in the middle of an answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b'{"scores": [', "more_body": True})


_FAULTS = {"500": _broken, "hang": _hang, "drop": drop}
