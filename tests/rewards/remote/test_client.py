"""The client: its requests, retries and errors."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from tests.rewards.remote.live import TOKEN, Counting, pictures, served
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, RewardError
from stepcredit.rewards import REWARDS, build_reward, checked
from stepcredit.rewards.remote.app import create_app
from stepcredit.rewards.remote.attempt import ANSWER_BYTES
from stepcredit.rewards.remote.client import MAX_WAIT, RemoteOptions, RemoteReward, remote_reward
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.token import VARIABLE
from stepcredit.rewards.remote.wire import Batch, decode


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


class Sleeps:
    """Returns at once and records the durations."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Answers:
    """A server that sends the given answers, then scores. It records the requests."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else scores_of(request)
        if isinstance(answer, Exception):
            raise answer
        if answer is HANG:
            await asyncio.Event().wait()
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.requests]


HANG = object()


def scores_of(request: httpx.Request) -> dict[str, Any]:
    """The answer of a server whose reward is `local`."""
    batch = decode(request.content, request.headers["content-type"], Limits())
    return {"scores": local(batch.images()).tolist()}


def local(images: Tensor) -> Tensor:
    return images.sum((1, 2, 3)) / 7


def quantized(images: Tensor) -> Tensor:
    return Batch.of(images, [], []).images()


def says(status: int, line: str = "no", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": line}, headers=headers)


def client(
    handler: Any,
    servers: str = "http://a",
    name: str = "sum",
    token: str | None = TOKEN,
    sleeps: Sleeps | None = None,
    **options: Any,
) -> RemoteReward:
    transport = httpx.MockTransport(handler)
    place = Servers(servers.split())
    return RemoteReward(name, place, RemoteOptions(**options), token, sleeps or Sleeps(), transport)


def score(reward: Any, images: Tensor) -> Tensor:
    scores: Tensor = reward(images, [f"prompt {row}" for row in range(len(images))], [{} for _ in images])
    return scores


def fails(reward: Any, kind: type[Exception] = RewardError, images: Tensor | None = None) -> str:
    with pytest.raises(kind) as caught:
        score(reward, pictures() if images is None else images)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
    return str(caught.value)


# Requests


@pytest.mark.parametrize("payload", ["safetensors", "png"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_scores_equal_those_of_quantized_images(payload: str, batch: int) -> None:
    server, images = Answers(), pictures(7)
    scores = score(client(server, batch=batch, payload=payload), images)
    assert torch.equal(scores, local(quantized(images))) and scores.dtype == torch.float32
    assert len(server.requests) == -(-7 // batch)


def test_a_request() -> None:
    server = Answers()
    score(client(server, "https://host:8443/base", "my/file.py:f"), pictures())
    (request,) = server.requests
    assert str(request.url) == "https://host:8443/base/v1/score/my%2Ffile.py%3Af"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/x-safetensors"
    batch = decode(request.content, request.headers["content-type"], Limits())
    assert (batch.prompts, batch.metadata) == (["prompt 0", "prompt 1"], [{}, {}])


def test_a_client_without_token() -> None:
    server = Answers()
    score(client(server, token=None), pictures())
    assert "authorization" not in server.requests[0].headers


def test_every_request_has_its_own_key() -> None:
    server = Answers()
    reward = client(server, batch=1)
    score(reward, pictures(3))
    score(reward, pictures(3))
    assert len(set(server.keys)) == 6


def test_an_empty_batch_sends_nothing() -> None:
    server = Answers()
    assert client(server)(torch.zeros(0, 3, 4, 4), [], []).shape == (0,)
    assert server.requests == []


def test_half_precision_images() -> None:
    images = pictures().to(torch.bfloat16)
    assert torch.equal(score(client(Answers()), images), local(quantized(images)))


def test_metadata_that_is_not_json() -> None:
    with pytest.raises(RewardError, match="prompts and metadata must be JSON"):
        client(Answers())(pictures(1), ["a"], [{"path": Path("a")}])


@pytest.mark.parametrize("concurrency", [1, 3])
def test_number_of_simultaneous_requests(concurrency: int) -> None:
    running, most, gate = 0, 0, asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == concurrency:
            gate.set()
        await gate.wait()
        running -= 1
        return httpx.Response(200, json=scores_of(request))

    score(client(handler, batch=1, concurrency=concurrency), pictures(9))
    assert most == concurrency


# Retries


REFUSED = httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "trouble",
    [
        REFUSED,
        httpx.RemoteProtocolError("disconnected"),
        httpx.ReadError(""),
        *(says(status) for status in (408, 429, 500, 502, 503, 504, 599)),
    ],
    ids=lambda trouble: str(getattr(trouble, "status_code", type(trouble).__name__)),
)
def test_transient_errors_are_retried_with_the_same_key(trouble: Any) -> None:
    server, sleeps, images = Answers(trouble, trouble), Sleeps(), pictures()
    assert torch.equal(score(client(server, sleeps=sleeps), images), local(quantized(images)))
    assert len(server.keys) == 3 and len(set(server.keys)) == 1 and len(sleeps.seconds) == 2


def test_a_timeout_is_retried() -> None:
    server = Answers(HANG)
    score(client(server, timeout=0.01), pictures())
    assert len(server.keys) == 2 and len(set(server.keys)) == 1
    line = fails(client(Answers(HANG, HANG), timeout=0.01, retries=1))
    assert line == "no scores after 2 attempts; the last one: http://a took longer than 0.01 s"


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 302])
def test_permanent_errors_are_not_retried(status: int) -> None:
    server, sleeps = Answers(says(status, "too\nlarge")), Sleeps()
    assert fails(client(server, sleeps=sleeps), InputError) == f"http://a answered {status}: too large"
    assert len(server.requests) == 1 and sleeps.seconds == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_not_quoted(status: int) -> None:
    server = Answers(says(status, f"not {TOKEN}"))
    line = fails(client(server, "http://a http://b"), InputError)
    assert line.startswith(f"the server http://a refuses the token ({status})")
    assert len(server.requests) == 1


def test_retries_are_limited() -> None:
    server, sleeps = Answers(*[REFUSED] * 9), Sleeps()
    line = fails(client(server, sleeps=sleeps, retries=3))
    assert line == "no scores after 4 attempts; the last one: http://a cannot be reached (ConnectError: refused)"
    assert len(server.requests) == 4 and len(sleeps.seconds) == 3, "no wait before giving up"
    assert fails(client(Answers(says(500, "broken")), retries=0)) == (
        "no scores after 1 attempt; the last one: http://a answered 500: broken"
    )


def test_a_permanent_error_cancels_the_batch() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        batch = decode(request.content, request.headers["content-type"], Limits())
        if batch.prompts == ["prompt 1"]:
            return says(422, "bad picture")
        await asyncio.Event().wait()
        raise AssertionError

    assert fails(client(handler, batch=1), InputError, pictures(4)) == "http://a answered 422: bad picture"


def test_waits_double_with_a_seeded_random_factor() -> None:
    def waits(seed: int, **options: Any) -> list[float]:
        sleeps = Sleeps()
        fails(client(Answers(*[REFUSED] * 20), sleeps=sleeps, backoff=0.5, retries=10, seed=seed, **options))
        return sleeps.seconds

    found = waits(0)
    factors = np.random.default_rng(0).uniform(0.5, 1.5, 10)
    expected = [min(MAX_WAIT, 0.5 * 2**attempt * factor) for attempt, factor in enumerate(factors)]
    assert found == expected == waits(0) != waits(1)
    assert found[-1] == MAX_WAIT and len({round(wait / 2**n, 6) for n, wait in enumerate(found)}) > 5


@pytest.mark.parametrize(("asked", "least"), [("7", 7.0), ("1000000", MAX_WAIT), ("tomorrow", 0.0), ("-5", 0.0)])
def test_retry_after_is_respected_up_to_a_limit(asked: str, least: float) -> None:
    sleeps = Sleeps()
    score(client(Answers(says(503, **{"Retry-After": asked})), sleeps=sleeps, backoff=0.001), pictures())
    assert sleeps.seconds[0] == pytest.approx(least, abs=0.002)


# Several servers


class Cluster:
    """Servers, some of which are down."""

    def __init__(self, *down: str) -> None:
        self.down = set(down)
        self.asked: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        if request.url.host in self.down:
            raise REFUSED
        return httpx.Response(200, json=scores_of(request))


def test_round_robin() -> None:
    cluster = Cluster()
    score(client(cluster, "http://a http://b http://c", batch=1, concurrency=1), pictures(6))
    assert cluster.asked == list("abcabc")


def test_a_failed_server_is_skipped_without_waiting() -> None:
    cluster, sleeps, images = Cluster("b"), Sleeps(), pictures(6)
    reward = client(cluster, "http://a http://b http://c", batch=1, concurrency=1, backoff=50, sleeps=sleeps)
    assert torch.equal(score(reward, images), local(quantized(images)))
    assert cluster.asked == list("abcacaca"[:7]) and sleeps.seconds == []
    score(reward, images)
    assert cluster.asked.count("b") == 1, "it is remembered between batches"


def test_if_all_servers_fail_the_client_waits() -> None:
    cluster, sleeps = Cluster("a", "b"), Sleeps()
    line = fails(client(cluster, "http://a http://b", retries=3, sleeps=sleeps))
    assert line.startswith("no scores after 4 attempts; the last one: http://") and "cannot be reached" in line
    assert len(cluster.asked) == 4 and set(cluster.asked) == {"a", "b"} and len(sleeps.seconds) == 2


# Invalid answers


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (httpx.Response(200, text="<html>\nhello"), 'http://a answered <html> hello, expected {"scores": [...]} of'),
        (httpx.Response(200, content=b"\xff\x00"), 'http://a answered \\xff'),
        (httpx.Response(200, content=b"[" * 100_000), "http://a answered [[["),
        ([1.0, 2.0], "http://a answered [1.0"),
        ({"scores": {"0": 1}}, "http://a answered {"),
        ({"scores": [1.0, None]}, "http://a answered {"),
        ({"scores": [1.0, True]}, "http://a answered {"),
        ({"scores": [1.0, "2"]}, "http://a answered {"),
        (httpx.Response(200, text='{"scores": [1.0, NaN]}'), "http://a answered {"),
        (httpx.Response(200, text='{"scores": [1.0, 1e999]}'), "http://a answered {"),
        ({"scores": [1.0]}, "http://a sent 1 scores for 2 images"),
        (httpx.Response(200, content=b" " * (ANSWER_BYTES + 1)), f"http://a sent more than {ANSWER_BYTES} bytes"),
    ],
    ids=range(12),
)  # fmt: skip
def test_invalid_answers(answer: Any, line: str) -> None:
    server = Answers(answer)
    assert fails(client(server)).startswith(line)
    assert len(server.requests) == 1


def test_long_error_pages_are_shortened() -> None:
    line = fails(client(Answers(httpx.Response(404, text="<html>" + "x" * 9999))), InputError)
    assert line.startswith("http://a answered 404: <html>xxx") and len(line) < 400


def test_integers_are_scores() -> None:
    assert score(client(Answers({"scores": [1, -2]})), pictures()).tolist() == [1.0, -2.0]


# Threads and event loops


def test_calls_from_threads_and_inside_a_running_event_loop() -> None:
    reward, images = client(Answers(), batch=1), [pictures(3, seed=seed) for seed in range(6)]

    async def inside() -> Tensor:
        return score(reward, images[0])

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda batch: score(reward, batch), images))
    for batch, scores in zip(images, found, strict=True):
        assert torch.equal(scores, local(quantized(batch)))
    assert torch.equal(asyncio.run(inside()), found[0])


def test_ctrl_c_cancels_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    def interrupted(self: Any) -> Any:
        assert begun.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(client(handler), pictures())
    assert cancelled.wait(20)


# In a recipe


def build(remote: Any, **options: Any) -> Any:
    return build_reward(RewardSection(name="sum", remote=remote, options=options))


def test_a_recipe_with_server_and_options() -> None:
    reward = Counting()
    with served(create_app({"sum": reward}, None)) as address:
        images = pictures(5)
        assert torch.equal(score(build(address, batch=2), images), local(quantized(images)))
    assert len(reward.executions) == 5


@pytest.mark.parametrize("name", ["warmth", "jpeg_compressibility"])
@pytest.mark.parametrize("payload", ["safetensors", "png"])
def test_remote_and_local_scores_are_equal_bit_for_bit(name: str, payload: str) -> None:
    here, images = checked(REWARDS.get(name)(), name), pictures(6, 16, 16)
    with served(create_app({name: here}, None)) as address:
        options = {"batch": 6, "payload": payload}
        there = score(build_reward(RewardSection(name=name, remote=address, options=options)), images)
    assert torch.equal(there, score(here, quantized(images)))
    assert name == "warmth" or torch.equal(there, score(here, images)), "it reads 8-bit pixels anyway"


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with served(create_app({"sum": Counting()}, TOKEN)) as address:
        refused = f"^reward 'sum' failed: the server {address} refuses the token \\(401\\): "
        with pytest.raises(RewardError, match=refused):
            score(build(address), pictures())
        assert len(score(build(address, token_file=str(tmp_path / "token")), pictures())) == 2
        monkeypatch.setenv(VARIABLE, "wrong")
        with pytest.raises(RewardError, match=refused) as caught:
            score(build(address), pictures())
        assert "wrong" not in str(caught.value) and "'wrong'" not in repr(caught.value.__cause__)
        monkeypatch.setenv(VARIABLE, TOKEN)
        assert len(score(build([address]), pictures())) == 2


def test_errors_of_the_server_s_reward() -> None:
    with served(create_app({"sum": lambda *_: [float("nan"), 0.0]}, None)) as address:
        with pytest.raises(RewardError, match="answered 422: reward 'sum' returned nan for 1 of 2 images, first for"):
            score(build(address), pictures())
        with pytest.raises(RewardError, match=r"reward 'sun' failed: .* answered 404: .*'sun', only sum"):
            score(build_reward(RewardSection(name="sun", remote=address)), pictures())


def test_a_large_body_over_a_real_connection() -> None:
    with served(create_app({"sum": Counting()}, TOKEN, Limits(request_bytes=1000))) as address:
        big = pictures(1, 1200, 1200)
        with pytest.raises(RewardError, match="refuses the token"):
            score(build(address, retries=0), big)
    refused = pytest.raises(RewardError, match=r"answered 413: .*1000 bytes")
    with served(create_app({"sum": Counting()}, None, Limits(request_bytes=1000))) as address, refused:
        score(build(address, retries=0), big)


def test_failover_between_real_servers() -> None:
    reward = Counting()
    with served(create_app({"sum": reward}, None)) as alive:
        with served(create_app({"sum": reward}, None)) as dead:
            pass
        images = pictures(6)
        assert torch.equal(score(build([dead, alive], batch=1), images), local(quantized(images)))
    assert set(reward.executions.values()) == {1}


@pytest.mark.parametrize(
    ("remote", "line"),
    [
        ("localhost:8080", "reward.remote is 'localhost:8080', expected http://host:port or https://host"),
        ("ftp://host", "reward.remote is 'ftp://host', expected"),
        ("http://", "reward.remote is 'http://', expected"),
        ("http://host?x=1", "reward.remote is 'http://host?x=1', expected"),
        ("http://host:port", "reward.remote holds an invalid URL"),
        ("http://[host", "reward.remote holds an invalid URL"),
        ([], "reward.remote is an empty list"),
        (["http://a", ""], "reward.remote is '', expected"),
        ("http://user:sesame@host", "reward.remote must not hold a user or password"),
    ],
)
def test_an_invalid_address(remote: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        build(remote)
    assert str(caught.value).startswith(line) and "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"timeot": 1}, "unknown reward.remote option 'timeot' (did you mean 'timeout'?)"),
        (
            {"quality": 1},
            "unknown reward.remote option 'quality'; known: backoff, batch, concurrency, payload, retries",
        ),
        ({"timeout": 0}, "timeout is 0, expected a number of at least 0.001"),
        ({"timeout": "1"}, "timeout is '1', expected a number of at least 0.001"),
        ({"timeout": float("inf")}, "timeout is inf, expected"),
        ({"retries": -1}, "retries is -1, expected a number of at least 0"),
        ({"retries": 1.5}, "retries is 1.5, expected an integer"),
        ({"retries": True}, "retries is True, expected"),
        ({"batch": 0}, "batch is 0, expected a number of at least 1"),
        ({"concurrency": 0}, "concurrency is 0, expected a number of at least 1"),
        ({"backoff": -1}, "backoff is -1, expected a number of at least 0"),
        ({"payload": "pickle"}, "payload is 'pickle', expected safetensors or png"),
        ({"token_file": "none"}, "cannot read the token file none: No such file"),
    ],
    ids=str,
)
def test_invalid_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        build("http://host", **options)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"remote": "http://a", "ray_workers": 2}, "reward.remote and reward.ray_workers exclude each other"),
        ({"remote": "http://a", "components": [{"name": "warmth"}]}, "reward.remote and reward.components exclude"),
        ({"ray_gpus": 1}, "reward.ray_gpus needs reward.ray_workers"),
        ({"ray_workers": 0}, "greater than or equal to 1"),
    ],
)
def test_conflicting_settings(more: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line.replace(".", r"\.")):
        RewardSection.model_validate(more)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.rewards.core.extras.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^reward\.remote needs httpx: pip install 'stepcredit\[service\]'$"):
        remote_reward("sum", "http://host", {})


def test_https_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    context = client(Answers())._tls
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with served(create_app({"sum": Counting()}, None)) as address:
        assert len(score(build(address), pictures())) == 2


def test_png_payloads_are_json() -> None:
    """`payload: png` serves servers that only read JSON."""
    server = Answers()
    score(client(server, payload="png"), pictures())
    assert json.loads(server.requests[0].content).keys() == {"images", "prompts", "metadata"}
