"""Credit rules: how a trajectory's advantage is spread over the denoising steps that earned it.

To add a rule, add one file here: a frozen dataclass with `needs_x0`, `__call__` and `diagnostics` (the protocol
`stepcredit.types.CreditAssigner`) under `@CREDIT.register("its-name")`. Its fields are its options: those named in
`SHARED` are filled from the credit section of a recipe, any other from `credit.options`. The first line of its
docstring is what `stepcredit list credit` prints.

There are three kinds. A rule of weights says what each step earned (they sum to 1), and a step trains on what was not
yet spent before it; a step of zero variance (`trajectory.trainable` False) keeps its weight, because what it earned was
decided before it, and the reward-to-go hands it to the steps before it. A rule of fixed factors scales the advantage of
each step as it is; its factors have mean 1 over the trainable steps and are 0 at the others. A rule that learns
(`stepcredit.types.LearningCredit`) returns step advantages of its own and takes in the epoch afterwards; what it draws
at random is a function of its field `seed`, which is run.seed, and what it has learned is part of every checkpoint.

A rule in which an image's credit depends on other images has `compares_images` True, or several processes would each
compare their own.
"""

from stepcredit.config import CreditSection
from stepcredit.errors import InputError
from stepcredit.registry import Registry, construct, option_names
from stepcredit.types import CreditAssigner

__all__ = ["CREDIT", "SHARED", "build_credit"]

CREDIT: Registry[type[CreditAssigner]] = Registry("credit rule", "stepcredit.credit")

SHARED = frozenset({"window", "alpha", "clamp"})
"""Keys of the credit section that a rule takes by having a field of that name."""

_SEED = "seed"


def build_credit(section: CreditSection, seed: int = 0) -> CreditAssigner:
    """The credit rule that a recipe asks for.

    A shared key that the rule has no field for is ignored, because `compare` runs many rules on one recipe.

    Args:
        seed: of the run, for a rule that draws random numbers.

    Raises:
        InputError: unknown rule or option (the nearest one is named), a shared key given as an option, or a value that
            the rule refuses.
    """
    rule = CREDIT.get(section.name)
    misplaced = sorted(SHARED & section.options.keys())
    if misplaced:
        raise InputError(f"credit.options.{misplaced[0]} is a key of the section itself: write credit.{misplaced[0]}")
    fields = option_names(rule)
    shared = section.model_dump(include=set(SHARED.intersection(fields)))
    if _SEED in fields:
        if _SEED in section.options:
            raise InputError("credit.options.seed cannot be set: it is run.seed")
        shared[_SEED] = seed
    return construct(rule, section.name, {**shared, **section.options})
