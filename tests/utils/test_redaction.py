"""Keys, tokens and passwords are found by name or shape, refused in configurations and masked in what is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command_line import TOY, stepcredit

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.rewards import build_reward
from stepcredit.rewards.remote.token import VARIABLE
from stepcredit.runs import recipes
from stepcredit.runs.directory import RunDirectory, environment
from stepcredit.utils.redaction import find_secret, masked

OPTIONS = [
    ({"api_key": "hunter2"}, "api_key"),
    ({"openai-api-key": "hunter2"}, "openai-api-key"),
    ({"request": {"extra_headers": {"Authorization": "hunter2"}}}, "request.extra_headers.Authorization"),
    ({"servers": [{"password": "hunter2"}]}, "servers.0.password"),
    ({"token": "hunter2"}, "token"),
    ({"auth_token": "hunter2"}, "auth_token"),
    ({"client_secret": "hunter2"}, "client_secret"),
    ({"base_url": "http://me:hunter2@host/v1"}, "base_url"),
    ({"base_url": "https://host/v1?key=hunter2&x=1"}, "base_url"),
    ({"base_url": "https://host/v1?x=1&access_token=hunter2"}, "base_url"),
    ({"note": "Bearer hunter2"}, "note"),
    ({"note": "use hf_hunter2hunter2hunter2"}, "note"),
    ({"note": "sk-hunter2hunter2hunter2"}, "note"),
]
INNOCENT = [
    {"api_key_variable": "OPENAI_API_KEY"},
    {"token_file": "/home/me/token"},
    {"max_tokens": 64, "tokens": "a b", "token": None, "tokenizer": "openai/clip", "top_k": 1},
    {"base_url": "http://localhost:8000/v1?version=1"},
    {"question": "is the secret: a fox? the key=value pairs, mail@example.org"},
    {"api_key": ""},
]


@pytest.mark.parametrize(("options", "place"), OPTIONS, ids=[place for _, place in OPTIONS])
def test_a_configuration_with_a_secret_is_refused_and_the_secret_not_repeated(
    options: dict[str, Any], place: str
) -> None:
    with pytest.raises(InputError) as caught:
        recipes.validate({"reward": {"name": "a:b", "options": options}}, "mine.yaml")
    assert str(caught.value).startswith(f"reward.options.{place} in mine.yaml looks like a secret")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("options", INNOCENT, ids=str)
def test_what_only_reads_like_a_secret_is_taken(options: dict[str, Any]) -> None:
    assert recipes.validate({"reward": {"name": "a:b", "options": options}}, "mine.yaml").reward.options == options
    assert find_secret(options) is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("reward.options.api_key=hunter2", "reward.options.api_key=***"),
        ("reward.options={api_key: hunter2, quality: 3}", "reward.options={api_key: ***, quality: 3}"),
        ('reward.options={"password": "hunter2 and more"}', 'reward.options={"password": ***}'),
        ("model.path=https://me:hunter2@host/x", "model.path=https://***@host/x"),
        ("x=https://host/?key=hunter2&b=1", "x=https://host/?***&b=1"),
        ("x=Bearer hunter2", "x=***"),
        ("hf_hunter2hunter2hunter2", "***"),
        ("reward.options.token_file=token.txt", "reward.options.token_file=token.txt"),
        ("reward.options.max_tokens=5", "reward.options.max_tokens=5"),
        ("train.epochs=3", "train.epochs=3"),
    ],
)
def test_secrets_are_masked(text: str, kept: str) -> None:
    assert masked(text) == kept
    assert environment([text])["command"] == [kept]


@pytest.mark.usefixtures("toy")
def test_no_file_of_a_run_holds_a_secret(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not of the environment, and not of an override that a later one replaced, so that the configuration is clean."""
    for variable in (VARIABLE, "HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(variable, "hunter2")
    replaced = ["model.path=https://me:hunter2@host", "model.path=embedded"]
    monkeypatch.setattr("sys.argv", ["stepcredit", "train", *replaced])
    said = stepcredit("train", *TOY, *replaced, "--run", "run")
    assert said.code == 0, said
    files = [path for path in Path("run").rglob("*") if path.is_file()]
    assert {"config.yaml", "environment.json", "metrics.jsonl", "report.html"} <= {path.name for path in files}
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert "hunter2" not in said.out + said.err + "".join(capfd.readouterr())
    assert "model.path=https://***@host" in Path("run/environment.json").read_text()


@pytest.mark.usefixtures("toy")
def test_nothing_is_left_of_a_run_with_a_secret(here: Path) -> None:
    said = stepcredit("train", *TOY, "reward.options.api_key=hunter2", "--run", "run")
    assert said.code == 2 and said.err.count("\n") == 1 and "hunter2" not in said.err
    assert os.listdir() == []


def test_a_run_directory_is_not_opened_for_a_config_with_a_secret(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", TrainConfig(), ["stepcredit"])
    run.config_path.write_text(run.config_path.read_text().replace("path: embedded", "path: http://a:hunter2@b"))
    with pytest.raises(InputError, match="looks like a secret"):
        _ = run.config


def test_the_judge_takes_no_password_in_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"model": "m", "base_url": "http://me:hunter2@host/v1"}
    section = TrainConfig().reward.model_copy(update={"name": "vlm_judge", "options": options})
    with pytest.raises(InputError, match="vlm_judge base_url must hold no password or key") as caught:
        build_reward(section)
    assert "hunter2" not in str(caught.value)
