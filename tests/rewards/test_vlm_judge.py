"""The judge and a server on the loopback interface: requests, and the scores of the answers."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stepcredit.errors import InputError, RewardError
from stepcredit.rewards.core import extras
from stepcredit.rewards.vision.images import to_uint8
from stepcredit.rewards.vlm_judge import VlmJudge

Answer = tuple[int, Any]
"""Status and body; an object is sent as JSON, a string unchanged."""


class Server:
    """Responds to POST /v1/chat/completions with `answer(request)`; records requests and headers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any]], Answer] = lambda request: (200, completion("5"))
        self.lock = threading.Lock()
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with kept.lock:
                    kept.requests.append({"path": self.path, **request})
                    kept.headers.append({name.lower(): value for name, value in self.headers.items()})
                    status, body = kept.answer(request)
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def pictures(self) -> list[np.ndarray]:
        """The images of the requests, (H,W,3) uint8 each."""
        urls = [request["messages"][0]["content"][0]["image_url"]["url"] for request in self.requests]
        assert all(url.startswith("data:image/png;base64,") for url in urls)
        files = [io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True)) for url in urls]
        return [np.asarray(Image.open(file, formats=["PNG"])) for file in files]

    def questions(self) -> list[str]:
        return [question(request) for request in self.requests]


def question(request: dict[str, Any]) -> str:
    text: str = request["messages"][0]["content"][1]["text"]
    return text


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-this-server")
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.http.shutdown()
    thread.join()
    running.http.server_close()


def completion(text: str | None, tokens: dict[str, float] | None = None) -> dict[str, Any]:
    """A chat completion with a text, and {token: log-probability} of its first token."""
    logprobs = None
    if tokens is not None:
        listed = [{"token": token, "logprob": value, "bytes": None} for token, value in tokens.items()]
        logprobs = {"content": [{**listed[0], "top_logprobs": listed}] if listed else []}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}


def judge(server: Server, **options: Any) -> VlmJudge:
    return VlmJudge(**{"model": "judge", "base_url": server.url, "timeout": 20.0, **options})


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def score(reward: VlmJudge, prompts: list[str], rows: list[dict[str, Any]] | None = None) -> list[float]:
    scores: list[float] = reward(images(len(prompts)), prompts, rows or [{}] * len(prompts)).tolist()
    return scores


def complaint(server: Server, body: Any, status: int = 200, **options: Any) -> str:
    server.answer = lambda request: (status, body)
    with pytest.raises(RewardError) as raised:
        score(judge(server, max_retries=0, **options), ["a cat"])
    message = str(raised.value)
    assert "\n" not in message and message.startswith(f"the judge at {server.url} ") and "prompt 'a cat'" in message
    return message


# Requests


def test_a_request_holds_the_picture_and_the_question(server: Server) -> None:
    assert score(judge(server, mode="score"), ["a cat"]) == [0.5]
    [request], [picture] = server.requests, server.pictures()
    assert np.array_equal(picture, to_uint8(images(1))[0])
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge", 0, 64)
    assert "logprobs" not in request
    assert 'show "a cat"' in question(request)


def test_logits_need_one_token(server: Server) -> None:
    server.answer = lambda request: (200, completion("yes", {"yes": -0.1, "no": -3.0}))
    score(judge(server, top_logprobs=5, request={"seed": 7}), ["a cat"])
    [request] = server.requests
    assert (request["max_tokens"], request["logprobs"], request["top_logprobs"], request["seed"]) == (1, True, 5, 7)


def test_a_question_of_prompt_and_metadata(server: Server) -> None:
    reward = judge(server, mode="score", question="{{{count}}} of {thing} in {prompt}?")
    score(reward, ["a hat"], [{"count": 3, "thing": "cats", "prompt": "ignored"}])
    assert server.questions() == ["{3} of cats in a hat?"]


