"""The application: authentication, answers, limits and retries."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rewards.remote.live import AUTHORIZED, TOKEN, Counting, Waiting, app_of, body, conversation, pictures, post
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.rewards import REWARDS, CheckedReward, checked
from stepcredit.rewards.remote.app import create_app
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.wire import JSON, SAFETENSORS, Batch

UNAUTHORIZED = {"error": "a valid bearer token is required"}


def error(response: httpx.Response) -> tuple[int, str]:
    assert response.json().keys() == {"error"} and "\n" not in response.json()["error"]
    return response.status_code, response.json()["error"]


async def queued(client: httpx.AsyncClient, count: int) -> None:
    """Wait until `count` requests are pending."""
    while (await client.get("/health")).json()["queue"]["sum"] < count:
        await asyncio.sleep(0)  # the requests go on meanwhile


# Scores


@pytest.mark.parametrize("content_type", [JSON, SAFETENSORS])
@pytest.mark.parametrize("name", ["warmth", "jpeg_compressibility"])
def test_scores_equal_local_ones_bit_for_bit(content_type: str, name: str) -> None:
    images, reward = pictures(5, 16, 16), checked(REWARDS.get(name)(), name)
    response = post(create_app({name: reward}, TOKEN), body(images, content_type), content_type, name)
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    local = reward(Batch.of(images, ["a"] * 5, [{}] * 5).images(), ["a"] * 5, [{}] * 5)
    assert torch.equal(torch.tensor(response.json()["scores"]), local)


def test_float32_scores_are_exact() -> None:
    values = torch.tensor([0.1, -1 / 3, 3.4028235e38, 1e-45, -0.0, 16777217.0, torch.pi])
    response = post(app_of(lambda *_: values), body(pictures(7, 1, 1)))
    found = torch.tensor(response.json()["scores"])
    assert found.numpy().tobytes() == values.numpy().tobytes()


def test_the_reward_receives_the_request() -> None:
    seen: list[Any] = []

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> list[float]:
        seen.extend([images, prompts, metadata])
        return [0.0, 1.0]

    assert post(app_of(reward), body(pictures(), prompts=["ä", "\ud800"])).json() == {"scores": [0.0, 1.0]}
    images, prompts, metadata = seen
    assert torch.equal(images, Batch.of(pictures(), [], []).images())
    assert (prompts, metadata) == (["ä", "\ud800"], [{"row": 0}, {"row": 1}])


def test_a_name_with_slash_and_colon() -> None:
    app = create_app({"my/rewards.py:sum": Counting()}, TOKEN)
    assert post(app, body(pictures()), name="my%2Frewards.py%3Asum").status_code == 200


def test_one_batch_at_a_time() -> None:
    reward = Counting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = AUTHORIZED | {"Content-Type": SAFETENSORS}
        return await asyncio.gather(
            *(client.post("/v1/score/sum", content=body(pictures(seed=n)), headers=headers) for n in range(8))
        )

    answers = conversation(app_of(reward), talk)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert reward.max_concurrent == 1 and len({answer.text for answer in answers}) == 8


# Authentication


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
    ids=str,
)
def test_401_does_not_depend_on_the_request(headers: dict[str, Any]) -> None:
    reward = Counting()
    app = create_app({"sum": reward}, TOKEN)
    for name, content in (("sum", body(pictures())), ("none", b"{"), ("sum", b"x" * 10_000)):
        response = post(app, content, name=name, headers=headers)
        assert (response.status_code, response.json()) == (401, UNAUTHORIZED)
        assert response.headers["www-authenticate"] == "Bearer"
    assert not reward.executions


def test_an_unauthorized_body_is_not_read() -> None:
    taken = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 1000

    assert post(app_of(), stream(), headers={}).status_code == 401
    assert taken <= 1


def test_only_health_needs_no_token() -> None:
    async def talk(client: httpx.AsyncClient) -> dict[str, int]:
        paths = ["/health", "/v1/rewards", "/docs", "/openapi.json", "/redoc", "/v1/score/sum", "/"]
        return {path: (await client.get(path)).status_code for path in paths}

    assert conversation(app_of(), talk) == {
        "/health": 200,
        "/v1/rewards": 401,
        "/docs": 404,
        "/openapi.json": 404,
        "/redoc": 404,
        "/v1/score/sum": 405,
        "/": 404,
    }


def test_a_server_without_token() -> None:
    app = create_app({"sum": Counting()}, None)
    assert post(app, body(pictures()), headers={}).status_code == 200
    assert post(app, body(pictures()), headers=AUTHORIZED).status_code == 200


def test_description_of_rewards_and_limits() -> None:
    async def talk(client: httpx.AsyncClient) -> Any:
        return (await client.get("/v1/rewards", headers=AUTHORIZED)).json()

    said = conversation(create_app({"w": REWARDS.get("warmth")()}, TOKEN, Limits(images=3)), talk)
    assert said["rewards"] == [
        {"name": "w", "description": "Mean red minus mean blue of the image, from -1 (blue) to 1 (red)."}
    ]
    assert said["limits"]["images"] == 3


def test_health_reports_queues() -> None:
    reward = Waiting()

    async def talk(client: httpx.AsyncClient) -> Any:
        before = (await client.get("/health")).json()
        headers = AUTHORIZED | {"Content-Type": SAFETENSORS}
        asked = asyncio.ensure_future(client.post("/v1/score/sum", content=body(pictures()), headers=headers))
        await asyncio.to_thread(reward.begun.wait, 20)
        during = (await client.get("/health")).json()
        reward.may_go.set()
        await asked
        return before, during, (await client.get("/health")).json()

    idle, busy = ({"status": "ok", "queue": {"sum": waiting}} for waiting in (0, 1))
    assert conversation(app_of(reward), talk) == (idle, busy, idle)


# Refused requests


def test_an_unknown_reward_is_404() -> None:
    assert error(post(app_of(), body(pictures()), name="sun")) == (404, "this server has no reward 'sun', only sum")


def test_malformed_payloads_are_422_and_other_types_415() -> None:
    reward = Counting()
    assert error(post(app_of(reward), b"{", JSON))[0] == 422
    assert error(post(app_of(reward), b"{", SAFETENSORS))[0] == 422
    assert error(post(app_of(reward), b"{", "text/plain"))[0] == 415
    assert not reward.executions


def test_a_compressed_body_is_415() -> None:
    response = post(app_of(), gzip.compress(b"0" * 10_000), headers=AUTHORIZED | {"Content-Encoding": "gzip"})
    assert error(response)[0] == 415


@pytest.mark.parametrize(("images", "limits"), [(5, {"images": 4}), (2, {"pixels": 39})])
def test_more_images_or_pixels_than_allowed_are_413(images: int, limits: dict[str, int]) -> None:
    assert error(post(app_of(**limits), body(pictures(images))))[0] == 413


def test_a_body_of_exactly_the_allowed_bytes() -> None:
    content = body(pictures())
    assert post(app_of(request_bytes=len(content)), content).status_code == 200
    status, message = error(post(app_of(request_bytes=len(content) - 1), content))
    assert status == 413 and f"{len(content) - 1} bytes" in message


@pytest.mark.parametrize("declared", ["1000", "9" * 400])
def test_a_large_content_length_is_refused(declared: str) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""

    response = post(app_of(request_bytes=999), nothing(), headers=AUTHORIZED | {"Content-Length": declared})
    assert response.status_code == 413


@pytest.mark.parametrize("declared", [{}, {"Content-Length": "5"}, {"Content-Length": "-5"}, {"Content-Length": "x"}])
def test_a_large_body_is_refused_while_reading(declared: dict[str, str]) -> None:
    taken = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b"x" * 100

    assert post(app_of(request_bytes=1000), stream(), headers=AUTHORIZED | declared).status_code == 413
    assert taken <= 11


def test_a_slow_body_is_408() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    assert error(post(app_of(read_seconds=0.01), stream())) == (408, "the body took longer than 0.01 s to arrive")


def test_a_full_queue_is_503_with_retry_after() -> None:
    reward = Waiting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        def ask(seed: int) -> Any:
            headers = AUTHORIZED | {"Content-Type": SAFETENSORS}
            return client.post("/v1/score/sum", content=body(pictures(seed=seed)), headers=headers)

        waiting = [asyncio.ensure_future(ask(seed)) for seed in range(3)]
        await queued(client, 3)
        refused = await ask(3)
        reward.may_go.set()
        answered = await asyncio.gather(*waiting)
        return [refused, *answered, await ask(4)]

    refused, *answered = conversation(app_of(reward, queue=3), talk)
    assert error(refused)[0] == 503
    assert refused.headers["retry-after"] == "1"
    assert [response.status_code for response in answered] == [200] * 4
    assert reward.executions["prompt 0"] == 4


def failing(exception: Exception) -> Any:
    def reward(*_: Any) -> Any:
        raise exception

    return reward


@pytest.mark.parametrize(
    ("reward", "status", "line"),
    [
        (failing(RuntimeError("out of\nmemory")), 500, "reward 'sum' raised RuntimeError (out of memory) on 2 images"),
        (failing(InputError("not a caption")), 422, "reward 'sum' failed: not a caption"),
        (lambda *_: [1.0, float("nan")], 422, "reward 'sum' returned nan for 1 of 2 images, first for prompt 'b \\ud8"),
        (lambda *_: [1.0], 422, "reward 'sum' returned scores of shape (1,), expected (2,)"),
    ],
    ids=["raises", "refuses", "nan", "shape"],
)
def test_errors_of_the_reward(reward: Any, status: int, line: str) -> None:
    response = post(app_of(reward), body(pictures(), prompts=["a", "b \ud800"]))
    found, said = error(response)
    assert found == status and said.startswith(line) and said.isascii(), said
    assert "Traceback" not in response.text


def test_internal_errors_are_not_disclosed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.rewards.remote.worker.decode", failing(ZeroDivisionError("secret")))
    status, message = error(post(app_of(), body(pictures())))
    assert status == 500 and "secret" not in message


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.binary(max_size=60), st.sampled_from([JSON, SAFETENSORS, "application/octet-stream", "x"]), st.text(max_size=9)
)
def test_any_body_gets_a_json_error(content: bytes, content_type: str, key: str) -> None:
    headers: dict[str, Any] = AUTHORIZED | {"Idempotency-Key": key.encode()}
    assert error(post(FUZZED, content, content_type, headers=headers))[0] in (413, 415, 422)


FUZZED = app_of(request_bytes=50)


# Retries


def keyed(key: str, content: bytes, **more: str) -> dict[str, Any]:
    return {"content": content, "headers": AUTHORIZED | {"Content-Type": SAFETENSORS, "Idempotency-Key": key} | more}


def test_a_repeated_request_is_scored_once() -> None:
    reward = Counting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        content = body(pictures())
        return [await client.post("/v1/score/sum", **keyed(key, content)) for key in ("a", "a", "b")]

    answers = conversation(app_of(reward), talk)
    assert len({answer.text for answer in answers}) == 1 and answers[0].status_code == 200
    assert reward.executions == {"prompt 0": 2, "prompt 1": 2}


def test_a_repeated_request_waits_for_the_first() -> None:
    reward = Waiting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        content = body(pictures())
        asked = [asyncio.ensure_future(client.post("/v1/score/sum", **keyed("a", content))) for _ in range(3)]
        await queued(client, 3)
        reward.may_go.set()
        return await asyncio.gather(*asked)

    answers = conversation(app_of(reward), talk)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert reward.executions == {"prompt 0": 1, "prompt 1": 1}


def test_a_client_that_reconnects_gets_its_scores() -> None:
    reward = Waiting()

    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        content = body(pictures())
        asked = asyncio.ensure_future(client.post("/v1/score/sum", **keyed("a", content)))
        await asyncio.to_thread(reward.begun.wait, 20)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        reward.may_go.set()
        return await client.post("/v1/score/sum", **keyed("a", content))

    assert conversation(app_of(reward), talk).status_code == 200
    assert reward.executions == {"prompt 0": 1, "prompt 1": 1}


def test_a_failure_can_be_retried_with_the_same_key() -> None:
    calls: list[int] = []

    def reward(images: Tensor, *_: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not today")
        return images.sum((1, 2, 3))

    async def talk(client: httpx.AsyncClient) -> list[int]:
        content = body(pictures())
        return [(await client.post("/v1/score/sum", **keyed("a", content))).status_code for _ in range(3)]

    assert conversation(app_of(reward), talk) == [500, 200, 200] and len(calls) == 2


def test_a_key_of_another_request_is_422() -> None:
    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        contents = [body(pictures()), body(pictures(seed=1))]
        return [await client.post("/v1/score/sum", **keyed("a", content)) for content in contents]

    first, second = conversation(app_of(), talk)
    assert first.status_code == 200
    status, message = error(second)
    assert status == 422 and "Idempotency-Key" in message


@pytest.mark.parametrize("key", ["", "x" * 129, "a\tb", "ä"])
def test_a_key_that_is_none_is_422(key: str) -> None:
    headers: dict[str, Any] = AUTHORIZED | {"Idempotency-Key": key.encode()}
    assert error(post(app_of(), body(pictures()), headers=headers)) == (
        422,
        "Idempotency-Key must be 1 to 128 printable characters",
    )


def test_a_reward_that_was_checked_keeps_its_name() -> None:
    app = create_app({"public": CheckedReward(lambda *_: [1.0], "inner")}, TOKEN)
    assert error(post(app, body(pictures()), name="public"))[1].startswith("reward 'inner' returned")


def test_answers_are_ascii() -> None:
    response = post(app_of(), body(pictures()), name="%F0%9F%8E%88")
    assert response.content.isascii() and "'🎈'" in json.loads(response.content)["error"]
