"""A reward that a server computes; docs/guides/remote-rewards.md has the protocol."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from stepcredit.errors import InputError, RewardError
from stepcredit.registry import construct
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.remote import wire
from stepcredit.rewards.remote.attempt import Passing, ScoreRequest, ask
from stepcredit.rewards.remote.loop import run_to_end
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.token import read_token

if TYPE_CHECKING:
    import httpx

LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever Retry-After says."""
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class RemoteOptions:
    """How servers are asked: what `reward.options` holds where `reward.remote` is set.

    Attributes:
        timeout: seconds for one attempt, from connecting to the last byte of the scores.
        retries: further attempts of each request, on whichever server.
        backoff: seconds before the first retry; doubled for each further one, times a random factor from 0.5 to 1.5,
            and never above LONGEST_WAIT. A server that failed is left out for as long where another one can be asked.
        concurrency: requests under way at the same time.
        batch: images per request.
        payload: `safetensors`, or `png` for servers that read JSON only. Both carry the same pixels.
        seed: of the random factor.
        token_file: holds the token; the environment's STEPCREDIT_REWARD_TOKEN if None.

    Raises:
        InputError: a value outside its range.
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
        _require_least("timeout", self.timeout, 0.001)
        _require_least("backoff", self.backoff, 0)
        for name, least in {"retries": 0, "concurrency": 1, "batch": 1, "seed": 0}.items():
            value = getattr(self, name)
            _require_least(name, value, least)
            if not isinstance(value, int):
                raise InputError(f"{name} is {value!r}, expected a whole number")
        if self.payload not in ("safetensors", "png"):
            raise InputError(f"payload is {self.payload!r}, expected safetensors or png")


def remote_reward(name: str, remote: str | Sequence[str], options: Mapping[str, Any]) -> RemoteReward:
    """The reward `name` of the server or servers at `remote`. Nothing is sent before the first batch.

    Raises:
        InputError: an address or option that is wrong, a token that cannot be read, or the extra is not installed.
    """
    require_extra("httpx", "service", "reward.remote")
    addresses = [_address(text) for text in ([remote] if isinstance(remote, str) else remote)]
    if not addresses:
        raise InputError("reward.remote is an empty list: give the address of at least one server")
    asked = construct(RemoteOptions, "reward.remote", options)
    token = read_token(Path(asked.token_file) if asked.token_file is not None else None)
    return RemoteReward(name, Servers(addresses), asked, token)


class RemoteReward:
    """Scores of a reward that runs elsewhere.

    A batch goes out in requests of `options.batch` images. Each is tried until a server answers or its retries are
    used up, under one Idempotency-Key, so that a server whose answer was lost scores nothing twice. Images travel as
    8-bit pixels, round(255 x), and the server's reward sees pixel / 255: the scores are bit for bit what the same
    reward gives here for such images, and for any image where the reward itself reads 8-bit pixels.

    Any thread may call it, several at a time.

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
            RewardError: no server answered within the retries, or one answered what is no list of finite scores.
            InputError: a server refused the request or its token.
        """
        starts = range(0, len(prompts), self._options.batch)
        requests = [self._request(images, prompts, metadata, start) for start in starts]
        return torch.tensor(run_to_end(self._all(requests)), dtype=torch.float32)

    def _request(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]], start: int
    ) -> ScoreRequest:
        part = slice(start, start + self._options.batch)
        batch = wire.Batch.of(images[part], prompts[part], metadata[part])
        content_type = wire.SAFETENSORS if self._options.payload == "safetensors" else wire.JSON
        try:
            body = wire.encode(batch, content_type)
        except (TypeError, ValueError) as error:
            raise RewardError(f"prompts and metadata must be JSON to be sent to a server: {error}") from error
        return ScoreRequest(self.name, body, content_type, len(batch.prompts), uuid.uuid4().hex)

    async def _all(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Scores of all requests in order; the first that fails for good ends the others."""
        gate = asyncio.Semaphore(self._options.concurrency)

        async def answer(client: httpx.AsyncClient, request: ScoreRequest) -> list[float]:
            async with gate:
                return await self._scores(client, request)

        async with self._client() as client:
            tasks = [asyncio.ensure_future(answer(client, request)) for request in requests]
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
                scores = await ask(client, server, request, self._options.timeout)
            except Passing as failure:
                last, wait = f"{server} {failure}", self._wait(attempt, failure.after)
                self._servers.failed(server, wait)
                if attempt + 1 < attempts and not self._servers.any_awake():
                    await self._sleep(wait)
            else:
                self._servers.answered(server)
                return scores
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        raise RewardError(f"no scores after {times}; the last: {last}")

    def _wait(self, attempt: int, asked: float) -> float:
        """Seconds to wait after failed attempt number `attempt`, at least what the server asked for."""
        usual = self._options.backoff * 2.0 ** min(attempt, 30) * self._random.uniform(0.5, 1.5)
        return min(LONGEST_WAIT, max(usual, asked))

    def _client(self) -> httpx.AsyncClient:
        """No proxies from the environment and no redirects: the token goes to the named servers and nowhere else."""
        import httpx

        headers = {"Accept-Encoding": "identity"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return httpx.AsyncClient(
            headers=headers,
            timeout=None,  # noqa: S113  `ask` limits the whole attempt
            trust_env=False,
            verify=self._tls,
            transport=self._transport,
            limits=httpx.Limits(max_connections=self._options.concurrency),
        )


def _address(text: str) -> str:
    """The address without a trailing slash. One that is refused is not quoted if it may hold a password."""
    try:
        parts = urlsplit(text)
        port_is_number = parts.port is None or parts.port >= 0
    except ValueError:
        raise InputError("reward.remote holds an address that is no URL, expected http://host:port") from None
    if "@" in parts.netloc:
        raise InputError("reward.remote must hold no user or password: give the token in STEPCREDIT_REWARD_TOKEN")
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_number
        or parts.query
        or parts.fragment
    ):
        raise InputError(f"reward.remote is '{text}', expected http://host:port or https://host")
    return text.rstrip("/")


def _require_least(name: str, value: object, least: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and least <= value < float("inf")):  # type: ignore[operator]
        raise InputError(f"{name} is {value!r}, expected a number of at least {least}")
