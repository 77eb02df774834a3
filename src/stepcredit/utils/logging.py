"""Silence the progress bars and warnings of libraries during a run."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Let diffusers and transformers log errors only, and disable their progress bars."""
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
