"""`stepcredit serve-reward`: serve rewards to training runs on other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, shortened
from stepcredit.rewards import CheckedReward, build_reward
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.token import read_token
from stepcredit.runs import recipes
from stepcredit.utils.signals import interruptible


def serve_reward(
    names: Sequence[str],
    host: str,
    port: int,
    token_file: Path | None,
    options: Sequence[str],
    limits: Mapping[str, int],
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the running requests.

    Args:
        names: rewards, as NAME or PUBLIC=NAME.
        host: address to listen on.
        port: 0 for a free one.
        token_file: file with the token; the environment variable STEPCREDIT_REWARD_TOKEN if None.
        options: of the rewards, as key=value, or NAME.key=value if there are several rewards.
        limits: fields of `Limits`.

    Raises:
        InputError: an invalid reward, option, token or address; raised before the server starts.
    """
    for module in ("fastapi", "uvicorn"):
        require_extra(module, "service", "stepcredit serve-reward")
    from stepcredit.rewards.remote.app import create_app
    from stepcredit.rewards.remote.http import listen, web_server

    token, rewards = read_token(token_file), _published(names)
    with listen(host, port, has_token=token is not None) as listener:
        app = create_app(_build(rewards, options), token, Limits(**limits))
        with _until_signal():
            print(f"serving {', '.join(rewards)} on {_url(listener)}; stop with Ctrl-C", flush=True)
            web_server(app).run(sockets=[listener])
        print("stopped", flush=True)


def _published(names: Sequence[str]) -> dict[str, str]:
    """{name in the URL: name of the reward}. The two differ if the reward is given as PUBLIC=NAME."""
    published: dict[str, str] = {}
    for word in names:
        public, equals, name = word.partition("=")
        if not public or (equals and not name):
            raise InputError(f"'{word}' is not a reward: write NAME or PUBLIC=NAME")
        if public in published:
            raise InputError(f"two rewards have the public name '{public}': write PUBLIC=NAME with another PUBLIC")
        published[public] = name or public
    return published


def _build(rewards: Mapping[str, str], options: Sequence[str]) -> dict[str, CheckedReward]:
    """The rewards, each with its options."""
    parsed: dict[str, dict[str, Any]] = {public: {} for public in rewards}
    for option in options:
        public, key, value = _option(option, list(rewards))
        parsed[public][key] = value
    return {public: build_reward(_section(name, parsed[public])) for public, name in rewards.items()}


def _section(name: str, options: Mapping[str, Any]) -> RewardSection:
    return recipes.validate({"reward": {"name": name, "options": options}}, "the command line").reward


def _option(text: str, names: Sequence[str]) -> tuple[str, str, Any]:
    """(reward, key, value) of `key=value`, or of `NAME.key=value` if several rewards are served."""
    target, equals, value = text.partition("=")
    owner = next((name for name in names if target.startswith(f"{name}.")), names[0] if len(names) == 1 else None)
    key = target.removeprefix(f"{owner}.")
    if not equals or not key:
        raise InputError(f"'{text}' is not an option: write key=value")
    if owner is None:
        raise InputError(f"'{text}' names no reward: write NAME.{text} with NAME one of {list(names)}")
    return owner, key, recipes.parse(value, f"cannot read the value of '{shortened(text)}'")


def _url(listener: socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _until_signal() -> Iterator[None]:
    """Suppress the signal that the web server raises again after it has stopped."""
    with suppress(KeyboardInterrupt), interruptible():
        yield
