"""Whether the shape is central and of a good size."""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("balance")
class Balance(Preference):
    """Shapes world: whether the shape is central and of a good size, by a network trained on synthetic preferences.

    A shape in the middle that fills about a fifth of the image scores high. Small shapes at the border score low, and
    images without a shape lowest. The hidden rule is `shapes.rules.balance`. The prompt is ignored.
    """

    rule = "balance"
