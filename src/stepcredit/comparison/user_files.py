"""Digests of the user's own files, so that a comparison is not resumed after one of them has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from stepcredit.config import ComponentSection, RewardSection, TrainConfig
from stepcredit.errors import InputError
from stepcredit.plugins import find_module_file
from stepcredit.prompts import prompt_names
from stepcredit.utils.paths import expanded


def user_file_digests(configs: Iterable[TrainConfig]) -> dict[str, str]:
    """SHA-256 of the prompt files, the plugins, and the code of `file.py:name` and `module:name`, by name.

    Modules or weights that this code loads are not included, nor rewards on a server.

    Raises:
        InputError: a file cannot be read.
    """
    paths: dict[str, Path | None] = {}
    for config in configs:
        source = config.prompts.source
        if source not in prompt_names() and ":" not in source:
            paths[source] = expanded(source)
        rewards = [part.name for part in reward_parts(config.reward) if part.remote is None]
        modules = [name.rpartition(":")[0] for name in (source, config.credit.name, *rewards)]
        for module in [*config.run.plugins, *filter(None, modules)]:
            paths[module] = _code(module)
    return {name: _digest(path) for name, path in sorted(paths.items()) if path is not None}


def reward_parts(reward: RewardSection) -> Sequence[RewardSection | ComponentSection]:
    """The components of a mixture, or else the reward itself."""
    return reward.components or [reward]


def _code(module: str) -> Path | None:
    """The file of a module, given by its name or path; None if it has no file."""
    return expanded(module) if module.endswith(".py") else find_module_file(module)


def _digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
