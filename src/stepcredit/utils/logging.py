"""Silence the progress bars and warnings of libraries during a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries() -> None:
    """Let diffusers and transformers log errors only, and disable their progress bars."""
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextmanager
def library_logging_restored() -> Iterator[None]:
    """Restore at the end of the block what `quiet_libraries` changes, for code that runs in the user's program."""
    import diffusers
    import transformers

    modules = (diffusers.logging, transformers.logging)
    before = [(module, module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    try:
        yield
    finally:
        for module, verbosity, bar in before:
            module.set_verbosity(verbosity)
            if bar:
                module.enable_progress_bar()
