"""Whether the shape contrasts with the background in lightness."""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("legibility")
class Legibility(Preference):
    """Shapes world: whether the shape contrasts in lightness, by a network trained on synthetic preferences.

    Strong contrast in all parts of the shape scores high. Colors of similar lightness score low, and images without a
    shape lowest. The hidden rule is `shapes.rules.legibility`. The prompt is ignored.
    """

    rule = "legibility"
