"""The socket and the web server under the application."""

from __future__ import annotations

import ipaddress
import socket

import uvicorn
from fastapi import FastAPI

from stepcredit.errors import InputError

LOOPBACK = "127.0.0.1"
GRACE = 30
"""Seconds that requests under way get when the server is asked to stop."""


def listen(host: str, port: int, guarded: bool) -> socket.socket:
    """A socket that accepts connections from now on; port 0 is any free one.

    Raises:
        InputError: an address other than this machine's own while no token guards it, or one that cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"cannot find the address of '{host}': {error}") from error
    if not guarded and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise InputError(
            f"--host {host} is open to other machines: set STEPCREDIT_REWARD_TOKEN or --token-file first, "
            f"or keep to {LOOPBACK}"
        )
    try:
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host") from error


def web_server(app: FastAPI) -> uvicorn.Server:
    """Serves `app` on the sockets that its `run` is given until a signal or `should_exit`."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE, ws="none"
    )
    return uvicorn.Server(config)
