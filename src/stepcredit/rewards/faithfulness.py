"""Does the image show its caption?"""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("faithfulness")
class Faithfulness(Preference):
    """Shapes world: does the image show its caption, by a small scorer trained on synthetic preferences.

    The more of the mentioned words are met, and the more closely, the higher; `rules.faithfulness` is the hidden rule.
    Prompts must be captions of the shapes world. Unlike `alignment`, it has learned from choices between images and
    not from labels, and it knows damaged images.
    """

    rule = "faithfulness"
    reads = True
