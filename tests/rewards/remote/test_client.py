"""The client: what it sends, whom it asks again, and when it gives up."""

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
from stepcredit.rewards.remote.client import LONGEST_WAIT, RemoteOptions, RemoteReward, remote_reward
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.token import VARIABLE
from stepcredit.rewards.remote.wire import Batch, decode


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


class Naps:
    """Waits in no time, and remembers how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Answers:
    """A server that gives the answers of a list, in order, then scores; it remembers the requests."""

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
    """What a server of `local` answers."""
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
    naps: Naps | None = None,
    **options: Any,
) -> RemoteReward:
    transport = httpx.MockTransport(handler)
    place = Servers(servers.split())
    return RemoteReward(name, place, RemoteOptions(**options), token, naps or Naps(), transport)


def score(reward: Any, images: Tensor) -> Tensor:
    scores: Tensor = reward(images, [f"prompt {row}" for row in range(len(images))], [{} for _ in images])
    return scores


def fails(reward: Any, kind: type[Exception] = RewardError, images: Tensor | None = None) -> str:
    with pytest.raises(kind) as caught:
        score(reward, pictures() if images is None else images)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
    return str(caught.value)


# What it sends


@pytest.mark.parametrize("payload", ["safetensors", "png"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_scores_are_those_of_the_quantized_images_in_order(payload: str, batch: int) -> None:
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


def test_without_a_token_none_is_sent() -> None:
    server = Answers()
    score(client(server, token=None), pictures())
    assert "authorization" not in server.requests[0].headers


def test_every_request_has_a_key_of_its_own() -> None:
    server = Answers()
    reward = client(server, batch=1)
    score(reward, pictures(3))
    score(reward, pictures(3))
    assert len(set(server.keys)) == 6


def test_no_images_are_no_request() -> None:
    server = Answers()
    assert client(server)(torch.zeros(0, 3, 4, 4), [], []).shape == (0,)
    assert server.requests == []


def test_half_precision_images() -> None:
    images = pictures().to(torch.bfloat16)
    assert torch.equal(score(client(Answers()), images), local(quantized(images)))


def test_metadata_that_is_no_json_is_told() -> None:
    with pytest.raises(RewardError, match="prompts and metadata must be JSON to be sent to a server: Object of type"):
        client(Answers())(pictures(1), ["a"], [{"path": Path("a")}])


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_at_a_time_as_asked_for(concurrency: int) -> None:
    inside, most, gate = 0, 0, asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == concurrency:
            gate.set()
        await gate.wait()
        inside -= 1
        return httpx.Response(200, json=scores_of(request))

    score(client(handler, batch=1, concurrency=concurrency), pictures(9))
    assert most == concurrency


# Whom it asks again


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
def test_what_may_pass_is_tried_again_under_the_same_key(trouble: Any) -> None:
    server, naps, images = Answers(trouble, trouble), Naps(), pictures()
    assert torch.equal(score(client(server, naps=naps), images), local(quantized(images)))
    assert len(server.keys) == 3 and len(set(server.keys)) == 1 and len(naps.seconds) == 2


def test_a_server_that_hangs_is_given_up_and_asked_again() -> None:
    server = Answers(HANG)
    score(client(server, timeout=0.01), pictures())
    assert len(server.keys) == 2 and len(set(server.keys)) == 1
    line = fails(client(Answers(HANG, HANG), timeout=0.01, retries=1))
    assert line == "no scores after 2 attempts; the last: http://a took longer than 0.01 s"


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 302])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    server, naps = Answers(says(status, "too\nlarge")), Naps()
    assert fails(client(server, naps=naps), InputError) == f"http://a answered {status}: too large"
    assert len(server.requests) == 1 and naps.seconds == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_told_and_nothing_of_it(status: int) -> None:
    server = Answers(says(status, f"not {TOKEN}"))
    line = fails(client(server, "http://a http://b"), InputError)
    assert line.startswith(f"the server http://a refuses the token ({status}): set the server's own in {VARIABLE}")
    assert len(server.requests) == 1


def test_it_gives_up_after_its_retries() -> None:
    server, naps = Answers(*[REFUSED] * 9), Naps()
    line = fails(client(server, naps=naps, retries=3))
    assert line == "no scores after 4 attempts; the last: http://a cannot be reached (ConnectError: refused)"
    assert len(server.requests) == 4 and len(naps.seconds) == 3, "no wait before giving up"
    assert fails(client(Answers(says(500, "broken")), retries=0)) == (
        "no scores after 1 attempt; the last: http://a answered 500: broken"
    )


def test_one_request_that_fails_ends_the_batch() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        batch = decode(request.content, request.headers["content-type"], Limits())
        if batch.prompts == ["prompt 1"]:
            return says(422, "bad picture")
        await asyncio.Event().wait()
        raise AssertionError

    assert fails(client(handler, batch=1), InputError, pictures(4)) == "http://a answered 422: bad picture"


def test_waits_double_with_a_random_factor_of_the_seed() -> None:
    def waits(seed: int, **options: Any) -> list[float]:
        naps = Naps()
        fails(client(Answers(*[REFUSED] * 20), naps=naps, backoff=0.5, retries=10, seed=seed, **options))
        return naps.seconds

    found = waits(0)
    factors = np.random.default_rng(0).uniform(0.5, 1.5, 10)
    expected = [min(LONGEST_WAIT, 0.5 * 2**attempt * factor) for attempt, factor in enumerate(factors)]
    assert found == expected == waits(0) != waits(1)
    assert found[-1] == LONGEST_WAIT and len({round(wait / 2**n, 6) for n, wait in enumerate(found)}) > 5


@pytest.mark.parametrize(("asked", "least"), [("7", 7.0), ("1000000", LONGEST_WAIT), ("tomorrow", 0.0), ("-5", 0.0)])
def test_retry_after_is_kept_within_reason(asked: str, least: float) -> None:
    naps = Naps()
    score(client(Answers(says(503, **{"Retry-After": asked})), naps=naps, backoff=0.001), pictures())
    assert naps.seconds[0] == pytest.approx(least, abs=0.002)


# Several servers


class Cluster:
    """Servers of which some are down."""

    def __init__(self, *down: str) -> None:
        self.down = set(down)
        self.asked: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        if request.url.host in self.down:
            raise REFUSED
        return httpx.Response(200, json=scores_of(request))


def test_requests_go_round_the_servers() -> None:
    cluster = Cluster()
    score(client(cluster, "http://a http://b http://c", batch=1, concurrency=1), pictures(6))
    assert cluster.asked == list("abcabc")


def test_the_next_server_is_asked_at_once_and_the_failed_one_left_out() -> None:
    cluster, naps, images = Cluster("b"), Naps(), pictures(6)
    reward = client(cluster, "http://a http://b http://c", batch=1, concurrency=1, backoff=50, naps=naps)
    assert torch.equal(score(reward, images), local(quantized(images)))
    assert cluster.asked == list("abcacaca"[:7]) and naps.seconds == []
    score(reward, images)
    assert cluster.asked.count("b") == 1, "it is remembered between batches"


def test_if_all_are_down_it_waits() -> None:
    cluster, naps = Cluster("a", "b"), Naps()
    line = fails(client(cluster, "http://a http://b", retries=3, naps=naps))
    assert line.startswith("no scores after 4 attempts; the last: http://") and "cannot be reached" in line
    assert len(cluster.asked) == 4 and set(cluster.asked) == {"a", "b"} and len(naps.seconds) == 2


# Answers that are none


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
        ({"scores": [1.0]}, "http://a answered 1 scores for 2 images"),
        (httpx.Response(200, content=b" " * (ANSWER_BYTES + 1)), f"http://a answered more than {ANSWER_BYTES} bytes"),
    ],
    ids=range(12),
)  # fmt: skip
def test_an_answer_that_is_no_scores_is_an_error(answer: Any, line: str) -> None:
    server = Answers(answer)
    assert fails(client(server)).startswith(line)
    assert len(server.requests) == 1


def test_an_error_page_is_quoted_in_part() -> None:
    line = fails(client(Answers(httpx.Response(404, text="<html>" + "x" * 9999))), InputError)
    assert line.startswith("http://a answered 404: <html>xxx") and len(line) < 400


def test_whole_numbers_are_scores() -> None:
    assert score(client(Answers({"scores": [1, -2]})), pictures()).tolist() == [1.0, -2.0]


# From anywhere


def test_it_can_be_called_from_several_threads_and_inside_a_running_loop() -> None:
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


def test_a_recipe_names_server_reward_and_options() -> None:
    reward = Counting()
    with served(create_app({"sum": reward}, None)) as address:
        images = pictures(5)
        assert torch.equal(score(build(address, batch=2), images), local(quantized(images)))
    assert len(reward.executions) == 5


@pytest.mark.parametrize("name", ["warmth", "jpeg_compressibility"])
@pytest.mark.parametrize("payload", ["safetensors", "png"])
def test_a_remote_reward_scores_as_the_local_one_bit_for_bit(name: str, payload: str) -> None:
    here, images = checked(REWARDS.get(name)(), name), pictures(6, 16, 16)
    with served(create_app({name: here}, None)) as address:
        options = {"batch": 6, "payload": payload}
        there = score(build_reward(RewardSection(name=name, remote=address, options=options)), images)
    assert torch.equal(there, score(here, quantized(images)))
    assert name == "warmth" or torch.equal(there, score(here, images)), "it reads 8-bit pixels anyway"


def test_the_token_is_that_of_the_environment_or_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_the_server_says_of_a_bad_reward_arrives() -> None:
    with served(create_app({"sum": lambda *_: [float("nan"), 0.0]}, None)) as address:
        with pytest.raises(RewardError, match="answered 422: reward 'sum' returned nan for 1 of 2 images, first for"):
            score(build(address), pictures())
        with pytest.raises(RewardError, match=r"reward 'sun' failed: .* answered 404: no reward 'sun' here, only sum"):
            score(build_reward(RewardSection(name="sun", remote=address)), pictures())


def test_a_large_body_is_refused_in_words_over_a_real_connection() -> None:
    with served(create_app({"sum": Counting()}, TOKEN, Limits(request_bytes=1000))) as address:
        big = pictures(1, 1200, 1200)
        with pytest.raises(RewardError, match="refuses the token"):
            score(build(address, retries=0), big)
    refused = pytest.raises(RewardError, match="answered 413: the body is larger than this server's 1000 bytes")
    with served(create_app({"sum": Counting()}, None, Limits(request_bytes=1000))) as address, refused:
        score(build(address, retries=0), big)


def test_fail_over_between_real_servers() -> None:
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
        ("http://host:port", "reward.remote holds an address that is no URL"),
        ("http://[host", "reward.remote holds an address that is no URL"),
        ([], "reward.remote is an empty list"),
        (["http://a", ""], "reward.remote is '', expected"),
        ("http://user:sesame@host", "reward.remote must hold no user or password: give the token in"),
    ],
)
def test_an_address_that_is_none(remote: Any, line: str) -> None:
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
        ({"retries": 1.5}, "retries is 1.5, expected a whole number"),
        ({"retries": True}, "retries is True, expected"),
        ({"batch": 0}, "batch is 0, expected a number of at least 1"),
        ({"concurrency": 0}, "concurrency is 0, expected a number of at least 1"),
        ({"backoff": -1}, "backoff is -1, expected a number of at least 0"),
        ({"payload": "pickle"}, "payload is 'pickle', expected safetensors or png"),
        ({"token_file": "none"}, "cannot read the token file none: No such file"),
    ],
    ids=str,
)
def test_an_option_that_is_none(options: dict[str, Any], line: str) -> None:
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
def test_places_that_exclude_each_other(more: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line.replace(".", r"\.")):
        RewardSection.model_validate(more)


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_docs_of_a_request_are_json() -> None:
    """A server that reads JSON only gets plain JSON."""
    server = Answers()
    score(client(server, payload="png"), pictures())
    assert json.loads(server.requests[0].content).keys() == {"images", "prompts", "metadata"}
