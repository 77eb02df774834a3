"""Makes the commands and Python blocks of the documentation small enough for a test.

Models become the bundled pipeline, rewards that need a download become `warmth`, and runs shrink to one epoch of four
images with four steps. Everything else stays as it is printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stepcredit

NOT_RUN = {"pip", "export", "uv", "pytest"}
"""Programs whose commands are not run: they install, set a variable, or are what CI runs."""

_PIPELINE = str(Path(stepcredit.__file__).parent / "shapes" / "weights" / "pipeline")
_DOWNLOADS = {"pickscore", "hpsv2.1", "hpsv2", "aesthetic", "imagereward", "clipscore", "text_rendering", "vlm_judge"}
_HUB_ID = re.compile(r"(stable-diffusion-v1-5|stabilityai|black-forest-labs)/[\w.-]+")
_LARGE_RECIPE = re.compile(r"(sd15|sdxl|sd35|flux1|flux2|qwen|z_image|sana)_\w+")
_SIZE = {
    "sample.steps": "4",
    "sample.prompts_per_epoch": "2",
    "sample.images_per_prompt": "2",
    "train.updates_per_epoch": "1",
    "train.microbatch": "4",
    "credit.window": "2",
    "run.grid_images": "2",
}
_TUNING = ("--learning-rates", "--clip-ranges", "--tuning-seeds")
_DROPPED = ("reward.remote", "run.processes", "model.shard", "model.dtype", "sample.guidance")


def stepcredit_arguments(words: list[str]) -> list[str] | None:
    """The arguments of `stepcredit` in a command that starts it directly or through a launcher; None if none does.

    Raises AssertionError for a program that the tests do not know.
    """
    if words[:2] == ["uv", "run"] and words[2] == "stepcredit":
        words = words[2:]
    if words[0] == "stepcredit":
        return words[1:]
    if words[0] in ("torchrun", "accelerate"):
        return words[words.index("stepcredit") + 1 :]
    assert words[0] in NOT_RUN, f"a test must know how to run {words[0]}"
    return None


def small(arguments: list[str]) -> list[str]:
    """The same command with a small model, a reward that needs no download, and a short run."""
    command, *rest = [_HUB_ID.sub("embedded", argument) for argument in arguments]
    rest = [argument.replace("/shared/", "shared/") for argument in rest]
    shrink = _SHRINK.get(command)
    return [command, *(shrink(rest) if shrink else rest)]


def _train(arguments: list[str]) -> list[str]:
    resumed = "--resume" in arguments
    kept = [argument for argument in arguments if not argument.startswith((*_DROPPED, "train.epochs"))]
    kept = [_LARGE_RECIPE.sub("embedded_jpeg", argument) for argument in kept]
    kept = [_local(argument) for argument in kept if "dtype" not in argument]
    if resumed:
        longer = any(argument.startswith("train.epochs") for argument in arguments)
        return [*kept, *(["train.epochs=2"] if longer else [])]
    return [*kept, *_size(kept), "train.epochs=1"]


def _size(arguments: list[str]) -> list[str]:
    given = {argument.partition("=")[0] for argument in arguments}
    return [f"{key}={value}" for key, value in _SIZE.items() if key not in given or key.startswith("sample.")]


def _local(argument: str) -> str:
    key, sign, value = argument.rpartition("=")
    return f"{key}{sign}warmth" if value in _DOWNLOADS else argument


def _compare(arguments: list[str]) -> list[str]:
    """One seed, and no tuning: every run is a process that imports torch."""
    kept = [_LARGE_RECIPE.sub("embedded_jpeg", _local(argument)) for argument in arguments]
    for option in (*_TUNING, "--controls", "--seeds", "--jobs", "--last-epochs"):
        if option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    kept = [argument for argument in kept if not argument.startswith((*_SIZE, "train.epochs"))]
    fast = ["--tuning-seeds", "0", "--controls", "none", "--seeds", "1", "--jobs", "1", "--last-epochs", "1"]
    return [kept[0], *_size([]), "train.epochs=1", *kept[1:], *fast]


def _doctor(arguments: list[str]) -> list[str]:
    kept = [argument for argument in arguments if not argument.startswith(_DROPPED)]
    return [kept[0], *_size([]), *kept[1:]]


def _evaluate(arguments: list[str]) -> list[str]:
    return [*map(_local, arguments), "--images", "1", "--steps", "4"]


def _sample(arguments: list[str]) -> list[str]:
    return [*arguments, "--steps", "4"]


def _score(arguments: list[str]) -> list[str]:
    kept = list(map(_local, arguments))
    if "--option" in kept and kept[kept.index("--option") + 1].startswith("path="):
        del kept[kept.index("--option") : kept.index("--option") + 2]
    return kept


_SHRINK: dict[str, Callable[[list[str]], list[str]]] = {
    "train": _train,
    "compare": _compare,
    "doctor": _doctor,
    "evaluate": _evaluate,
    "sample": _sample,
    "score": _score,
}


def small_python(text: str) -> str:
    """The same block with the folder of the bundled pipeline in the place of models of the hub."""
    return _HUB_ID.sub(_PIPELINE, text)


def small_trainer(trainer: Callable[..., Any]) -> Callable[..., Any]:
    """`Trainer` with a short run, whatever sizes a block gives."""

    def build(*arguments: Any, **keywords: Any) -> Any:
        for key, value in {**_SIZE, "train.epochs": "1"}.items():
            section, _, name = key.partition(".")
            given = keywords.get(section, {})
            if name == "prompts_per_epoch" and not isinstance(keywords.get("prompts"), str):
                continue  # lists are short
            if section == "credit":
                if not isinstance(given, str):
                    continue
                given = {"name": given}
            keywords[section] = {**given, name: int(value)}
        return trainer(*arguments, **keywords)

    return build
