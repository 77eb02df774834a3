"""Do the two colors go together?"""

from stepcredit.rewards import REWARDS
from stepcredit.rewards._preference import Preference


@REWARDS.register("harmony")
class Harmony(Preference):
    """Shapes world: do the two colors go together, by a small scorer trained on synthetic preferences.

    Hues alike or opposite score high, clashing ones low, and images without a visible shape lowest; `rules.harmony` is
    the hidden rule. The prompt plays no part.
    """

    rule = "harmony"
