"""Training on a remote reward, and resuming after its server has failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.loop import training_loop
from tests.rewards.remote.faults import drop
from tests.rewards.remote.live import TOKEN, served
from tests.toy_policy import ToyPolicy, toy_config

from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import RewardError
from stepcredit.rewards import build_reward
from stepcredit.rewards.remote.app import create_app
from stepcredit.rewards.remote.token import VARIABLE
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Prompt

PROMPTS = [Prompt("a lake"), Prompt("a hill")]


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)


class GoneAfter:
    """The application for `requests` requests; then every connection breaks."""

    def __init__(self, requests: int) -> None:
        self.app, self.left = create_app({"warmth": Warmth()}, TOKEN), requests

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.left -= 1
        await (self.app(scope, receive, send) if self.left >= 0 else drop(receive, send))


def config(address: str, **options: Any) -> TrainConfig:
    options = {"batch": 4, "backoff": 0, "retries": 2, **options}
    return toy_config(reward={"name": "warmth", "remote": address, "options": options})


def train(path: Path, config: TrainConfig, resume: bool = False) -> RunDirectory:
    run = RunDirectory.open(path) if resume else RunDirectory.create(path, config, ["stepcredit"])
    reward, credit = build_reward(config.reward), build_credit(config.credit)
    trainer = training_loop(config, ToyPolicy(config.sample.steps), reward, credit, PROMPTS, run)
    if resume:
        trainer.resume()
    trainer.train()
    return run


def measured(run: RunDirectory, keys: Sequence[str] = ("epoch", "reward_mean", "loss", "grad_norm")) -> list[list[Any]]:
    return [[row[key] for key in keys] for row in run.metrics()]


def test_a_run_resumes_after_its_server_failed(tmp_path: Path) -> None:
    with served(GoneAfter(1000)) as address:
        whole = train(tmp_path / "whole", config(address))
    # The first grid is 1 request, and an epoch of 8 images is 2.
    with (
        served(GoneAfter(4)) as address,
        pytest.raises(
            RewardError, match=r"^epoch 2: reward 'warmth' failed: no scores after 3 attempts; the"
        ) as caught,
    ):
        train(tmp_path / "parts", config(address))
    # The connection ends in the middle of the answer, or is reset before the request was read.
    assert re.search(
        rf"the last one: {address} cannot be reached \((RemoteProtocolError|ReadError): ", str(caught.value)
    )
    assert str(caught.value).endswith(f"stepcredit train --resume --run {tmp_path / 'parts'}")
    assert "\n" not in str(caught.value)
    with served(GoneAfter(1000)) as address:
        parts = train(tmp_path / "parts", config(address), resume=True)
    assert measured(parts) == measured(whole) and len(measured(whole)) == 3


def test_a_run_resumes_after_an_unreachable_server(tmp_path: Path) -> None:
    with served(GoneAfter(0)) as gone:
        pass
    with pytest.raises(RewardError, match=r"^first sample grid: .*cannot be reached \(ConnectError"):
        train(tmp_path, config(gone))
    with served(GoneAfter(1000)) as address:
        assert len(measured(train(tmp_path, config(address), resume=True))) == 3


def test_a_run_resumes_after_a_wrong_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sesame")
    with served(GoneAfter(1000)) as address:
        with pytest.raises(RewardError, match=r"refuses the token \(401\)") as caught:
            train(tmp_path, config(address))
        assert "sesame" not in str(caught.value)
        monkeypatch.setenv(VARIABLE, TOKEN)
        assert len(measured(train(tmp_path, config(address), resume=True))) == 3


def test_no_file_of_a_run_holds_the_token(tmp_path: Path) -> None:
    with served(GoneAfter(1000)) as address:
        run = train(tmp_path, config(address))
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 4 and not [path for path in files if TOKEN.encode() in path.read_bytes()]
