"""One request to one server, and what its answer means: scores, a failure that may pass, or one that will not."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stepcredit.errors import InputError, RewardError, shortened

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 429, *range(500, 600)})
"""Statuses that trying again may cure."""
ANSWER_BYTES = 2**24
"""Longest answer that is read."""


@dataclass(frozen=True)
class ScoreRequest:
    """A part of a batch, encoded once and sent as often as it takes.

    Attributes:
        reward: its name on the server.
        count: images in it, so scores to expect.
        key: the Idempotency-Key, new for every request and the same in every attempt.
    """

    reward: str
    body: bytes
    content_type: str
    count: int
    key: str


class Passing(Exception):
    """An attempt failed in a way that the next may not; `after` is how many seconds the server asked to wait."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


async def ask(client: httpx.AsyncClient, server: str, request: ScoreRequest, timeout: float) -> list[float]:
    """The scores of `request` by `server`, within `timeout` seconds from connecting to the last byte.

    Raises:
        Passing: no answer in time, a broken connection, or a status in RETRIED.
        InputError: any other status, 401 among them.
        RewardError: the answer is no list of finite scores, one per image.
    """
    import httpx

    url = f"{server}/v1/score/{quote(request.reward, safe='')}"
    headers = {"Content-Type": request.content_type, "Idempotency-Key": request.key}
    try:
        async with asyncio.timeout(timeout):
            async with client.stream("POST", url, content=request.body, headers=headers) as response:
                answer = await _content(response, server)
    except TimeoutError:
        raise Passing(f"took longer than {timeout:g} s") from None
    except httpx.RequestError as error:
        raise Passing(f"cannot be reached ({type(error).__name__}: {shortened(str(error))})") from error
    if response.status_code != 200:
        raise _refusal(server, response.status_code, answer, response.headers.get("retry-after", ""))
    return _scores(server, answer, request.count)


async def _content(response: httpx.Response, server: str) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > ANSWER_BYTES:
            raise RewardError(f"{server} answered more than {ANSWER_BYTES} bytes: is it a reward server?")
    return bytes(content)


def _refusal(server: str, status: int, answer: bytes, retry_after: str) -> Exception:
    if status in (401, 403):
        remedy = "set the server's own in STEPCREDIT_REWARD_TOKEN or in reward.options.token_file"
        return InputError(f"the server {server} refuses the token ({status}): {remedy}")
    said = f"answered {status}: {_complaint(answer)}"
    if status in RETRIED:
        return Passing(said, float(retry_after) if retry_after.isdecimal() else 0.0)
    return InputError(f"{server} {said}")


def _complaint(answer: bytes) -> str:
    """The line of {"error": line}, or the beginning of whatever it is."""
    parsed = _parsed(answer)
    said = parsed.get("error") if isinstance(parsed, dict) else None
    return shortened(said if isinstance(said, str) else _text(answer[:300]), 300)


def _scores(server: str, answer: bytes, count: int) -> list[float]:
    parsed = _parsed(answer)
    scores = parsed.get("scores") if isinstance(parsed, dict) else None
    if not isinstance(scores, list) or not all(_finite(score) for score in scores):
        raise RewardError(
            f'{server} answered {shortened(_text(answer[:80]))}, expected {{"scores": [...]}} of finite numbers'
        )
    if len(scores) != count:
        raise RewardError(f"{server} answered {len(scores)} scores for {count} images")
    return [float(score) for score in scores]


def _finite(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and abs(score) < math.inf


def _parsed(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "backslashreplace")