def test_scores_are_in_the_order_of_the_images(server: Server) -> None:
    server.answer = lambda request: (200, completion(question(request)))
    prompts = [str(n) for n in range(8)]
    found = score(judge(server, mode="score", question="{prompt}", concurrency=4), prompts)
    assert found == pytest.approx([n / 10 for n in range(8)])
    sent = {asked: picture for asked, picture in zip(server.questions(), server.pictures(), strict=True)}
    for number, expected in enumerate(to_uint8(images(8))):
        assert np.array_equal(sent[str(number)], expected)


def test_requests_are_concurrent(server: Server) -> None:
    """Each of three answers waits for the two other requests."""
    server.lock = threading.Semaphore(3)  # type: ignore[assignment]
    together = threading.Barrier(3)

    def answer(request: dict[str, Any]) -> Answer:
        together.wait(10)
        return 200, completion("1")

    server.answer = answer
    assert score(judge(server, mode="score", concurrency=3), ["a", "b", "c"]) == pytest.approx([0.1] * 3)


# The key


def test_the_key_comes_from_the_named_variable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", " secret-key \n")
    score(judge(server, mode="score", api_key_variable="JUDGE_KEY"), ["a"])
    score(judge(server, mode="score"), ["a"])
    assert [sent["authorization"] for sent in server.headers] == ["Bearer secret-key", "Bearer none"]


def test_a_key_is_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    body = {"error": {"message": "Incorrect API key provided: secret-key"}}
    message = complaint(server, body, 401, api_key_variable="JUDGE_KEY")
    assert "AuthenticationError" in message and "secret" not in message
    with pytest.raises(InputError) as raised:
        judge(server, api_key_variable="secret-key")
    assert "secret" not in str(raised.value) and "never the key itself" in str(raised.value)
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(InputError, match="JUDGE_KEY"):
        judge(server, api_key_variable="JUDGE_KEY")


# Scores


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"yes": math.log(0.6), "no": math.log(0.2)}, 0.75),
        ({"Yes": math.log(0.2), " yes": math.log(0.1), "YES": math.log(0.1), "No": math.log(0.1)}, 0.8),
        ({"yes": -0.1, "maybe": -3.0}, 1.0),
        ({"perhaps": -0.1, "no": -9.0}, 0.0),
        ({"yes": -2000.0, "no": -2001.0}, 1 / (1 + math.exp(-1))),
        ({"yes": -9999.0, "no": 0.0}, 0.0),
        ({"no": -9999.0, "yes": 0.0}, 1.0),
        ({"yes": -1e-9, "no": -30.0}, 1.0),
    ],
)
def test_the_probability_of_yes(server: Server, tokens: dict[str, float], expected: float) -> None:
    server.answer = lambda request: (200, completion("x", tokens))
    assert score(judge(server), ["a"]) == [pytest.approx(expected, abs=1e-7)]


def test_custom_words(server: Server) -> None:
    server.answer = lambda request: (200, completion("ja", {"Ja": math.log(0.3), "nein": math.log(0.1), "yes": 0.0}))
    assert score(judge(server, yes="ja", no="Nein"), ["a"]) == [pytest.approx(0.75)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 0.7), ("I give it 8.5/10, or 3.", 0.85), ("Score: .5", 0.05), ("0", 0.0), ("1e1", 1.0), ("**10**", 1.0)],
)
def test_the_first_number_is_the_score(server: Server, text: str, expected: float) -> None:
    server.answer = lambda request: (200, completion(text))
    assert score(judge(server, mode="score"), ["a"]) == [pytest.approx(expected)]


def test_custom_scale(server: Server) -> None:
    assert score(judge(server, mode="score", scale=5.0), ["a"]) == [1.0]


# Answers without a score


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a fine picture", "'a fine picture'"),
        (None, "no number"),
        ("11", "not from 0 to 10"),
        ("-1", "not from 0 to 10"),
        ("well\n" * 1000, f"{('well ' * 20)[:77]}..."),
    ],
)
def test_an_answer_without_a_score(server: Server, text: str | None, what: str) -> None:
    assert what in complaint(server, completion(text), mode="score")


