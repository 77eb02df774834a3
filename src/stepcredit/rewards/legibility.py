"""Does the shape stand out by lightness?"""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("legibility")
class Legibility(Preference):
    """Shapes world: does the shape stand out by lightness, by a small scorer trained on synthetic preferences.

    Strong contrast in all parts of the shape scores high, colors of like lightness low, and images without a shape
    lowest; `rules.legibility` is the hidden rule. The prompt plays no part.
    """

    rule = "legibility"
