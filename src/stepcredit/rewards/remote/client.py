"""A reward on a server; docs/guides/remote-rewards.md specifies the protocol."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from stepcredit.errors import InputError, RewardError
from stepcredit.registry import construct
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.remote import wire
from stepcredit.rewards.remote.attempt import ScoreRequest, TransientError, send
from stepcredit.rewards.remote.event_loop import run_in_thread
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.token import read_token
from stepcredit.utils.paths import expanded

if TYPE_CHECKING:
    import httpx

MAX_WAIT = 60.0
"""Longest wait between two attempts in seconds, whatever Retry-After says."""
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class RemoteOptions:
    """The options of a remote reward, `reward.options` if `reward.remote` is set.

    Attributes:
        timeout: seconds per attempt, from connecting to the last byte of the scores.
        retries: further attempts per request, on any server.
        backoff: seconds before the first retry. It doubles with every retry, is multiplied by a random factor from 0.5
            to 1.5, and never exceeds MAX_WAIT. Meanwhile, requests go to the other servers if there are any.
        concurrency: simultaneous requests.
        batch: images per request.
        payload: `safetensors`, or `png` for servers that only read JSON. Both carry the same pixels.
        seed: of the random factor.
        token_file: file with the token; the environment variable STEPCREDIT_REWARD_TOKEN if None.

    Raises:
        InputError: a value out of its range.
    """

    timeout: float = 60.0
    retries: int = 5
    backoff: float = 0.5
    concurrency: int = 4
    batch: int = 16
    payload: Literal["safetensors", "png"] = "safetensors"
    seed: int = 0
    token_file: str | None = None

    def __post_init__(self) -> None:
        _require_at_least("timeout", self.timeout, 0.001)
        _require_at_least("backoff", self.backoff, 0)
        for name, minimum in {"retries": 0, "concurrency": 1, "batch": 1, "seed": 0}.items():
            value = getattr(self, name)
            _require_at_least(name, value, minimum)
            if not isinstance(value, int):
                raise InputError(f"{name} is {value!r}, expected an integer")
        if self.payload not in ("safetensors", "png"):
            raise InputError(f"payload is {self.payload!r}, expected safetensors or png")


def remote_reward(name: str, remote: str | Sequence[str], options: Mapping[str, Any]) -> RemoteReward:
    """The reward `name` on the server or servers at `remote`. The first batch is the first request.

    Raises:
        InputError: an invalid address or option, a token that cannot be read, or the extra is not installed.
    """
    require_extra("httpx", "service", "reward.remote")
    addresses = [_address(text) for text in ([remote] if isinstance(remote, str) else remote)]
    if not addresses:
        raise InputError("reward.remote is an empty list, expected the address of at least one server")
    settings = construct(RemoteOptions, "reward.remote", options)
    token = read_token(expanded(settings.token_file) if settings.token_file is not None else None)
    return RemoteReward(name, Servers(addresses), settings, token)


class RemoteReward:
    """A reward that runs on servers. Thread-safe.

    A batch is split into requests of `options.batch` images. Each request is repeated until a server answers or its
    retries are used up. All attempts have the same Idempotency-Key, so a server whose answer was lost does not score
    twice. Images are sent as 8-bit pixels, round(255 x), and the server's reward receives pixel / 255. The scores
    therefore equal, bit for bit, those of the same reward run locally on 8-bit images.

    Args:
        sleep: waits between attempts.
        transport: of httpx; the network if None.
    """

    def __init__(
        self,
        name: str,
        servers: Servers,
        options: RemoteOptions,
        token: str | None,
        sleep: Sleep = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self._servers = servers
        self._options = options
        self._token = token
        self._sleep = sleep
        self._transport = transport
        self._random = np.random.default_rng(options.seed)
        self._tls = ssl.create_default_context()

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], prompts, metadata) -> (B,), float32.

        Raises:
            RewardError: no server answered within the retries, or an answer was not a list of finite scores.
            InputError: a server refused the request or its token.
        """
        starts = range(0, len(prompts), self._options.batch)
        requests = [self._request(images, prompts, metadata, start) for start in starts]
        return torch.tensor(run_in_thread(self._all(requests)), dtype=torch.float32)

    def _request(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]], start: int
    ) -> ScoreRequest:
        part = slice(start, start + self._options.batch)
        batch = wire.Batch.of(images[part], prompts[part], metadata[part])
        content_type = wire.SAFETENSORS if self._options.payload == "safetensors" else wire.JSON
        try:
            body = wire.encode(batch, content_type)
        except (TypeError, ValueError) as error:
            raise RewardError(f"prompts and metadata must be JSON for a remote reward: {error}") from error
        return ScoreRequest(self.name, body, content_type, len(batch.prompts), uuid.uuid4().hex)

    async def _all(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Scores of all requests in order. The first request that fails permanently cancels the others."""
        gate = asyncio.Semaphore(self._options.concurrency)

        async def limited(client: httpx.AsyncClient, request: ScoreRequest) -> list[float]:
            async with gate:
                return await self._scores(client, request)

        async with self._client() as client:
            tasks = [asyncio.ensure_future(limited(client, request)) for request in requests]
            try:
                return [score for scores in await asyncio.gather(*tasks) for score in scores]
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _scores(self, client: httpx.AsyncClient, request: ScoreRequest) -> list[float]:
        attempts, last = self._options.retries + 1, ""
        for attempt in range(attempts):
            server = self._servers.next()
            try:
                scores = await send(client, server, request, self._options.timeout)
            except TransientError as failure:
                last, wait = f"{server} {failure}", self._wait(attempt, failure.retry_after)
                self._servers.pause(server, wait)
                if attempt + 1 < attempts and not self._servers.any_available():
                    await self._sleep(wait)
            else:
                self._servers.restore(server)
                return scores
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        raise RewardError(f"no scores after {times}; the last one: {last}")

    def _wait(self, attempt: int, retry_after: float) -> float:
        """Seconds to wait after attempt number `attempt`, at least `retry_after`."""
        backoff = self._options.backoff * 2.0 ** min(attempt, 30) * self._random.uniform(0.5, 1.5)
        return min(MAX_WAIT, max(backoff, retry_after))

    def _client(self) -> httpx.AsyncClient:
        """Without proxies from the environment and redirects, so that the token only goes to the configured servers."""
        import httpx

        headers = {"Accept-Encoding": "identity"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return httpx.AsyncClient(
            headers=headers,
            timeout=None,  # noqa: S113  `send` limits the whole attempt
            trust_env=False,
            verify=self._tls,
            transport=self._transport,
            limits=httpx.Limits(max_connections=self._options.concurrency),
        )


def _address(text: str) -> str:
    """The address without a trailing slash. Errors do not quote an address that may hold a password."""
    try:
        parts = urlsplit(text)
        port_is_number = parts.port is None or parts.port >= 0
    except ValueError:
        raise InputError("reward.remote holds an invalid URL, expected http://host:port") from None
    if "@" in parts.netloc:
        raise InputError("reward.remote must not hold a user or password: set the token in STEPCREDIT_REWARD_TOKEN")
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_number
        or parts.query
        or parts.fragment
    ):
        raise InputError(f"reward.remote is '{text}', expected http://host:port or https://host")
    return text.rstrip("/")


def _require_at_least(name: str, value: object, minimum: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and minimum <= value < float("inf")):  # type: ignore[operator]
        raise InputError(f"{name} is {value!r}, expected a number of at least {minimum}")
