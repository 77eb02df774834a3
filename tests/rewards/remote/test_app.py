"""The application: who is answered, what, and how often a batch is scored."""

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
from tests.rewards.remote.live import AUTHORISED, TOKEN, Counting, Waiting, app_of, body, conversation, pictures, post
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.rewards import REWARDS, CheckedReward, checked
from stepcredit.rewards.remote.app import create_app
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.wire import JSON, SAFETENSORS, Batch

UNAUTHORISED = {"error": "a valid bearer token is required"}


def error(response: httpx.Response) -> tuple[int, str]:
    assert response.json().keys() == {"error"} and "\n" not in response.json()["error"]
    return response.status_code, response.json()["error"]


async def queued(client: httpx.AsyncClient, count: int) -> None:
    """Wait until that many requests are at the desk."""
    while (await client.get("/health")).json()["queue"]["sum"] < count:
        await asyncio.sleep(0)  # the requests go on meanwhile


# Scores


@pytest.mark.parametrize("content_type", [JSON, SAFETENSORS])
@pytest.mark.parametrize("name", ["warmth", "jpeg_compressibility"])
def test_scores_are_the_local_ones_bit_for_bit(content_type: str, name: str) -> None:
    images, reward = pictures(5, 16, 16), checked(REWARDS.get(name)(), name)
    response = post(create_app({name: reward}, TOKEN), body(images, content_type), content_type, name)
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    local = reward(Batch.of(images, ["a"] * 5, [{}] * 5).images(), ["a"] * 5, [{}] * 5)
    assert torch.equal(torch.tensor(response.json()["scores"]), local)


def test_every_float32_survives() -> None:
    values = torch.tensor([0.1, -1 / 3, 3.4028235e38, 1e-45, -0.0, 16777217.0, torch.pi])
    response = post(app_of(lambda *_: values), body(pictures(7, 1, 1)))
    found = torch.tensor(response.json()["scores"])
    assert found.numpy().tobytes() == values.numpy().tobytes()


def test_the_reward_sees_what_was_sent() -> None:
    seen: list[Any] = []

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> list[float]:
        seen.extend([images, prompts, metadata])
        return [0.0, 1.0]

    assert post(app_of(reward), body(pictures(), prompts=["ä", "\ud800"])).json() == {"scores": [0.0, 1.0]}
    images, prompts, metadata = seen
    assert torch.equal(images, Batch.of(pictures(), [], []).images())
    assert (prompts, metadata) == (["ä", "\ud800"], [{"row": 0}, {"row": 1}])


def test_a_reward_whose_name_is_a_file() -> None:
    app = create_app({"my/rewards.py:sum": Counting()}, TOKEN)
    assert post(app, body(pictures()), name="my%2Frewards.py%3Asum").status_code == 200


def test_one_batch_at_a_time() -> None:
    reward = Counting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = AUTHORISED | {"Content-Type": SAFETENSORS}
        return await asyncio.gather(
            *(client.post("/v1/score/sum", content=body(pictures(seed=n)), headers=headers) for n in range(8))
        )

    answers = conversation(app_of(reward), talk)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert reward.most_inside == 1 and len({answer.text for answer in answers}) == 8


# Who may ask


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
def test_401_is_the_same_whatever_was_asked(headers: dict[str, Any]) -> None:
    reward = Counting()
    app = create_app({"sum": reward}, TOKEN)
    for name, content in (("sum", body(pictures())), ("none", b"{"), ("sum", b"x" * 10_000)):
        response = post(app, content, name=name, headers=headers)
        assert (response.status_code, response.json()) == (401, UNAUTHORISED)
        assert response.headers["www-authenticate"] == "Bearer"
    assert not reward.executions


def test_an_unauthorised_body_is_not_read() -> None:
    taken = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 1000

    assert post(app_of(), stream(), headers={}).status_code == 401
    assert taken <= 1


def test_only_health_is_open() -> None:
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


def test_without_a_token_everybody_is_answered() -> None:
    app = create_app({"sum": Counting()}, None)
    assert post(app, body(pictures()), headers={}).status_code == 200
    assert post(app, body(pictures()), headers=AUTHORISED).status_code == 200


def test_what_there_is() -> None:
    async def talk(client: httpx.AsyncClient) -> Any:
        return (await client.get("/v1/rewards", headers=AUTHORISED)).json()

    said = conversation(create_app({"w": REWARDS.get("warmth")()}, TOKEN, Limits(images=3)), talk)
    assert said["rewards"] == [
        {"name": "w", "description": "Mean red minus mean blue of the image, from -1 (blue) to 1 (red)."}
    ]
    assert said["limits"]["images"] == 3


def test_health_tells_names_and_queues_and_nothing_else() -> None:
    reward = Waiting()

    async def talk(client: httpx.AsyncClient) -> Any:
        before = (await client.get("/health")).json()
        headers = AUTHORISED | {"Content-Type": SAFETENSORS}
        asked = asyncio.ensure_future(client.post("/v1/score/sum", content=body(pictures()), headers=headers))
        await asyncio.to_thread(reward.begun.wait, 20)
        during = (await client.get("/health")).json()
        reward.may_go.set()
        await asked
        return before, during, (await client.get("/health")).json()

    idle, busy = ({"status": "ok", "queue": {"sum": waiting}} for waiting in (0, 1))
    assert conversation(app_of(reward), talk) == (idle, busy, idle)


# What is refused


def test_an_unknown_reward_is_404() -> None:
    assert error(post(app_of(), body(pictures()), name="sun")) == (404, "no reward 'sun' here, only sum")


