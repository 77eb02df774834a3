"""Published weights: find them on disk or on the hub, read them without executing code, check names and shapes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # the error, not the format: torch refuses code with it
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.utils.hub import download_problem, explain, is_cached
from stepcredit.utils.paths import expanded

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


def find_file(path: str, names: Sequence[str], revision: str | None, option: str = "path") -> Path:
    """The file of weights at `path`.

    Args:
        path: the file itself, a folder that holds it (or the same as .safetensors), or a hub id.
        names: possible names of the file; on the hub, the first of them.
        revision: branch, tag or commit on the hub; None is the default branch.
        option: name of the option that holds `path`, for errors.

    Raises:
        InputError: there is no such file, or it cannot be downloaded.
    """
    place = expanded(path)
    if place.is_file():
        return place
    if place.is_dir():
        candidates = [place / variant for name in names for variant in (name, f"{Path(name).stem}.safetensors")]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise InputError(f"folder {path} holds no {' or '.join(file.name for file in candidates)}")
        return found
    return _downloaded(path, names[0], revision, option)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a file that torch.save wrote, by name, on the CPU.

    Files of torch.save are read with `weights_only=True`. If they hold a `state_dict`, it is returned.

    Raises:
        InputError: the file is damaged, holds code, or does not hold tensors by name.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read weights from {file}: {one_line(error)}") from error
    tensors = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(f"{file} does not hold tensors by name, as the weights of a model are saved")
    return dict(tensors)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Load `tensors` into `module`. InputError with the first mismatches unless all names and shapes agree."""
    wanted = module.state_dict()
    shapes = {name: (tensors[name].shape, value.shape) for name, value in wanted.items() if name in tensors}
    require_fit(
        source,
        missing=[name for name in wanted if name not in tensors],
        unexpected=[name for name in tensors if name not in wanted],
        reshaped=[
            f"{name} {tuple(given)} instead of {tuple(expected)}"
            for name, (given, expected) in shapes.items()
            if given != expected
        ],
    )
    module.load_state_dict(tensors)


def require_fit(
    source: object, missing: Collection[str] = (), unexpected: Collection[str] = (), reshaped: Collection[str] = ()
) -> None:
    """InputError with the first mismatches of each kind, if there are any."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    mismatches = [f"{kind}: {_first(names)}" for kind, names in kinds.items() if names]
    if mismatches:
        raise InputError(f"the weights in {source} belong to another model; {'; '.join(mismatches)}")


def require_model(path: str, revision: str | None) -> None:
    """InputError unless `path` is a folder of a transformers model or its config.json can be downloaded."""
    folder = expanded(path)
    if not folder.exists():
        _downloaded(path, "config.json", revision, "path")
    elif not (folder / "config.json").is_file():
        raise InputError(f"{path} is not a folder of a transformers model: it has no config.json")


def load_pretrained(kind: Any, path: str, revision: str | None, ignored: tuple[str, ...] = ()) -> Any:
    """A float32 model of transformers, in eval mode. Every weight must be in the file.

    Args:
        kind: the class of transformers.
        path: hub id or folder.
        revision: branch, tag or commit on the hub.
        ignored: prefixes of further names that the file may hold.

    Raises:
        InputError: the folder is incomplete, the download failed, or the weights do not fit.
    """
    folder = expanded(path)
    require_model(path, revision)
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                folder if folder.exists() else path,
                revision=revision or "main",
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # transformers and safetensors raise many types for a damaged folder
        if not folder.exists():
            raise unreachable(path, "a model", error) from error
        raise InputError(f"cannot load a model from {path}: {one_line(error)}") from error
    unexpected = [name for name in report["unexpected_keys"] if not name.startswith(ignored)]
    require_fit(
        path,
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(name for name in unexpected if not name.endswith("position_ids")),
        reshaped=sorted(str(key[0]) for key in report["mismatched_keys"]),
    )
    return model.eval().requires_grad_(False)


def load_tokenizer(kind: Any, given: str | None, path: str, published: str, revision: str | None) -> Any:
    """A tokenizer of transformers: `given`, else that of the folder `path` if it has one, else the published hub id.

    Raises:
        InputError: the folder has no vocabulary (transformers would create an empty one), or the download failed.
    """
    source = given or (path if _has_vocabulary(expanded(path)) else published)
    folder = expanded(source)
    if folder.exists() and not _has_vocabulary(folder):
        raise InputError(f"{source} has no tokenizer: expected a folder with {' or '.join(_VOCABULARIES)}")
    if not folder.exists():
        _require_on_hub(source, "tokenizer_config.json", "a tokenizer", revision, "tokenizer", optional=True)
    try:
        with _quiet():
            tokenizer = kind.from_pretrained(folder if folder.exists() else source, revision=revision or "main")
        if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
            raise ValueError("the vocabulary is empty")
    except Exception as error:  # transformers raises many types for a damaged folder
        if not folder.exists():
            raise unreachable(source, "a tokenizer", error, option="tokenizer") from error
        raise InputError(f"cannot load a tokenizer from {source}: {one_line(error)}") from error
    return tokenizer


def unreachable(path: str, what: str, error: Exception, option: str = "path") -> InputError:
    """The error for a path that is neither on disk nor on the hub.

    Args:
        what: the file or kind of part that was to be downloaded.
    """
    return _not_downloaded(path, what, explain(error, path, what) or one_line(error).split(". ")[0], option)


def _require_on_hub(path: str, file: str, what: str, revision: str | None, option: str, optional: bool = False) -> None:
    """InputError if a file is not in the cache and cannot be downloaded. The hub's own functions retry for a minute."""
    if not is_cached(path, file, revision):
        problem = download_problem(path, file, revision, optional=optional)
        if problem is not None:
            raise _not_downloaded(path, what, problem, option)


def _not_downloaded(path: str, what: str, reason: str, option: str) -> InputError:
    return InputError(
        f"'{path}' is not a file or folder, and {what} cannot be downloaded: {reason}; or set the option "
        f"{option}=FOLDER to a downloaded copy"
    )


def _downloaded(path: str, name: str, revision: str | None, option: str) -> Path:
    _require_on_hub(path, name, name, revision, option)
    try:
        with _quiet():
            return Path(hf_hub_download(path, name, revision=revision))
    except Exception as error:  # the HTTP library of huggingface_hub has changed, and its errors with it
        raise unreachable(path, name, error, option) from error


def one_line(error: Exception, width: int = 200) -> str:
    """Type and message of an exception on one line of at most `width` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:width]


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _first(names: Collection[str], count: int = 3) -> str:
    shown = ", ".join(list(names)[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the load reports of transformers and the retries of the hub; progress bars of downloads stay visible."""
    from huggingface_hub.utils import logging as hub
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as models

    levels, bars = (hub.get_verbosity(), models.get_verbosity()), models.is_progress_bar_enabled()
    downloads = not are_progress_bars_disabled()
    hub.set_verbosity(logging.ERROR)
    models.set_verbosity_error()
    models.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        hub.set_verbosity(levels[0])
        models.set_verbosity(levels[1])
        if bars:
            models.enable_progress_bar()
