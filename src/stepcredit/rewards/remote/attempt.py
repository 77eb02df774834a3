"""One request to one server. Its answer is scores, a failure that a retry may fix, or a permanent one."""

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
"""Status codes for which a retry may succeed."""
ANSWER_BYTES = 2**24
"""Largest answer that is read."""


@dataclass(frozen=True)
class ScoreRequest:
    """A part of a batch. It is encoded once for all attempts.

    Attributes:
        reward: its name on the server.
        count: number of images, so of scores.
        key: the Idempotency-Key, unique to the request and equal in all attempts.
    """

    reward: str
    body: bytes
    content_type: str
    count: int
    key: str


class TransientError(Exception):
    """An attempt failed, but a retry may succeed. `retry_after` is the number of seconds that the server requests."""

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


async def send(client: httpx.AsyncClient, server: str, request: ScoreRequest, timeout: float) -> list[float]:
    """The scores of `request` from `server`. `timeout` limits the time from connecting to the last byte, in seconds.

    Raises:
        TransientError: timeout, a broken connection, or a status in RETRIED.
        InputError: any other status, such as 401.
        RewardError: the answer is not a list of finite scores, one per image.
    """
    import httpx

    url = f"{server}/v1/score/{quote(request.reward, safe='')}"
    headers = {"Content-Type": request.content_type, "Idempotency-Key": request.key}
    try:
        async with asyncio.timeout(timeout):
            async with client.stream("POST", url, content=request.body, headers=headers) as response:
                answer = await _content(response, server)
    except TimeoutError:
        raise TransientError(f"took longer than {timeout:g} s") from None
    except httpx.RequestError as error:
        raise TransientError(f"cannot be reached ({type(error).__name__}: {shortened(str(error))})") from error
    if response.status_code != 200:
        raise _refusal(server, response.status_code, answer, response.headers.get("retry-after", ""))
    return _scores(server, answer, request.count)


async def _content(response: httpx.Response, server: str) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > ANSWER_BYTES:
            raise RewardError(f"{server} sent more than {ANSWER_BYTES} bytes: is it a reward server?")
    return bytes(content)


def _refusal(server: str, status: int, answer: bytes, retry_after: str) -> Exception:
    if status in (401, 403):
        remedy = "set the server's token in STEPCREDIT_REWARD_TOKEN or in the file reward.options.token_file"
        return InputError(f"the server {server} refuses the token ({status}): {remedy}")
    problem = f"answered {status}: {_message(answer)}"
    if status in RETRIED:
        return TransientError(problem, float(retry_after) if retry_after.isdecimal() else 0.0)
    return InputError(f"{server} {problem}")


def _message(answer: bytes) -> str:
    """The message of {"error": message}, or the beginning of another answer."""
    parsed = _parsed(answer)
    message = parsed.get("error") if isinstance(parsed, dict) else None
    return shortened(message if isinstance(message, str) else _text(answer[:300]), 300)


def _scores(server: str, answer: bytes, count: int) -> list[float]:
    parsed = _parsed(answer)
    scores = parsed.get("scores") if isinstance(parsed, dict) else None
    if not isinstance(scores, list) or not all(_finite(score) for score in scores):
        raise RewardError(
            f'{server} answered {shortened(_text(answer[:80]))}, expected {{"scores": [...]}} of finite numbers'
        )
    if len(scores) != count:
        raise RewardError(f"{server} sent {len(scores)} scores for {count} images")
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
