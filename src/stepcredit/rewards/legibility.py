"""Does the shape stand out by lightness?"""

from stepcredit.rewards import REWARDS
from stepcredit.rewards._preference import Preference


@REWARDS.register("legibility")
class Legibility(Preference):
    """Shapes world: does the shape stand out by lightness, by a small scorer trained on synthetic preferences.

    Strong contrast in all parts of the shape scores high, colors of like lightness low, and images without a shape
    lowest; `rules.legibility` is the hidden rule. The prompt plays no part.
    """

    rule = "legibility"