def test_no_log_probabilities(server: Server) -> None:
    for body in (completion("yes"), completion("yes", {})):
        assert "mode=score" in complaint(server, body)


def test_neither_yes_nor_no(server: Server) -> None:
    message = complaint(server, completion("<think>", {"<think>": -0.1, "The": -3.0}))
    assert "neither 'yes' nor 'no'" in message and "'<think>', 'The'" in message


@pytest.mark.parametrize(
    "body", [{"choices": []}, {"error": "busy"}, [], "<html>no such page</html>", {"choices": [3]}]
)
@pytest.mark.parametrize("mode", ["logits", "score"])
def test_no_chat_completion(server: Server, body: Any, mode: str) -> None:
    assert "chat completion" in complaint(server, body, mode=mode)


def test_the_error_names_the_prompt_of_the_bad_answer(server: Server) -> None:
    server.answer = lambda request: (200, completion("none" if "a dog" in question(request) else "3"))
    with pytest.raises(RewardError, match="about prompt 'a dog'"):
        score(judge(server, mode="score"), ["a cat", "a dog", "a fox"])


# Servers that fail


def test_server_errors_are_retried(server: Server) -> None:
    statuses = iter([500, 503, 429])

    def answer(request: dict[str, Any]) -> Answer:
        status = next(statuses, 200)
        return status, completion("4") if status == 200 else {"error": {"message": "busy"}}

    server.answer = answer
    assert score(judge(server, mode="score", max_retries=3), ["a"]) == [pytest.approx(0.4)]
    assert len(server.requests) == 4


def test_retries_are_bounded(server: Server) -> None:
    server.answer = lambda request: (500, {"error": {"message": "out of memory"}})
    with pytest.raises(RewardError, match=r"failed about prompt 'a': InternalServerError: .*out of memory"):
        score(judge(server, max_retries=2), ["a"])
    assert len(server.requests) == 3


def test_client_errors_are_not_retried(server: Server) -> None:
    server.answer = lambda request: (404, {"error": {"message": "no model 'judge'"}})
    with pytest.raises(RewardError, match=r"NotFoundError: .*no model 'judge'"):
        score(judge(server), ["a"])
    assert len(server.requests) == 1


def test_a_failure_stops_further_requests(server: Server) -> None:
    server.answer = lambda request: (400, {"error": {"message": "no"}})
    with pytest.raises(RewardError):
        score(judge(server, concurrency=1), [str(n) for n in range(50)])
    assert len(server.requests) < 25


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(RewardError, match=r"the judge at http://127.0.0.1:9/v1 failed about prompt 'a': APIConnection"):
        score(VlmJudge("judge", "http://127.0.0.1:9/v1", max_retries=0), ["a"])


# Invalid options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "logit"}, r"unknown vlm_judge mode 'logit' \(did you mean 'logits'\?\)"),
        ({"concurrency": 0}, "vlm_judge concurrency is 0, expected more than 0"),
        ({"timeout": -1}, "vlm_judge timeout is -1"),
        ({"scale": 0}, "vlm_judge scale is 0"),
        ({"yes": "No "}, "yes and no are both 'no'"),
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000', expected http://... or https://..."),
        ({"question": "{prompt"}, "question '{prompt' is not a valid template"),
        ({"question": "{}?"}, "question has the field {}, expected {prompt}"),
        ({"question": "{prompt.__class__}?"}, "question has the field {prompt.__class__}"),
    ],
)
def test_an_option_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VlmJudge(**{"model": "judge", "base_url": "http://127.0.0.1:9", **options})


def test_missing_metadata(server: Server) -> None:
    with pytest.raises(RewardError) as raised:
        score(judge(server, question="{count} of {prompt}?"), ["a cat", "a dog"], [{"count": 1}, {"n": 1}])
    message = str(raised.value)
    assert "{count}" in message and "'a dog'" in message and "known: n, prompt" in message
    assert server.requests == []


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'stepcredit\[vlm\]'"):
        VlmJudge("judge", "http://127.0.0.1:9")