def test_malformed_payloads_are_422_and_other_types_415() -> None:
    reward = Counting()
    assert error(post(app_of(reward), b"{", JSON))[0] == 422
    assert error(post(app_of(reward), b"{", SAFETENSORS))[0] == 422
    assert error(post(app_of(reward), b"{", "text/plain"))[0] == 415
    assert not reward.executions


def test_a_compressed_body_is_415() -> None:
    response = post(app_of(), gzip.compress(b"0" * 10_000), headers=AUTHORISED | {"Content-Encoding": "gzip"})
    assert error(response) == (415, "compressed bodies are not taken")


@pytest.mark.parametrize(("images", "limits"), [(5, {"images": 4}), (2, {"pixels": 39})])
def test_more_images_or_pixels_than_allowed_are_413(images: int, limits: dict[str, int]) -> None:
    assert error(post(app_of(**limits), body(pictures(images))))[0] == 413


def test_a_body_of_exactly_the_allowed_bytes() -> None:
    content = body(pictures())
    assert post(app_of(request_bytes=len(content)), content).status_code == 200
    assert error(post(app_of(request_bytes=len(content) - 1), content)) == (
        413,
        f"the body is larger than this server's {len(content) - 1} bytes a request",
    )


@pytest.mark.parametrize("declared", ["1000", "9" * 400])
def test_a_large_body_is_refused_by_what_it_declares(declared: str) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""

    response = post(app_of(request_bytes=999), nothing(), headers=AUTHORISED | {"Content-Length": declared})
    assert response.status_code == 413


@pytest.mark.parametrize("declared", [{}, {"Content-Length": "5"}, {"Content-Length": "-5"}, {"Content-Length": "x"}])
def test_a_large_body_is_refused_while_it_arrives(declared: dict[str, str]) -> None:
    taken = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b"x" * 100

    assert post(app_of(request_bytes=1000), stream(), headers=AUTHORISED | declared).status_code == 413
    assert taken <= 11


def test_a_body_that_does_not_arrive_is_408() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    assert error(post(app_of(read_seconds=0.01), stream())) == (408, "the body took longer than 0.01 s to arrive")


def test_a_full_queue_is_503_and_says_when_to_come_back() -> None:
    reward = Waiting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        def ask(seed: int) -> Any:
            headers = AUTHORISED | {"Content-Type": SAFETENSORS}
            return client.post("/v1/score/sum", content=body(pictures(seed=seed)), headers=headers)

        waiting = [asyncio.ensure_future(ask(seed)) for seed in range(3)]
        await queued(client, 3)
        refused = await ask(3)
        reward.may_go.set()
        answered = await asyncio.gather(*waiting)
        return [refused, *answered, await ask(4)]

    refused, *answered = conversation(app_of(reward, queue=3), talk)
    assert error(refused) == (503, "3 requests are waiting already, come back later")
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
def test_a_reward_that_fails_is_told(reward: Any, status: int, line: str) -> None:
    response = post(app_of(reward), body(pictures(), prompts=["a", "b \ud800"]))
    found, said = error(response)
    assert found == status and said.startswith(line) and said.isascii(), said
    assert "Traceback" not in response.text


def test_a_fault_of_the_server_itself_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.rewards.remote.desk.decode", failing(ZeroDivisionError("secret")))
    assert error(post(app_of(), body(pictures()))) == (500, "internal error, see the server's log")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.binary(max_size=60), st.sampled_from([JSON, SAFETENSORS, "application/octet-stream", "x"]), st.text(max_size=9)
)
def test_any_request_gets_an_answer_of_ours(content: bytes, content_type: str, key: str) -> None:
    headers: dict[str, Any] = AUTHORISED | {"Idempotency-Key": key.encode()}
    assert error(post(FUZZED, content, content_type, headers=headers))[0] in (413, 415, 422)


FUZZED = app_of(request_bytes=50)


# How often a batch is scored


def keyed(key: str, content: bytes, **more: str) -> dict[str, Any]:
    return {"content": content, "headers": AUTHORISED | {"Content-Type": SAFETENSORS, "Idempotency-Key": key} | more}


def test_a_request_that_comes_again_is_not_scored_again() -> None:
    reward = Counting()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        content = body(pictures())
        return [await client.post("/v1/score/sum", **keyed(key, content)) for key in ("a", "a", "b")]

    answers = conversation(app_of(reward), talk)
    assert len({answer.text for answer in answers}) == 1 and answers[0].status_code == 200
    assert reward.executions == {"prompt 0": 2, "prompt 1": 2}


def test_a_request_that_comes_again_before_its_scores_are_there_waits_for_them() -> None:
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


def test_a_client_that_went_away_finds_its_scores_when_it_is_back() -> None:
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


def test_a_failure_is_tried_again_under_the_same_key() -> None:
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
    assert error(second) == (422, "this Idempotency-Key was used for another request: make a new one for each")


@pytest.mark.parametrize("key", ["", "x" * 129, "a\tb", "ä"])
def test_a_key_that_is_none_is_422(key: str) -> None:
    headers: dict[str, Any] = AUTHORISED | {"Idempotency-Key": key.encode()}
    assert error(post(app_of(), body(pictures()), headers=headers)) == (
        422,
        "Idempotency-Key must be 1 to 128 printable characters",
    )


def test_a_reward_that_was_checked_keeps_its_name() -> None:
    app = create_app({"public": CheckedReward(lambda *_: [1.0], "inner")}, TOKEN)
    assert error(post(app, body(pictures()), name="public"))[1].startswith("reward 'inner' returned")


def test_answers_are_ascii() -> None:
    response = post(app_of(), body(pictures()), name="%F0%9F%8E%88")
    assert response.content.isascii() and json.loads(response.content)["error"].startswith("no reward '🎈'")
