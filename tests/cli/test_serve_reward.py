"""`stepcredit serve-reward`: arguments, serving and stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cli.command_line import only_line, refused, stepcredit
from tests.rewards.remote.live import AUTHORIZED, TOKEN, body, pictures

from stepcredit.rewards.remote import app, http
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.token import VARIABLE

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(rewards, token, limits) of every application, and the address of its server, which returns at once."""
    seen: list[Any] = []

    class Server:
        def run(self, sockets: list[socket.socket]) -> None:
            seen.append(sockets[0].getsockname())

    monkeypatch.setattr(app, "create_app", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(http, "web_server", lambda _: Server())
    return seen


# Serving


def test_rewards_by_name_on_loopback(made: list[Any]) -> None:
    said = stepcredit("serve-reward", "warmth", "jpeg_compressibility", "--port", "0")
    (rewards, token, limits), (host, port) = made
    assert said.code == 0 and said.err == ""
    assert said.out.splitlines() == [
        f"serving warmth, jpeg_compressibility on http://127.0.0.1:{port}; stop with Ctrl-C",
        "stopped",
    ]
    assert list(rewards) == ["warmth", "jpeg_compressibility"]
    assert (token, limits, host) == (None, Limits(), "127.0.0.1")


def test_options_limits_and_token(made: list[Any]) -> None:
    Path("token").write_text(TOKEN)
    arguments = ["--option", "quality=50", "--max-bytes", "1", "--max-images", "2", "--max-pixels", "3", "--queue", "4"]
    stepcredit("serve-reward", "jpeg_compressibility", "--port", "0", "--token-file", "token", *arguments)
    rewards, token, limits = made[0]
    assert rewards["jpeg_compressibility"].reward.quality == 50
    assert (token, limits) == (TOKEN, Limits(request_bytes=1, images=2, pixels=3, queue=4))


def test_one_reward_under_two_names_with_different_options(made: list[Any]) -> None:
    options = ["--option", "low.quality=10", "--option", "a.b.quality=90"]
    said = stepcredit(
        "serve-reward", "low=jpeg_compressibility", "a.b=jpeg_compressibility", "warmth", "--port", "0", *options
    )
    assert said.code == 0, said.err
    rewards = made[0][0]
    assert {name: getattr(reward.reward, "quality", None) for name, reward in rewards.items()} == {
        "low": 10,
        "a.b": 90,
        "warmth": None,
    }


def test_with_a_token_other_addresses_are_allowed(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    said = stepcredit("serve-reward", "warmth", "--port", "0", "--host", "0.0.0.0")  # noqa: S104
    assert said.code == 0 and "on http://0.0.0.0:" in said.out and TOKEN not in said.out
    assert made[0][1] == TOKEN


def test_loopback_addresses(made: list[Any]) -> None:
    hosts = ["localhost", "127.1.2.3", *(["::1"] if ipv6() else [])]
    assert [stepcredit("serve-reward", "warmth", "--port", "0", "--host", host).code for host in hosts] == [0] * len(
        hosts
    )


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# Refused arguments


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])  # noqa: S104
def test_other_machines_need_a_token(made: list[Any], host: str) -> None:
    line = refused("serve-reward", "warmth", "--host", host)
    assert f"--host {host}" in line and VARIABLE in line and "--token-file" in line
    assert made == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["warmht"], "unknown reward 'warmht' (did you mean 'warmth'?)"),
        (["mixture"], "the reward 'mixture'"),
        (["warmth", "warmth"], "two rewards have the public name 'warmth'"),
        (["=warmth"], "'=warmth' is not a reward: write NAME or PUBLIC=NAME"),
        (["a="], "'a=' is not a reward"),
        (["warmth", "--option", "x"], "'x' is not an option: write key=value"),
        (["warmth", "--option", "=1"], "'=1' is not an option"),
        (["warmth", "--option", "x=1"], "unknown warmth option 'x'; known: none"),
        (["warmth", "--option", "x=["], "cannot read the value of 'x=['"),
        (["a=warmth", "b=warmth", "--option", "x=1"], "'x=1' names no reward: write NAME.x=1"),
        (["jpeg_compressibility", "--option", "quality=999"], "JPEG quality is 999"),
        (["warmth", "--token-file", "none"], "cannot read the token file none"),
        (["warmth", "--host", "no host"], "cannot find the address of 'no host'"),
        (["warmth", "--queue", "0"], "Invalid value for '--queue'"),
        (["warmth", "--port", "65536"], "Invalid value for '--port'"),
        ([], "Missing argument 'NAME...'"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_invalid_arguments(made: list[Any], arguments: list[str], line: str) -> None:
    said = refused("serve-reward", *(["--port", "0"] if "--port" not in arguments else []), *arguments)
    assert said.startswith(line) and not [entry for entry in made if len(entry) == 2]


def test_a_port_in_use(made: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refused("serve-reward", "warmth", "--port", port)
    assert line.startswith(f"cannot listen on 127.0.0.1 port {port}: ") and "choose another --port" in line


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.rewards.core.extras.find_spec", lambda _: None)
    said = stepcredit("serve-reward", "warmth")
    assert said.code == 2
    assert only_line(said) == "stepcredit serve-reward needs fastapi: pip install 'stepcredit[service]'"


# A process


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_serving_until_a_signal(stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "stepcredit", "serve-reward", "warmth", "--port", "0"]
    environment = os.environ | {VARIABLE: TOKEN, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[3].rstrip(";")
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            url, headers = "/v1/score/warmth", {"Content-Type": "application/x-safetensors"}
            assert client.get("/health").json() == {"status": "ok", "queue": {"warmth": 0}}
            assert client.post(url, content=body(pictures()), headers=headers).status_code == 401
            assert len(client.post(url, content=body(pictures()), headers=headers | AUTHORIZED).json()["scores"]) == 2
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
