"""A page of the docs with places that scripts fill: `<!-- NAME -->` ... `<!-- /NAME -->`."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def filled(page: str, name: str, text: str) -> str:
    """`page` with `text` in its place called `name`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise SystemExit(f"the page has no place {begin} ... {end}")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def fill(page: Path, name: str, text: str) -> None:
    page.write_text(filled(page.read_text(encoding="utf-8"), name, text), encoding="utf-8")
