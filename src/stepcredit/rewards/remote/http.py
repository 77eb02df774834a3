"""The socket and the web server of the application."""

from __future__ import annotations

import ipaddress
import socket

import uvicorn
from fastapi import FastAPI

from stepcredit.errors import InputError

LOOPBACK = "127.0.0.1"
SHUTDOWN_SECONDS = 30
"""Time that running requests have to finish when the server stops."""


def listen(host: str, port: int, has_token: bool) -> socket.socket:
    """A listening socket; port 0 selects a free one.

    Raises:
        InputError: an address that other machines can reach although there is no token, or that is not available.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"cannot find the address of '{host}': {error}") from error
    if not has_token and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise InputError(
            f"--host {host} is open to other machines: set STEPCREDIT_REWARD_TOKEN or --token-file first, "
            f"or use --host {LOOPBACK}"
        )
    try:
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host") from error


def web_server(app: FastAPI) -> uvicorn.Server:
    """A server of `app`. `run(sockets=...)` returns after a signal or when `should_exit` is set."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ws="none",
    )
    return uvicorn.Server(config)
