"""Credit rules: how a trajectory's advantage is distributed over its denoising steps.

To add a rule, add one file here, or decorate a function or class in your own code; see `register_credit`. A class
derives from one of the base classes:

- `WeightRule`: each step earned a share of the reward, and trains on what was not yet earned before it.
- `FactorRule`: a factor of mean 1 scales the advantage of each step.
- `CreditRule`: anything else, such as a rule with a critic.

A rule that learns from epoch to epoch also has the methods of `stepcredit.types.LearningCredit` or
`stepcredit.types.MeasuringCredit`. What it has learned is part of every checkpoint, and its random numbers are a
function of its field `seed`, which is run.seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stepcredit.config import CreditSection
from stepcredit.credit._rules import CreditRule, FactorRule, FunctionRule, WeightRule
from stepcredit.errors import InputError
from stepcredit.registry import Registered, Registry, bind, construct, option_names, require_options
from stepcredit.types import CreditAssigner

__all__ = ["CREDIT", "SHARED", "CreditRule", "FactorRule", "WeightRule", "as_credit", "build_credit", "register_credit"]

CREDIT: Registry[Callable[..., Any]] = Registry("credit rule", "stepcredit.credit")

SHARED = frozenset({"window", "alpha", "clamp"})
"""Keys of the credit section that a rule gets if it has an option of that name."""

_SEED = "seed"
_ARGUMENTS = ("trajectory", "advantage")


def register_credit(name: str) -> Callable[[Registered], Registered]:
    """Decorator that makes a credit rule available as `credit.name`.

    A function `(trajectory, advantage) -> (B, T)` is a rule. Its further keyword arguments are options. A class, such
    as a frozen dataclass, is built with its options, and its objects are called the same way. Options named in `SHARED`
    are filled from the credit section of the configuration, all others from `credit.options`. `stepcredit list credit`
    prints the first line of the docstring.

    >>> @register_credit("last_half")
    ... def last_half(trajectory, advantage):
    ...     late = torch.arange(trajectory.steps, device=advantage.device) >= trajectory.steps // 2
    ...     return advantage[:, None] * late

    Raises:
        InputError: another rule has the name.
    """
    return CREDIT.register(name)


def build_credit(section: CreditSection, seed: int = 0, plugins: Iterable[str] = ()) -> CreditAssigner:
    """The credit rule that a configuration selects.

    A shared key that the rule has no option for is ignored, because `compare` runs many rules on one recipe.

    Args:
        seed: of the run, for a rule that draws random numbers.
        plugins: loaded if no rule has the name.

    Raises:
        InputError: unknown rule or option, a shared key in `credit.options`, or a value that the rule refuses.
    """
    rule = CREDIT.get(section.name, plugins)
    misplaced = sorted(SHARED & section.options.keys())
    if misplaced:
        raise InputError(f"credit.options.{misplaced[0]} is a key of the section itself: write credit.{misplaced[0]}")
    names = option_names(rule)
    shared = section.model_dump(include=set(SHARED.intersection(names)))
    if _SEED in names:
        if _SEED in section.options:
            raise InputError("credit.options.seed cannot be set: it is run.seed")
        shared[_SEED] = seed
    positional = 0 if inspect.isclass(rule) else len(_ARGUMENTS)
    require_options(rule, section.name, section.options, positional, hidden=SHARED | {_SEED})
    return as_credit(rule, section.name, {**shared, **section.options})


def as_credit(rule: Callable[..., Any], name: str, options: Mapping[str, Any]) -> CreditAssigner:
    """A rule from a class, which is built with the options, or from a callable.

    Args:
        name: how errors name the rule.

    Raises:
        InputError: an option is unknown or refused, the callable does not take (trajectory, advantage), or the object
            has some of the members of a rule, but not all.
    """
    built: Any = rule
    if inspect.isclass(rule):
        built = construct(rule, name, options)
    elif not isinstance(rule, CreditAssigner) or options:
        built = bind(rule, name, options, len(_ARGUMENTS))
    if isinstance(built, CreditAssigner):
        return built
    members = [member for member in _MEMBERS if hasattr(built, member)]
    if members:
        raise InputError(f"credit rule '{name}' has {', '.join(members)}: derive its class from credit.CreditRule")
    try:
        inspect.signature(built).bind(*_ARGUMENTS)
    except (TypeError, ValueError) as error:
        raise InputError(f"credit rule '{name}' must take ({', '.join(_ARGUMENTS)}): {error}") from error
    return FunctionRule(built, name)


_MEMBERS = ("needs_x0", "compares_images", "diagnostics", "learn", "measure", "state_dict")
