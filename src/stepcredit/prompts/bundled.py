"""The prompt lists that ship with the package, one text file each under `data/`.

The animals are the prompt list of DDPO (arXiv 2305.13301), where a prompt is the name alone, without article or
template. A test regenerates the shapes captions from `shapes.world`.
"""

from collections.abc import Callable
from pathlib import Path

from stepcredit.prompts import register_prompts

DESCRIPTIONS = {
    "animals": "the 45 animals of the paper's training runs, as bare names",
    "animals-held-out": "8 animals that are not in `animals`",
    "shapes": "64 captions of the shapes world to train on; the first 8 cover every shape and color",
    "shapes-held-out": "64 captions of the shapes world that are never used in training",
}

_DATA = Path(__file__).parent / "data"


def _reader(description: str) -> Callable[[str], list[str]]:
    def read(name: str) -> list[str]:
        return (_DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()

    read.__doc__ = description
    return read


for _name, _description in DESCRIPTIONS.items():
    register_prompts(_name)(_reader(_description))
