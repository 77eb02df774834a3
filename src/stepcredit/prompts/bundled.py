"""The prompt lists that ship with the package, one .txt or .jsonl file each under `data/`.

The animals are the prompt list of DDPO (arXiv 2305.13301), where a prompt is the name alone, without article or
template. Tests regenerate the captions of the shapes world from `shapes.world`, and those of the composition world,
whose tags are their tasks, from `shapes.composition`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from stepcredit.prompts import register_prompts
from stepcredit.prompts.jsonl import read_jsonl
from stepcredit.prompts.text import read_text
from stepcredit.types import Prompt

DESCRIPTIONS = {
    "animals": "the 45 animals of the paper's training runs, as bare names",
    "animals-held-out": "8 animals that are not in `animals`",
    "composition": "120 captions of the composition world to train on, of six tasks in turn",
    "composition-held-out": "96 captions of the composition world that are never used in training",
    "composition-unseen-pairs": "96 captions that combine a shape with a color, or two shapes, as no other list does",
    "shapes": "64 captions of the shapes world to train on; the first 8 cover every shape and color",
    "shapes-held-out": "64 captions of the shapes world that are never used in training",
}

_DATA = Path(__file__).parent / "data"


def _reader(description: str) -> Callable[[str], Iterable[Prompt]]:
    def read(name: str) -> Iterable[Prompt]:
        tagged = _DATA / f"{name}.jsonl"
        return read_jsonl(str(tagged)) if tagged.is_file() else read_text(str(_DATA / f"{name}.txt"))

    read.__doc__ = description
    return read


for _name, _description in DESCRIPTIONS.items():
    register_prompts(_name)(_reader(_description))
