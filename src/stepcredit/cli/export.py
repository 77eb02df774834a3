"""`stepcredit export`: a run's newest weights in a format that other programs read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, unknown
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory


def export(run: Path, form: str, out: Path) -> None:
    """Write the weights of the newest checkpoint, averaged with `model.ema`, into `out`, and say how to load them."""
    directory = RunDirectory.open(run)
    config, saved = directory.config, checkpoint.folders(directory.checkpoint_root)
    if not saved:
        raise InputError(f"{run} holds no checkpoint to export")
    _require_free(out)

    from stepcredit.policy.export.formats import FORMATS, loading_hint, write  # diffusers takes longest to import
    from stepcredit.policy.loading import load_policy
    from stepcredit.utils.logging import quiet_libraries

    if form not in FORMATS:
        raise unknown("export format", form, FORMATS)
    quiet_libraries()
    policy = load_policy(_only_stored(config), safety_checker=True)
    policy.load_state_dict(checkpoint.load(saved[-1]).part("policy"))
    with _writing(out):
        path = write(policy.pipeline, policy.adapter, form, out)
    print(f"{saved[-1].name} of {run} is in {path}\n  load with  {loading_hint(policy.pipeline, path)}")


def _only_stored(config: TrainConfig) -> TrainConfig:
    """The configuration without what it says about computing: weights are copied on any machine."""
    stored = {"device": "cpu", "compile": False, "gradient_checkpointing": False}
    return config.model_copy(update={"model": config.model.model_copy(update=stored)})


def _require_free(out: Path) -> None:
    try:
        occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise _unwritable(out, error) from error
    if occupied:
        raise InputError(f"{out} exists already and is not an empty folder; choose another --out")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> InputError:
    return InputError(f"cannot write to {out}: {error.strerror or error}; choose another --out")
