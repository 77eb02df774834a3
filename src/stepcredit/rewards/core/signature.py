"""How a reward is called: which of images, prompts and metadata it receives, by position and by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.types import RewardFunction
from stepcredit.utils.python_objects import is_async

ARGUMENTS = ("images", "prompts", "metadata")
EXPECTED = "(images), (images, prompts) or (images, prompts, metadata)"


@dataclass(frozen=True)
class Passed:
    """What a reward receives.

    Attributes:
        count: how many of ARGUMENTS it receives by position, the first ones.
        names: those that it receives by name.
    """

    count: int
    names: tuple[str, ...] = ()


def full_signature(function: Callable[..., Any], name: str) -> RewardFunction:
    """`function` as a reward that takes images, prompts and metadata.

    Which of them `function` receives follows from its signature; see `passed_arguments`.

    Raises:
        InputError: as in `passed_arguments`.
    """
    passed = passed_arguments(function, name)
    if passed == Passed(len(ARGUMENTS)):
        return function

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Any:
        given = (images, prompts, metadata)
        by_name = {key: given[ARGUMENTS.index(key)] for key in passed.names}
        return function(*given[: passed.count], **by_name)

    reward.__doc__ = inspect.getdoc(function)
    return reward


def passed_arguments(function: Callable[..., Any], name: str) -> Passed:
    """Which of images, prompts and metadata `function` receives.

    The first parameters without a default receive them in this order, whatever they are called. A parameter that is
    called like one of them receives that one, wherever it stands and even if it has a default: `score(images,
    scale=2.0)` receives images only, `score(images, *, metadata=None)` also receives metadata. `*args` receives all
    three, and so does a callable whose signature Python cannot read. For a torch module, the signature of `forward`
    counts.

    Raises:
        InputError: `function` is asynchronous, takes no images, or needs further arguments.
    """
    if is_async(function):
        raise InputError(
            f"reward '{name}' is asynchronous: write an ordinary function, which may call asyncio.run inside"
        )
    parameters = _parameters(function)
    if parameters is None:
        return Passed(len(ARGUMENTS))
    count, names = 0, list[str]()
    for position, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL and position == count:
            return Passed(len(ARGUMENTS))
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required, own = parameter.default is parameter.empty, parameter.name in ARGUMENTS
        positional = position == count < len(ARGUMENTS) and parameter.kind is not parameter.KEYWORD_ONLY
        if positional and (parameter.name == ARGUMENTS[count] or (required and not own)):
            count += 1
        elif own and parameter.name not in ARGUMENTS[:count] and parameter.kind is not parameter.POSITIONAL_ONLY:
            names.append(parameter.name)
        elif own:
            raise InputError(f"reward '{name}' takes '{parameter.name}' as argument {position + 1}: take {EXPECTED}")
        elif required:
            raise InputError(f"reward '{name}' has the required argument '{parameter.name}': take {EXPECTED}")
    if count == 0 and ARGUMENTS[0] not in names:
        raise InputError(f"reward '{name}' takes no images: take {EXPECTED}")
    return Passed(count, tuple(names))


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters that are not bound yet; None if Python cannot read them, as of some functions written in C."""
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        parameters = inspect.signature(called).parameters
    except ValueError:
        return None
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return [parameter for name, parameter in parameters.items() if name not in bound]
