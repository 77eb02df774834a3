"""Is the shape central and of a good size?"""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("balance")
class Balance(Preference):
    """Shapes world: is the shape central and of a good size, by a small scorer trained on synthetic preferences.

    A shape in the middle that fills about a fifth of the image scores high, small ones at the border low, and images
    without one lowest; `rules.balance` is the hidden rule. The prompt plays no part.
    """

    rule = "balance"
