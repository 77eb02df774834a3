"""Malformed payloads and requests at a reward server, and malformed answers at its client."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import strategies as st
from tests.hostile.trials import REFUSED, WORKS, cases, record, survive
from tests.hostile.values import JSON_VALUES, TEXT, damaged
from tests.rewards.remote.live import AUTHORIZED, app_of, body, conversation, pictures

from stepcredit.errors import InputError
from stepcredit.rewards import checked
from stepcredit.rewards.remote.client import RemoteOptions, RemoteReward
from stepcredit.rewards.remote.http import listen
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.wire import JSON, SAFETENSORS, decode

PAYLOAD, REQUEST, ANSWER = "payload of the reward service", "request to the reward server", "answer of a reward server"
LIMITS = Limits(request_bytes=10**5, images=4, pixels=400)
TYPES = (SAFETENSORS, JSON)
VALID = {content_type: body(pictures(2), content_type) for content_type in TYPES}


def decode_valid(content: bytes, content_type: str) -> None:
    """Decode a payload; a batch that is accepted must be within the limits."""
    batch = decode(content, content_type, LIMITS)
    count, channels, height, width = batch.images().shape
    assert channels == 3 and 0 < count <= LIMITS.images and 0 < count * height * width <= LIMITS.pixels
    assert len(batch.prompts) == len(batch.metadata) == count


@cases(fast=40, slow=1500)
def test_damaged_payloads(cases: int) -> None:
    strategy = st.sampled_from(TYPES).flatmap(lambda kind: st.tuples(damaged(VALID[kind]), st.just(kind)))
    found = survive(PAYLOAD, "bytes of a valid one changed, cut, doubled", cases, strategy, lambda c: decode_valid(*c))
    assert found[WORKS] and found[REFUSED]


@cases(fast=30, slow=900)
def test_payloads_of_any_json(cases: int) -> None:
    valid = json.loads(VALID[JSON])
    keys = st.sampled_from(["images", "prompts", "metadata"]) | TEXT

    def attempt(changes: dict[str, Any]) -> None:
        decode_valid(json.dumps({**valid, **changes}).encode(), JSON)

    survive(PAYLOAD, "random values under every key", cases, st.dictionaries(keys, JSON_VALUES, max_size=2), attempt)


HEADERS = st.sampled_from(
    ["content-type", "idempotency-key", "content-length", "content-encoding", "authorization", "x"]
)
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)


@cases(fast=15, slow=600)
def test_any_request(cases: int) -> None:
    """The server sends the requested answer or one line of JSON, and continues to run."""
    app = app_of(request_bytes=10**5, images=4, pixels=400)
    damages = st.sampled_from(TYPES).flatmap(lambda kind: st.tuples(st.just(kind), damaged(VALID[kind])))
    content = (
        st.sampled_from(sorted(VALID.items())) | damages | st.tuples(st.sampled_from(TYPES), st.binary(max_size=50))
    )
    paths = (
        st.sampled_from(["/v1/score/sum", "/v1/rewards", "/health", "/v1/score/", "/v1/score/../../etc", "/"]) | TEXT
    )
    usual = st.just(("POST", "/v1/score/sum"))
    methods = st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "X"])
    headers = st.dictionaries(HEADERS, st.sampled_from([SAFETENSORS, JSON, "gzip", "0", "9" * 30, "-1"]) | LATIN)
    strategy = st.tuples(
        usual | st.tuples(methods, paths), st.just({}) | headers, content, st.sampled_from([True, True, False])
    )

    def attempt(case: tuple[tuple[str, str], dict[str, str], tuple[str, bytes], bool]) -> str:
        (method, path), given, (kind, payload), authorized = case
        raw = {"content-type": kind, **(AUTHORIZED if authorized else {}), **given}
        answer = conversation(app, lambda client: ask(client, method, path, payload, raw))
        if answer.status_code == 200:
            return WORKS
        assert 400 <= answer.status_code < 500, answer.status_code
        line = answer.json()["error"]
        assert line and "\n" not in line and "Traceback" not in line
        return REFUSED

    found = survive(REQUEST, "random methods, paths, headers and bodies", cases, strategy, attempt)
    assert found[WORKS] and found[REFUSED]


async def ask(
    client: httpx.AsyncClient, method: str, path: str, content: bytes, headers: dict[str, str]
) -> httpx.Response:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    url = httpx.URL(
        "http://server", raw_path=b"/" + quote(path.lstrip("/"), safe="/.", errors="surrogatepass").encode()
    )
    return await client.request(method, url, content=content, headers=encoded)


@cases(fast=20, slow=600)
def test_any_answer(cases: int) -> None:
    """The client returns finite scores or raises a one-line error."""
    answers: list[httpx.Response] = []
    client = RemoteReward(
        "sum",
        Servers(["http://server"]),
        RemoteOptions(retries=1, backoff=0),
        None,
        sleep=lambda _: asyncio.sleep(0),
        transport=httpx.MockTransport(lambda request: answers[0]),
    )
    scores = st.lists(st.floats() | st.integers() | JSON_VALUES, max_size=3)
    contents = st.fixed_dictionaries({"scores": scores | st.just([0.5, 1])}) | JSON_VALUES
    bodies = contents.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60) | st.just(b"[" * 10**5)
    statuses = st.sampled_from([200, 200, 200, 200, 204, 301, 400, 401, 404, 408, 422, 429, 500, 503])
    waits = st.sampled_from([{}, {"retry-after": "0"}, {"retry-after": "soon"}])

    def attempt(case: tuple[int, bytes, dict[str, str]]) -> None:
        status, content, headers = case
        answers[:] = [httpx.Response(status, content=content, headers=headers)]
        found = checked(client, "sum")(pictures(2), ["a", "b"], [{}, {}])
        assert found.shape == (2,) and found.isfinite().all()

    survive(ANSWER, "random statuses, headers and bodies", cases, st.tuples(statuses, bodies, waits), attempt)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "::ffff:0.0.0.0", "192.0.2.1", "255.255.255.255"])  # noqa: S104
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(InputError, match="is open to other machines: set STEPCREDIT_REWARD_TOKEN or --token-file"):
        listen(host, 0, has_token=False)
    record("reward server without a token", "addresses that other machines reach", REFUSED)
