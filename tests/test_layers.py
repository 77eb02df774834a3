"""Imports between the folders of the package go downward only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import stepcredit

SOURCE = Path(stepcredit.__file__).parent

# Each folder or top-level module may import from those listed before it.
ORDER = (
    "maths",
    "stats",
    "errors",
    "types",
    "utils",
    "bundled",
    "families",
    "config",
    "plugins",
    "registry",
    "runs",
    "distributed",
    "prompts",
    "shapes",
    "credit",
    "rewards",
    "policy",
    "algorithms",
    "evaluation",
    "report",
    "training",
    "comparison",
    "api",
    "cli",
    "__main__",
)


def imported_names(path: Path) -> Iterator[str]:
    """The dotted name of every import in a file, including imports in functions and under TYPE_CHECKING."""
    package = ("stepcredit", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*parents, node.module) if node.module else parents)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def upward_imports() -> Iterator[str]:
    """Each import that does not go downward, as "file imports name"."""
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE)
        own = file.parts[0].removesuffix(".py")
        if own == "__init__":  # the public API, which may import everything
            continue
        below = ORDER[: ORDER.index(own)]
        for name in imported_names(path):
            root, _, rest = name.partition(".")
            if root == "stepcredit" and rest.partition(".")[0] not in (own, "__version__", *below):
                yield f"{file} imports {name}"


def test_imports_go_downward() -> None:
    folders = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    assert folders - {"__init__"} <= set(ORDER), "list every folder and top-level module in ORDER"
    upward = list(upward_imports())
    assert not upward, "\n".join(upward)
