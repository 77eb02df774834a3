"""What a reward needs besides the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RewardCard:
    """What a reward needs, in the class attribute `CARD` of its class. `stepcredit list reward` prints it.

    A reward without a card, or with one whose `needs` is empty, must be constructible without options, network access
    and further files: the tests construct it so.

    Attributes:
        weights: which weights are loaded by default.
        size: number of parameters, and bytes in float32.
        license: of the weights.
        needs: `download`, weights that are not part of any package; `server`, an address that the user gives; or "".
        prompts: the bundled prompt list whose prompts the reward understands; "" for one that accepts other text.
        extra: the extra of this package to install, as in `pip install 'stepcredit[ocr]'`.
    """

    weights: str = ""
    size: str = ""
    license: str = ""
    needs: Literal["", "download", "server"] = ""
    prompts: str = ""
    extra: str = ""
