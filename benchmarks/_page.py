"""Replace marked sections of a docs page: `<!-- NAME -->` ... `<!-- /NAME -->`."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def replace_section(page: str, name: str, text: str) -> str:
    """`page` with the section `name` replaced by `text`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise SystemExit(f"the page has no section {begin} ... {end}")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def fill(page: Path, name: str, text: str) -> None:
    page.write_text(replace_section(page.read_text(encoding="utf-8"), name, text), encoding="utf-8")
