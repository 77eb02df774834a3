"""Every command and Python block of the README and the documentation runs, in the order of its page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from PIL import Image
from tests.cli.command_line import stepcredit
from tests.docs.blocks import Block, blocks, commands
from tests.docs.small import small, small_python, small_trainer, stepcredit_arguments

from stepcredit.cli.main import app
from stepcredit.comparison.comparison_file import read_comparison
from stepcredit.comparison.protocol import make_protocol
from stepcredit.runs import recipes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "notebooks")]
LANGUAGES = {"bash", "python", "yaml", "text"}
FAST = {
    "README.md",
    "docs/index.md",
    "docs/guides/rewards.md",
    "docs/guides/extending.md",
    "docs/guides/remote-rewards.md",
}
"""Pages that every run of the suite covers: what a new user reads first. The others are in the slow suite."""
FILES = {
    "README.md": {"my_reward.py": "def blue(images, prompts, metadata):\n    return images[:, 2].mean((1, 2))\n"},
}
"""Files that the text of a page describes without showing them."""
PROMPTS = "a red circle on a black background\na blue square on a white background\n"


def parameter(page: Path) -> Any:
    name = str(page.relative_to(ROOT))
    return pytest.param(page, id=name, marks=[] if name in FAST else [pytest.mark.slow])


RUNNABLE = [page for page in PAGES if any(block.language in ("bash", "python") for block in blocks(page))]
"""Pages with commands or Python. The notebook has a test of its own."""


@pytest.mark.parametrize("page", [parameter(page) for page in RUNNABLE])
def test_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if "Trainer" in page.read_text(encoding="utf-8"):
        import stepcredit as package

        monkeypatch.setattr(package, "Trainer", small_trainer(package.Trainer))
    Path("prompts.txt").write_text(PROMPTS)
    for name, text in FILES.get(str(page.relative_to(ROOT)), {}).items():
        Path(name).write_text(text)
    namespace: dict[str, Any] = {"__name__": "block"}
    try:
        for block in blocks(page):
            run(block, namespace, f"{page.relative_to(ROOT)} line {block.line}")
    finally:
        for path in tmp_path.glob("*.py"):
            sys.modules.pop(path.stem, None)


def run(block: Block, namespace: dict[str, Any], place: str) -> None:
    assert block.language in LANGUAGES, f"{place}: unknown language {block.language}"
    if block.skip is not None:
        return
    if block.file is not None:
        Path(block.file).write_text(block.text)
    if block.language == "bash":
        for words in commands(block.text):
            run_command(words, place)
    elif block.language == "python" and block.file is None:
        exec(compile(small_python(block.text), place, "exec"), namespace)  # noqa: S102
    elif block.language == "yaml":
        check_yaml(block)


def run_command(words: list[str], place: str) -> None:
    arguments = stepcredit_arguments(words)
    if arguments is None:
        return
    arguments = small(arguments)
    if arguments[0] == "serve-reward":
        return parse(arguments)
    for name in arguments:
        if name.endswith(".png") and not Path(name).exists():
            Image.new("RGB", (32, 32), "red").save(name)
    said = stepcredit(*arguments)
    assert said.code == 0, f"{place}: {' '.join(arguments)}\n{said.out}{said.err}"


def parse(arguments: list[str]) -> None:
    """The command accepts these arguments; a server would run for ever."""
    group: Any = typer.main.get_command(app)
    group.commands[arguments[0]].make_context(arguments[0], arguments[1:])


def check_yaml(block: Block) -> None:
    """A recipe or comparison has valid keys and values."""
    tree = yaml.safe_load(block.text)
    path = Path(block.file or "recipe.yaml")
    path.write_text(block.text)
    if recipes.is_comparison(tree):
        make_protocol(read_comparison(path), {})
    elif "apiVersion" not in tree:
        recipes.load(path)
