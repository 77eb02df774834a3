"""Whether the two colors go together."""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("harmony")
class Harmony(Preference):
    """Shapes world: whether the two colors go together, by a network trained on synthetic preferences.

    Similar or opposite hues score high. Clashing hues score low, and images without a visible shape lowest. The hidden
    rule is `shapes.rules.harmony`. The prompt is ignored.
    """

    rule = "harmony"
