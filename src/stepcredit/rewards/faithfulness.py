"""Whether the image shows its caption."""

from stepcredit.rewards import register_reward
from stepcredit.rewards._preference import Preference


@register_reward("faithfulness")
class Faithfulness(Preference):
    """Shapes world: whether the image shows its caption, by a network trained on synthetic preferences.

    The score rises with the number of words of the caption that the image shows, and with how closely it does. The
    hidden rule is `shapes.rules.faithfulness`. Prompts must be captions of the shapes world. Unlike `alignment`, the
    network learned from choices between images and not from labels, and its training data included damaged images.
    """

    rule = "faithfulness"
    reads_caption = True
