"""The notebook runs, and its page is up to date."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.docs.small import small_trainer

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebooks" / "quickstart.ipynb"


def run_cells(trainer: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Any]:
    """Run the code cells; the values of their last expressions."""
    import stepcredit

    monkeypatch.chdir(folder)
    monkeypatch.setattr(stepcredit, "Trainer", trainer)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, Any] = {"__name__": "notebook"}
    values = []
    for cell in cells:
        if cell["cell_type"] == "code":
            *body, last = ast.parse("".join(cell["source"])).body
            tail = [] if isinstance(last, ast.Expr) else [last]
            exec(compile(ast.Module([*body, *tail], []), "cell", "exec"), namespace)  # noqa: S102
            expression = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
            values.append(expression and eval(compile(expression, "cell", "eval"), namespace))  # noqa: S307
    return values


def test_cells_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stepcredit.api import Trainer

    values = run_cells(small_trainer(Trainer), monkeypatch, tmp_path)
    assert len([value for value in values if isinstance(value, Image.Image)]) == 2, "before and after"
    assert "epoch 1: reward" in capsys.readouterr().out


@pytest.mark.slow
def test_reward_rises_and_images_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from stepcredit.api import Trainer

    values = run_cells(Trainer, monkeypatch, tmp_path)
    before, after = (value for value in values if isinstance(value, Image.Image))
    assert warmth(after) > warmth(before) + 0.1


def warmth(image: Image.Image) -> float:
    reds, _, blues = (list(channel.get_flattened_data()) for channel in image.split())
    return (sum(reds) - sum(blues)) / (255 * len(reds))


def test_page_shows_the_notebook() -> None:
    text, pictures = runpy.run_path(str(DOCS / "generate.py"))["notebook"]()
    assert NOTEBOOK.with_suffix(".md").read_text(encoding="utf-8") == text, "run: python docs/generate.py"
    assert {name: NOTEBOOK.with_name(name).read_bytes() for name in pictures} == pictures
