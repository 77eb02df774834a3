"""Do the two colors go together?"""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("harmony")
class Harmony(Preference):
    """Shapes world: do the two colors go together, by a small scorer trained on synthetic preferences.

    Hues alike or opposite score high, clashing ones low, and images without a visible shape lowest; `rules.harmony` is
    the hidden rule. The prompt plays no part.
    """

    rule = "harmony"
