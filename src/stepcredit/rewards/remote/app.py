"""The HTTP application: authentication, limits, and the status code of each kind of failure."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from inspect import getdoc
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from stepcredit.rewards.core.checked import CheckedReward, checked
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.results import ResultCache
from stepcredit.rewards.remote.wire import PayloadError
from stepcredit.rewards.remote.worker import RewardWorker, ScoringError
from stepcredit.types import RewardFunction

KEY_LENGTH = 128
"""Characters of an Idempotency-Key at most."""
RETRY_AFTER = "1"
"""Seconds after which a client may retry a server whose queue is full."""


def create_app(rewards: Mapping[str, RewardFunction], token: str | None, limits: Limits | None = None) -> FastAPI:
    """The server side of docs/guides/remote-rewards.md.

    Args:
        rewards: {name in the URL: reward}.
        token: required as `Authorization: Bearer TOKEN` by every path except /health; None for a server that only this
            machine can reach.
        limits: `Limits()` if None.
    """
    service = _Service({name: checked(reward, name) for name, reward in rewards.items()}, limits or Limits())
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=service.lifespan)
    app.add_api_route("/health", service.health, methods=["GET"])
    guarded = APIRouter(prefix="/v1", dependencies=[Depends(_bearer(token))])
    guarded.add_api_route("/rewards", service.describe, methods=["GET"])
    guarded.add_api_route("/score/{name:path}", service.score, methods=["POST"])
    app.include_router(guarded)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(PayloadError, _known_error)
    app.add_exception_handler(ScoringError, _known_error)
    app.add_exception_handler(Exception, _unexpected_error)
    return app


class _Service:
    """The state of a running application."""

    def __init__(self, rewards: Mapping[str, CheckedReward], limits: Limits) -> None:
        self.limits = limits
        self.descriptions = {name: _first_line(reward.reward) for name, reward in rewards.items()}
        self.workers = {name: RewardWorker(reward, limits) for name, reward in rewards.items()}
        self.results = ResultCache(limits.remembered)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        for worker in self.workers.values():
            worker.close()

    async def health(self) -> Response:
        return _answer(200, {"status": "ok", "queue": {name: worker.pending for name, worker in self.workers.items()}})

    async def describe(self) -> Response:
        rewards = [{"name": name, "description": text} for name, text in self.descriptions.items()]
        return _answer(200, {"rewards": rewards, "limits": asdict(self.limits)})

    async def score(self, name: str, request: Request) -> Response:
        if name not in self.workers:
            raise PayloadError(404, f"this server has no reward '{name}', only {', '.join(self.workers)}")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise PayloadError(415, "compressed bodies are not supported")
        key, worker = _key(request), self.workers[name]
        with worker.slot():
            body = await self._read(request)
            content_type = request.headers.get("content-type", "")

            async def compute() -> list[float]:
                return await worker.score(body, content_type)

            if key is None:
                return _answer(200, {"scores": await compute()})
            digest = await asyncio.to_thread(_digest, content_type, body)
            return _answer(200, {"scores": await self.results.scores((name, key), digest, compute)})

    async def _read(self, request: Request) -> bytes:
        """The body. Reading stops at the limit, whatever Content-Length says."""
        allowed = self.limits.request_bytes
        too_large = PayloadError(413, f"the body exceeds this server's limit of {allowed} bytes")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > allowed:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > allowed:
                        raise too_large
                    body += chunk
        except TimeoutError:
            raise PayloadError(408, f"the body took longer than {self.limits.read_seconds:g} s to arrive") from None
        except ClientDisconnect:
            raise PayloadError(400, "the client disconnected") from None
        return bytes(body)


def _bearer(token: str | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses requests without the token. Its response does not depend on the request."""
    expected = None if token is None else f"Bearer {token}".encode()

    async def require(request: Request) -> None:
        if expected is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, expected):
            raise HTTPException(401, "a valid bearer token is required", {"WWW-Authenticate": "Bearer"})

    return require


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= KEY_LENGTH and key.isascii() and key.isprintable()):
        raise PayloadError(422, f"Idempotency-Key must be 1 to {KEY_LENGTH} printable characters")
    return key


def _digest(content_type: str, body: bytes) -> bytes:
    return hashlib.sha256(content_type.encode("latin-1") + b"\0" + body).digest()


def _first_line(reward: object) -> str:
    target = reward.func if isinstance(reward, functools.partial) else reward
    return (getdoc(target) or "").partition("\n")[0]


def _answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: prompts quoted in an error may hold characters that UTF-8 cannot encode."""
    return Response(json.dumps(content), status, headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _answer(error.status_code, {"error": str(error.detail)}, error.headers)


async def _known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PayloadError | ScoringError)
    headers = {"Retry-After": RETRY_AFTER} if error.status == 503 else None
    return _answer(error.status, {"error": str(error)}, headers)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return _answer(500, {"error": "internal error: see the server's log"})
