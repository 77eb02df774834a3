"""Keep libraries' own progress bars and advice out of the terminal of a run."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Errors only from diffusers and transformers; no loading bars."""
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
