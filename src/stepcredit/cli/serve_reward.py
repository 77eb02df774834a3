"""`stepcredit serve-reward`: rewards of this machine for training runs elsewhere."""

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
    """Serve until SIGTERM or Ctrl-C, then finish the requests under way. `limits` are fields of `Limits`.

    Raises:
        InputError: whatever is wrong with the rewards, options, token or address; told before anything is served.
    """
    for module in ("fastapi", "uvicorn"):
        require_extra(module, "service", "stepcredit serve-reward")
    from stepcredit.rewards.remote.app import create_app
    from stepcredit.rewards.remote.http import listen, web_server

    token, allowed, wanted = read_token(token_file), Limits(**limits), _published(names)
    with listen(host, port, guarded=token is not None) as place:
        app = create_app(_built(wanted, options), token, allowed)
        with _stopped_by_signals():
            print(f"serving {', '.join(wanted)} on {_url(place)}; stop with Ctrl-C", flush=True)
            web_server(app).run(sockets=[place])
        print("stopped", flush=True)


def _published(names: Sequence[str]) -> dict[str, str]:
    """{name in the URL: name of the reward}; both are the same unless given as PUBLIC=NAME."""
    published: dict[str, str] = {}
    for word in names:
        public, equals, name = word.partition("=")
        if not public or (equals and not name):
            raise InputError(f"'{word}' is not a reward; write NAME or PUBLIC=NAME")
        if public in published:
            raise InputError(f"two rewards would be called '{public}': write PUBLIC=NAME with different PUBLIC")
        published[public] = name or public
    return published


def _built(wanted: Mapping[str, str], options: Sequence[str]) -> dict[str, CheckedReward]:
    """The rewards, each with its own of the options."""
    given: dict[str, dict[str, Any]] = {public: {} for public in wanted}
    for option in options:
        public, key, value = _option(option, list(wanted))
        given[public][key] = value
    return {public: build_reward(_section(name, given[public])) for public, name in wanted.items()}


def _section(name: str, options: Mapping[str, Any]) -> RewardSection:
    return recipes.validate({"reward": {"name": name, "options": options}}, "the command line").reward


def _option(text: str, names: Sequence[str]) -> tuple[str, str, Any]:
    """(reward, key, value) of `key=value`, or of `NAME.key=value` where several rewards are served."""
    place, equals, value = text.partition("=")
    owner = next((name for name in names if place.startswith(f"{name}.")), names[0] if len(names) == 1 else None)
    key = place.removeprefix(f"{owner}.")
    if not equals or not key:
        raise InputError(f"'{text}' is not an option; write key=value")
    if owner is None:
        raise InputError(f"'{text}' does not say whose option it is; write NAME.{text} with NAME one of {list(names)}")
    return owner, key, recipes.parse(value, f"cannot read the value of '{shortened(text)}'")


def _url(place: socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """The web server stops at a signal and then raises it again, which must end nothing else."""
    with suppress(KeyboardInterrupt), interruptible():  # it is what ends a server: nothing has failed
        yield
