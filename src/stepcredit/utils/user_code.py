"""Run parts of the user's own code in a training loop, so that they can neither change it nor end in a traceback."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from stepcredit.errors import InputError, StepcreditError, caused_by, described
from stepcredit.types import Trajectory
from stepcredit.utils.global_state import settings_restored
from stepcredit.utils.memory import out_of_memory

_warned: defaultdict[str, set[str]] = defaultdict(set)
"""The settings that were warned about, by the name of what changes them."""


@contextmanager
def contained(name: str) -> Iterator[None]:
    """Restore the settings that the block changes, and report what it raises as an InputError that names it.

    Errors of this package and of memory that runs out are raised as they are.
    """
    try:
        with settings_restored(name, _warned[name]):
            yield
    except StepcreditError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if out_of_memory(error):
            raise
        raise caused_by(error, InputError(f"{name} raised {described(error)}")) from error


@contextmanager
def unchanged(name: str, trajectory: Trajectory) -> Iterator[None]:
    """InputError if the block changes a tensor of `trajectory` in place: the update would train on it."""
    before = _versions(trajectory)
    yield
    changed = [field for field, version in _versions(trajectory).items() if version != before[field]]
    if changed:
        raise InputError(f"{name} changes trajectory.{changed[0]} in place: change a copy, as in .clone()")


def _versions(trajectory: Trajectory) -> dict[str, int]:
    """How often each tensor was changed in place. torch does not count this for tensors of inference mode."""
    tensors = {**vars(trajectory), **{f"schedule.{key}": value for key, value in vars(trajectory.schedule).items()}}
    return {
        name: value._version
        for name, value in tensors.items()
        if isinstance(value, Tensor) and not value.is_inference()
    }
