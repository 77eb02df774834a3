"""Whether images have the size that was asked for."""

from __future__ import annotations

from stepcredit.config import SampleSection


def size_note(sample: SampleSection, height: int, width: int) -> str | None:
    """One line if an image does not have the `height` and `width` of `sample.call`, or if only one of them is given.

    Args:
        height: of the first image, in pixels.
        width: of the first image, in pixels.
    """
    asked = {name: sample.call[name] for name in ("height", "width") if sample.call.get(name) is not None}
    sizes = {"height": height, "width": width}
    given = " and ".join(f"{name}={value}" for name, value in asked.items())
    if any(value != sizes[name] for name, value in asked.items()):
        return f"note: sample.call sets {given}, but the pipeline makes images of height {height} and width {width}"
    if len(asked) == 1:
        (missing,) = sizes.keys() - asked.keys()
        return (
            f"note: sample.call sets {given} and no {missing}, so images have the pipeline's default {missing} of "
            f"{sizes[missing]}: set sample.call.{missing} as well"
        )
    return None
