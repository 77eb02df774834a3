"""Rewards and servers for the tests of the reward service."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import torch
from fastapi import FastAPI
from torch import Tensor

from stepcredit.rewards.remote.app import create_app
from stepcredit.rewards.remote.http import LOOPBACK, listen, web_server
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.wire import SAFETENSORS, Batch, encode

TOKEN = "correct-horse"  # noqa: S105
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


class Counting:
    """Scores an image by its sum, and counts how often each prompt was scored."""

    def __init__(self) -> None:
        self.executions: Counter[str] = Counter()
        self._concurrent = 0
        self.max_concurrent = 0

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        self._concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self._concurrent)
        self.executions.update(prompts)
        scores = images.sum((1, 2, 3)) / 7
        self._concurrent -= 1
        return scores


class Waiting(Counting):
    """Counting that sets `begun` when it is called and waits for `may_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_go = threading.Event(), threading.Event()

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        self.begun.set()
        assert self.may_go.wait(20)
        return super().__call__(images, prompts, metadata)


def pictures(count: int = 2, height: int = 4, width: int = 5, seed: int = 0) -> Tensor:
    """(count, 3, height, width) random floats in [0, 1]."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def body(images: Tensor, content_type: str = SAFETENSORS, prompts: list[str] | None = None) -> bytes:
    texts = prompts or [f"prompt {row}" for row in range(len(images))]
    return encode(Batch.of(images, texts, [{"row": row} for row in range(len(images))]), content_type)


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of a real web server for an ASGI application, on a thread and a free port."""
    place = listen(LOOPBACK, 0, has_token=False)
    server = web_server(app)
    server.config.log_level = "critical"
    server.config.configure_logging()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        place.close()


def conversation(app: FastAPI, talk: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """The result of `talk` with a client that calls the application directly."""

    async def main() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=20) as client:
            return await talk(client)

    return asyncio.run(main())


def post(
    app: FastAPI,
    content: Any,
    content_type: str = SAFETENSORS,
    name: str = "sum",
    headers: Mapping[str, str] = AUTHORIZED,
) -> httpx.Response:
    """One request to score."""

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(
            f"/v1/score/{name}", content=content, headers={"Content-Type": content_type, **headers}
        )

    response: httpx.Response = conversation(app, talk)
    return response


def app_of(reward: Any = None, **limits: Any) -> FastAPI:
    return create_app({"sum": reward or Counting()}, TOKEN, Limits(**limits))
