"""Each reason why the hub serves no file is a clause of its own, and says what to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from stepcredit.utils import hub
from stepcredit.utils.hub import download_problem, explain

Serve = Callable[..., None]


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def point_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Makes a hub on this machine give one answer to everything."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, headers: dict[str, str] | None = None, token: str | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_to(monkeypatch, server.server_address[1])
        monkeypatch.setattr(hub, "get_token", lambda: token)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Your request is awaiting a review from the repo authors."}
MISSING = {"X-Error-Code": "RepoNotFound"}


@pytest.mark.parametrize(
    ("status", "headers", "token", "facts"),
    [
        (401, GATED, None, ["gated", "license", "/a/b", "hf auth login"]),
        (403, GATED, "token", ["gated", "awaiting a review", "/a/b"]),
        (404, MISSING, None, ["no a/b", "private", "hf auth login"]),
        (401, MISSING, None, ["no a/b", "private", "hf auth login"]),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "token", ["token", "HF_TOKEN"]),
        (404, {"X-Error-Code": "EntryNotFound"}, None, ["no model_index.json"]),
        (404, {"X-Error-Code": "RevisionNotFound"}, None, ["revision"]),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, None, ["disabled"]),
        (
            403,
            {"X-Error-Message": "token has no read rights"},
            "token",
            ["forbids", "no read rights", "/settings/tokens"],
        ),
        (429, {"Retry-After": "17"}, None, ["limits", "17 seconds"]),
        (429, {"RateLimit": '"resolvers";r=0;t=55'}, None, ["limits", "55 seconds"]),
        (429, {}, None, ["limits", "wait a few minutes"]),
        (503, {}, None, ["503", "try again"]),
        (500, {}, None, ["500", "try again"]),
        (418, {}, None, ["418"]),
    ],
)
def test_an_answer(serve: Serve, status: int, headers: dict[str, str], token: str | None, facts: list[str]) -> None:
    serve(status, headers, token)
    problem = download_problem("a/b", "model_index.json")
    assert problem is not None and "\n" not in problem
    assert [fact for fact in facts if fact not in problem] == [], problem


def test_a_file_that_the_hub_serves(serve: Serve) -> None:
    serve(200, {"X-Repo-Commit": "1" * 40, "ETag": "x"})
    assert download_problem("a/b", "model_index.json") is None


def test_an_optional_file(serve: Serve) -> None:
    serve(404, {"X-Error-Code": "EntryNotFound"})
    assert download_problem("a/b", "tokenizer.json", optional=True) is None


def test_a_hub_that_refuses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    point_to(monkeypatch, port)
    problem = download_problem("a/b", "model_index.json")
    assert problem is not None and f"127.0.0.1:{port}" in problem and "cannot be reached" in problem


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        point_to(monkeypatch, listener.getsockname()[1])
        problem = download_problem("a/b", "model_index.json")
    assert problem is not None and "cannot be reached" in problem


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    problem = download_problem("a/b", "model_index.json")
    assert problem is not None and "HF_HUB_OFFLINE" in problem and "hf download a/b" in problem


def test_what_is_not_a_hub_id() -> None:
    assert "owner/name" in str(download_problem("not a name", "model_index.json"))


def test_an_error_that_has_nothing_to_do_with_the_hub() -> None:
    assert explain(ValueError("broken"), "a/b", "model_index.json") is None
