"""The user's own files that runs read, and what is in them: a comparison is not gone on with others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from stepcredit.config import ComponentSection, RewardSection, TrainConfig
from stepcredit.errors import InputError
from stepcredit.prompts import prompt_names


def own_files(configs: Iterable[TrainConfig]) -> dict[str, str]:
    """SHA-256 of prompt files, plugins, and the code of parts named `file.py:function` or `module:function`, by name.

    What such code imports or loads is not seen, nor what a reward on another machine runs.

    Raises:
        InputError: one cannot be read.
    """
    paths: dict[str, Path | None] = {}
    for config in configs:
        source = config.prompts.source
        if source not in prompt_names() and ":" not in source:
            paths[source] = Path(source)
        rewards = [part.name for part in parts_of(config.reward) if part.remote is None]
        named = [name.rpartition(":")[0] for name in (source, config.credit.name, *rewards)]
        for place in [*config.run.plugins, *filter(None, named)]:
            paths[place] = _code(place)
    return {name: _digest(path) for name, path in sorted(paths.items()) if path is not None}


def parts_of(reward: RewardSection) -> Sequence[RewardSection | ComponentSection]:
    """The components of a mixture, or the reward itself."""
    return reward.components or [reward]


def _code(place: str) -> Path | None:
    """The file of a plugin or module; None for a module that has none."""
    if place.endswith(".py"):
        return Path(place)
    spec = find_spec(place)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin is not None else None


def _digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
