"""The prompt lists that ship with the package, one text file each under `data/`."""

from pathlib import Path

BUNDLED = {
    "animals": "the 45 animals of the paper's training runs, as bare names",
    "animals-held-out": "8 animals that are not among them",
    "shapes": "64 captions of the shapes world to train on; the first 8 cover every shape and color",
    "shapes-held-out": "64 captions of the shapes world that nothing is ever trained on",
}
"""Names and what they hold.

The animals follow the prompt list of DDPO (arXiv 2305.13301), where the prompt is the name alone: no article, no
template. The shapes captions are fixed; a test regenerates them from `embedded.world`.
"""

_DATA = Path(__file__).parent / "data"


def read_bundled(name: str) -> list[str]:
    """The texts of a list named in BUNDLED."""
    return (_DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()
