"""The HTTP application: who may ask, how much, and what each kind of failure answers."""

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
from stepcredit.rewards.remote.desk import Desk, ScoringError
from stepcredit.rewards.remote.ledger import Ledger
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.wire import PayloadError
from stepcredit.types import RewardFunction

KEY_LENGTH = 128
RETRY_AFTER = "1"
"""Seconds after which a full server asks to be tried again."""


def create_app(rewards: Mapping[str, RewardFunction], token: str | None, limits: Limits | None = None) -> FastAPI:
    """The service of docs/guides/remote-rewards.md.

    Args:
        rewards: by the name in the URL.
        token: what `Authorization: Bearer` must hold for everything but /health; None asks for nothing, for servers
            that only this machine reaches.
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
    app.add_exception_handler(PayloadError, _our_error)
    app.add_exception_handler(ScoringError, _our_error)
    app.add_exception_handler(Exception, _unexpected_error)
    return app


class _Service:
    """The state of one running application."""

    def __init__(self, rewards: Mapping[str, CheckedReward], limits: Limits) -> None:
        self.limits = limits
        self.descriptions = {name: _first_line(reward.reward) for name, reward in rewards.items()}
        self.desks = {name: Desk(reward, limits) for name, reward in rewards.items()}
        self.ledger = Ledger(limits.remembered)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        for desk in self.desks.values():
            desk.close()

    async def health(self) -> Response:
        return _answer(200, {"status": "ok", "queue": {name: desk.occupied for name, desk in self.desks.items()}})

    async def describe(self) -> Response:
        rewards = [{"name": name, "description": text} for name, text in self.descriptions.items()]
        return _answer(200, {"rewards": rewards, "limits": asdict(self.limits)})

    async def score(self, name: str, request: Request) -> Response:
        if name not in self.desks:
            raise PayloadError(404, f"no reward '{name}' here, only {', '.join(self.desks)}")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise PayloadError(415, "compressed bodies are not taken")
        key, desk = _key(request), self.desks[name]
        with desk.seat():
            body = await self._read(request)
            content_type = request.headers.get("content-type", "")

            async def work() -> list[float]:
                return await desk.score(body, content_type)

            if key is None:
                return _answer(200, {"scores": await work()})
            digest = await asyncio.to_thread(_digest, content_type, body)
            return _answer(200, {"scores": await self.ledger.scores((name, key), digest, work)})

    async def _read(self, request: Request) -> bytes:
        """The body, of which no more is kept than is allowed, whatever its Content-Length says."""
        allowed = self.limits.request_bytes
        too_large = PayloadError(413, f"the body is larger than this server's {allowed} bytes a request")
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
            raise PayloadError(400, "the client went away") from None
        return bytes(body)


def _bearer(token: str | None) -> Callable[[Request], Awaitable[None]]:
    """Refuses a request without the token; what it says does not depend on what was sent."""
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
    described = reward.func if isinstance(reward, functools.partial) else reward
    return (getdoc(described) or "").partition("\n")[0]


def _answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: prompts quoted in an error may hold what UTF-8 cannot."""
    return Response(json.dumps(content), status, headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _answer(error.status_code, {"error": str(error.detail)}, error.headers)


async def _our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PayloadError | ScoringError)
    headers = {"Retry-After": RETRY_AFTER} if error.status == 503 else None
    return _answer(error.status, {"error": str(error)}, headers)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return _answer(500, {"error": "internal error, see the server's log"})
