"""model_index.json of a diffusers pipeline, from its folder or from the Hugging Face hub."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stepcredit.config import BUNDLED_MODELS
from stepcredit.errors import InputError
from stepcredit.utils.hub import download_problem, is_cached
from stepcredit.utils.paths import expanded

INDEX = "model_index.json"


def read_model_index(path: str) -> dict[str, Any] | None:
    """The index of the model at `path`, a folder or a hub id; None for a folder without a readable one.

    The copy in the cache is used if the hub does not serve the model.

    Raises:
        InputError: there is no such folder, and neither the hub nor the cache has a model of that name.
    """
    folder = expanded(path)
    if folder.exists():
        return _read(folder / INDEX)
    problem = download_problem(path, INDEX)
    if problem is not None and not is_cached(path, INDEX):
        raise InputError(not_found(path, problem))
    from huggingface_hub import hf_hub_download

    return _read(Path(hf_hub_download(path, INDEX, local_files_only=problem is not None)))


def not_found(path: str, problem: str) -> str:
    """The message for a `model.path` that is no folder, and that the hub does not serve because of `problem`."""
    near = get_close_matches(path.lower(), BUNDLED_MODELS, n=1, cutoff=0.8)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return (
        f"no folder '{path}'{hint}, and {problem}; give another folder or hub id, or download the model on "
        "another machine (hf download NAME --local-dir FOLDER) and set model.path=FOLDER"
    )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) else None
