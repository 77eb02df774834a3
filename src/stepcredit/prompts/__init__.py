"""Prompts: sources, and the draw of an epoch's prompts.

To add a source, add one file here with a function under `@register_prompts(key)`. The function takes the source as the
user wrote it and returns (or yields) strings, dicts with the key `prompt`, or Prompts. The key decides which sources
the function reads:

    a name, `animals`      exactly this source; `stepcredit list prompt` prints the first line of the docstring
    a suffix, `.jsonl`     files whose name ends in it
    a scheme, `hub:`       sources that begin with it

A function in a plugin of your own registers in the same way. Without registration, name the function as the source:
`module:function` or `path/file.py:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import getdoc
from os import PathLike, fspath
from typing import Any, Protocol, runtime_checkable

from stepcredit.errors import InputError, StepcreditError, caused_by, shortened, unknown
from stepcredit.prompts._rows import prompt_text, to_prompt
from stepcredit.prompts.draw import draw_prompts
from stepcredit.registry import Registered, Registry
from stepcredit.types import Prompt

__all__ = [
    "PROMPTS",
    "PromptsLike",
    "as_prompts",
    "draw_prompts",
    "load_prompts",
    "prompt_names",
    "prompt_text",
    "register_prompts",
]

PROMPTS: Registry[Callable[[str], Iterable[Any]]] = Registry("prompt source", "stepcredit.prompts")


def register_prompts(key: str) -> Callable[[Registered], Registered]:
    """Decorator that makes a function available as `prompts.source`; see this module for `key`.

    The function takes the source as the user wrote it. It returns or yields strings, or dicts with the key `prompt`;
    rewards get the other keys as metadata.

    >>> @register_prompts("birds")
    ... def birds(source):
    ...     return ["a robin", "a wren"]

    Raises:
        InputError: another function has the key.
    """
    return PROMPTS.register(key)


COLUMNS = ("prompt", "text")
"""Columns of a data set that may hold the prompts; the first one that exists is used."""


@runtime_checkable
class Table(Protocol):
    """A data set of the `datasets` library: yields one dict per row. `column_names` of a streamed one may be None."""

    @property
    def column_names(self) -> Sequence[str] | Mapping[str, Any] | None: ...

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


Row = str | Mapping[str, Any] | Prompt
PromptsLike = str | PathLike[str] | Sequence[Row] | Iterator[Row] | Table
"""What `as_prompts` accepts."""


def prompt_names() -> dict[str, str]:
    """{name: description} of the prompt lists that have a name."""
    return {name: (getdoc(PROMPTS.get(name)) or "").partition("\n")[0] for name in PROMPTS.names() if _is_name(name)}


def load_prompts(source: str) -> list[Prompt]:
    """The prompts of a source, in its order; at least one.

    Args:
        source: name of a prompt list, path of a file (.txt or .jsonl, see `prompts.text` and `prompts.jsonl`), or
            `module:function` or `path/file.py:function`.

    Raises:
        InputError: there is no such source (the message suggests the most similar name), it holds no prompts, a row is
            not a prompt, or reading it failed.
    """
    read = PROMPTS.get(_key(source))
    try:
        prompts = [to_prompt(row, f"{source} prompt {number}") for number, row in enumerate(read(source), start=1)]
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except FileNotFoundError as error:
        raise InputError(f"no prompt file {source}") from error
    except OSError as error:
        raise InputError(f"cannot read prompt file {source}: {error.strerror or error}") from error
    except StepcreditError:
        raise
    except Exception as error:  # a source of the user's own may raise anything
        message = f"{type(error).__name__}: {shortened(str(error), 200)}"
        problem = InputError(f"reading the prompts {shortened(repr(source))} raised {message}")
        raise caused_by(error, problem) from error
    if not prompts:
        raise InputError(f"{source} holds no prompts, expected at least one")
    return prompts


def as_prompts(prompts: PromptsLike, column: str | None = None) -> list[Prompt]:
    """The prompts that a user passes in Python, in their order; at least one.

    Args:
        prompts: the name of a prompt list; the path of a file; a list (or generator, array or column of a data frame)
            of strings, or of dicts with the prompt under `column` and metadata under the other keys; or a data set of
            the `datasets` library (anything that has `column_names` and yields dicts).
        column: key or column of the prompt. By default `prompt` for dicts; for a data set `prompt`, else `text`.

    Raises:
        InputError: no prompts, another type, a row that holds no prompt (with its index), no such column, or as in
            `load_prompts`.
    """
    if hasattr(prompts, "tolist"):  # an array, or a column of a data frame
        prompts = prompts.tolist()
    if isinstance(prompts, str | PathLike):
        return load_prompts(fspath(prompts))
    rows: Sequence[Any]
    if isinstance(prompts, Table):
        rows, column = _table(prompts, column)
    elif isinstance(prompts, Sequence | Iterator):
        rows = list(prompts)
    else:
        raise InputError(
            f"prompts is of type {type(prompts).__name__}, expected a list of strings or dicts, a data set, the path "
            "of a file or the name of a prompt list"
        )
    if not rows:
        raise InputError("prompts is empty: pass at least one prompt")
    return [to_prompt(row, f"prompts[{index}]", column or COLUMNS[0]) for index, row in enumerate(rows)]


def _table(table: Table, column: str | None) -> tuple[Sequence[Any], str | None]:
    """The rows of a data set and the column that holds the prompts."""
    columns = table.column_names
    if isinstance(columns, Mapping):
        raise InputError(f"prompts is a data set with splits: pass one of them ({', '.join(columns)})")
    rows = list(table)
    known = list(columns or (rows[0] if rows else ()))
    if column is not None and column not in known:
        raise unknown("column of prompts", column, known)
    chosen = column or next((name for name in COLUMNS if name in known), None)
    if rows and chosen is None:
        raise InputError(f"{unknown('column of prompts', COLUMNS[0], known)}; call it {' or '.join(COLUMNS)}")
    return rows, chosen


def _key(source: str) -> str:
    """The key of PROMPTS that reads `source`."""
    keys = PROMPTS.names()
    for key in keys:
        scheme, suffix = key.endswith(":"), key.startswith(".")
        if source == key or (suffix and source.endswith(key)) or (scheme and source.startswith(key)):
            return key
    if ":" in source:  # module:function or path/file.py:function
        return source
    suffixes = " or ".join(key for key in keys if key.startswith("."))
    hint = "; a single prompt is a list of one in Python, or a line of a file" if " " in source else ""
    raise InputError(
        f"{unknown('prompt list', source, filter(_is_name, keys))}, or the path of a {suffixes} file{hint}"
    )


def _is_name(key: str) -> bool:
    return not key.startswith(".") and not key.endswith(":")
