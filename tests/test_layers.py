"""Imports go downward only: a part may import from the floors below its own, never from its own or above."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepcredit

SOURCE = Path(stepcredit.__file__).parent
FLOORS = (
    {"maths"},
    {
        "config",
        "durable",
        "errors",
        "interruption",
        "measure",
        "plain_yaml",
        "quiet",
        "secrets",
        "seeds",
        "types",
    },
    {
        "checkpoint",
        "embedded",
        "faults",
        "optimizer",
        "plans",
        "processes",
        "progress",
        "prompts",
        "recipes",
        "registry",
        "scalars",
        "sample_steps",
    },
    {"sharing", "update_statistics"},
    {"experience"},
    {"optimizer", "gradient"},
    {"advantages", "credit", "deepspeed", "policy", "rewards", "tracking"},
    {"evaluation", "grids", "profiling", "report", "reward_queue", "state", "update"},
    {"comparison", "keeping"},
    {"trainer"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
LEVEL = {part: level for level, parts in enumerate(FLOORS) for part in parts}


def sources() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def part(path: Path) -> str:
    """The package or module directly under `stepcredit` that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported in `tree`: at the top, in functions, under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which floor it reaches"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(ast.parse(path.read_text(encoding="utf-8")))]
    return {name[1] if len(name) > 1 else "" for name in names if name[0] == "stepcredit"}


def at_import(path: Path) -> set[str]:
    """What is imported when the module is, beside the standard library; ours as `stepcredit.<part>`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    now = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and node not in later]
    names = [name.split(".") for name in imports(ast.Module(now, []))]
    return {
        ".".join(name[:2]) if name[0] == "stepcredit" else name[0]
        for name in names
        if name[0] not in sys.stdlib_module_names
    }


def test_every_part_has_its_floor() -> None:
    assert {part(path) for path in sources()} == LEVEL.keys()


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_go_downward(path: Path) -> None:
    own = part(path)
    upward = sorted(other for other in imported_parts(path) - {own} if LEVEL.get(other, 99) >= LEVEL[own])
    assert upward == [], f"{own} is on floor {LEVEL[own]} and imports {upward}, not below it"


def test_mathematics_needs_torch_alone() -> None:
    needed = {name for path in (SOURCE / "maths").glob("*.py") for name in at_import(path)}
    assert needed == {"torch", "stepcredit.maths"}


def test_the_command_line_parses_before_anything_heavy_is_imported() -> None:
    assert at_import(SOURCE / "cli.py") == {"typer", "stepcredit.errors"}
    assert at_import(SOURCE / "errors.py") | at_import(SOURCE / "__init__.py") == set()


def test_the_rule_sees_every_way_to_import() -> None:
    text = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from stepcredit.training.trainer import Trainer
def late():
    import stepcredit.cli.main
    from stepcredit import update
"""
    found = {name.split(".")[1] for name in imports(ast.parse(text)) if name.startswith("stepcredit")}
    assert found == {"trainer", "cli", "update"}
