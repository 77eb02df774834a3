"""Why a file of the Hugging Face hub cannot be downloaded, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import parse_ratelimit_headers

from stepcredit.errors import shortened

TIMEOUT = 10.0
"""Seconds that the hub may take to answer."""

_CONNECTION_ERRORS = {"TransportError", "RequestException"}
"""Base classes of the connection errors of httpx and requests. Which of them the hub's library uses varies."""


def download_problem(repository: str, file: str, revision: str | None = None, *, optional: bool = False) -> str | None:
    """Why the hub does not serve a file, and what to do, as part of a sentence; None if it does. Makes one request.

    Args:
        repository: the hub id.
        optional: whether the repository may lack the file.
    """
    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=TIMEOUT)
    except Exception as error:  # the HTTP library of huggingface_hub has changed, and its errors with it
        if optional and isinstance(error, EntryNotFoundError):
            return None
        return explain(error, repository, file) or _unreachable(error)
    return None


def is_cached(repository: str, file: str, revision: str | None = None) -> bool:
    """Whether the file is in the local cache. False for what is not a hub id."""
    try:
        return isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
    except HFValidationError:
        return False


def explain(error: BaseException, repository: str, file: str) -> str | None:
    """As `download_problem`, for an exception that a download raised, directly or as a cause; None for other errors."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, HFValidationError):
            return "it is not a hub id, which has the form owner/name"
        if isinstance(cause, OfflineModeIsEnabled):
            return (
                "it is not in the cache while HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE, or download it first with "
                f"`hf download {repository}`"
            )
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, LocalEntryNotFoundError):
            return _refusal(cause, repository, file)
    for cause in causes:
        if any(kind.__name__ in _CONNECTION_ERRORS for kind in type(cause).__mro__):
            return _unreachable(cause)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(error: HfHubHTTPError, repository: str, file: str) -> str:
    status, page = error.response.status_code, f"{constants.ENDPOINT}/{repository}"
    words = shortened(error.server_message or error.response.headers.get("X-Error-Message") or "", 150)
    quoted = f" ({words})" if words else ""
    if isinstance(error, DisabledRepoError):
        return f"the hub has disabled {repository}{quoted}: choose another model"
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return f"{repository} is gated on the hub: accept its license at {page}, then log in with `hf auth login`"
        return (
            f"{repository} is gated on the hub and your account has no access{quoted}: accept its license or ask for "
            f"access at {page}, and wait until it is granted"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no such revision on the hub: see the branches and tags at {page}"
    if isinstance(error, EntryNotFoundError):
        return f"{repository} has no {file} on the hub: see its files at {page}/tree/main"
    if status == 401 and get_token() is not None:
        return (
            f"the hub refuses your token or does not show you {repository}{quoted}: check the name, and log in again "
            "with `hf auth login` or correct HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return (
            f"the hub has no {repository}, or it is private: check the name, or log in with `hf auth login` if it is "
            "private"
        )
    if status == 403:
        return (
            f"the hub forbids access to {repository}{quoted}: give your token read access to it at "
            f"{constants.ENDPOINT}/settings/tokens, or log in with another account"
        )
    if status == 429:
        return f"the hub limits the rate of your requests: {_wait(error)}; `hf auth login` raises the limit"
    if status >= 500:
        return f"the hub has a problem of its own (HTTP {status}): try again in a few minutes"
    return f"the hub answered with HTTP {status}{quoted}: open {page} in a browser to see whether it works there"


def _wait(error: HfHubHTTPError) -> str:
    limit = parse_ratelimit_headers(error.response.headers)
    seconds = str(limit.reset_in_seconds) if limit is not None else error.response.headers.get("Retry-After", "")
    return f"wait {seconds} seconds and try again" if seconds.isdigit() else "wait a few minutes and try again"


def _unreachable(error: BaseException) -> str:
    reason = shortened(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 100)
    return f"the hub cannot be reached at {constants.ENDPOINT} ({reason}): check the connection and the proxy"
