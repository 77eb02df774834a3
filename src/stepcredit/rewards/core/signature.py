"""How a reward is called: with images, prompts and metadata, or with the first one or two of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.types import RewardFunction

ARGUMENTS = ("images", "prompts", "metadata")
EXPECTED = "(images), (images, prompts) or (images, prompts, metadata)"


def full_signature(function: Callable[..., Any], name: str) -> RewardFunction:
    """`function` as a reward that takes images, prompts and metadata.

    The number of arguments that `function` receives follows from its signature; see `argument_count`.

    Raises:
        InputError: `function` takes no images, needs further arguments, or takes them in another order.
    """
    count = argument_count(function, name)
    if count == len(ARGUMENTS):
        return function

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Any:
        return function(*(images, prompts, metadata)[:count])

    reward.__doc__ = inspect.getdoc(function)
    return reward


def argument_count(function: Callable[..., Any], name: str) -> int:
    """How many of (images, prompts, metadata) `function` receives, 1 to 3.

    An argument is passed if its parameter has no default value, or if the parameter has its name: `score(images,
    scale=2.0)` receives images only, `score(images, prompts=None)` also receives prompts. `*args` receives all three,
    and so does a callable whose signature Python cannot read. For a torch module, the signature of `forward` counts.

    Raises:
        InputError: see `full_signature`.
    """
    parameters = _parameters(function)
    if parameters is None:
        return len(ARGUMENTS)
    count = 0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            return len(ARGUMENTS)
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if positional and count < len(ARGUMENTS) and (required or parameter.name == ARGUMENTS[count]):
            if parameter.name in ARGUMENTS and parameter.name != ARGUMENTS[count]:
                raise InputError(f"reward '{name}' takes '{parameter.name}' as argument {count + 1}: take {EXPECTED}")
            count += 1
        elif required:
            raise InputError(f"reward '{name}' has the required argument '{parameter.name}': take {EXPECTED}")
    if count == 0:
        raise InputError(f"reward '{name}' takes no images: take {EXPECTED}")
    return count


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        return list(inspect.signature(called).parameters.values())
    except ValueError:  # some functions written in C have no signature
        return None
