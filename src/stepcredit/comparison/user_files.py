"""Digests of the user's own files, so that a comparison is not resumed after one of them has changed."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.plugins import find_module_file
from stepcredit.prompts import prompt_names
from stepcredit.utils.paths import expanded


def user_file_digests(
    configs: Iterable[TrainConfig], prompts: Iterable[str] = (), rewards: Iterable[str] = ()
) -> dict[str, str]:
    """SHA-256 of the prompt files, the plugins, and the code of `file.py:name` and `module:name`, by name.

    Modules or weights that this code loads are not included, nor rewards on a server.

    Args:
        prompts: further prompt sources, as `prompts.source` names them.
        rewards: further rewards by name, or NAME@URL.

    Raises:
        InputError: a file cannot be read.
    """
    sources, named = [*prompts], [name for name in rewards if "@http" not in name]
    modules: list[str] = []
    for config in configs:
        sources.append(config.prompts.source)
        named += [part.name for part in config.reward.parts if part.remote is None]
        named.append(config.credit.name)
        modules += config.run.plugins
    modules += filter(None, (name.rpartition(":")[0] for name in (*sources, *named)))
    files = (name for name in sources if name not in prompt_names() and ":" not in name)
    paths = {name: expanded(name) for name in files} | {module: _code(module) for module in modules}
    return {name: _digest(path) for name, path in sorted(paths.items()) if path is not None}


def _code(module: str) -> Path | None:
    """The file of a module, given by its name or path; None if it has no file."""
    return expanded(module) if module.endswith(".py") else find_module_file(module)


def _digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
