"""Pieces of a page. Text given to them is escaped; what is called `body`, `title` or `caption` is HTML already."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from stepcredit.report.rows import mapping


def section(title: str, *body: str) -> str:
    """A heading and what is under it; "" where that is nothing."""
    inside = "\n".join(filter(None, body))
    return f"<section>\n<h2>{title}</h2>\n{inside}\n</section>" if inside else ""


def part(title: str, *body: str) -> str:
    """The same one level down."""
    inside = "\n".join(filter(None, body))
    return f"<h3>{title}</h3>\n{inside}" if inside else ""


def figure(body: str, caption: str = "", *, large: bool = False) -> str:
    if not body:
        return ""
    opening = '<figure class="large">' if large else "<figure>"
    return f"{opening}{f'<figcaption>{caption}</figcaption>' if caption else ''}{body}</figure>"


def gallery(figures: Iterable[str]) -> str:
    """Small figures beside each other, as many as there is room for."""
    inside = "\n".join(filter(None, figures))
    return f'<div class="small">\n{inside}\n</div>' if inside else ""


def note(body: str) -> str:
    return f'<p class="note">{body}</p>'


def facts(told: Mapping[str, str]) -> str:
    items = "\n".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in told.items())
    return f"<dl>\n{items}\n</dl>" if told else ""


def bullets(lines: Iterable[str], kind: str = "note") -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">\n{items}\n</ul>' if items else ""


def preformatted(text: str, label: str) -> str:
    """Lines kept as they are, which can be scrolled sideways, also from the keyboard."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}">{escape(text)}</pre>'


def table(lines: Sequence[Sequence[str]], label: str) -> str:
    """The first line and the first column are headings."""
    head, *rest = lines
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rest
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>\n'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def details(title: str, body: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n{body}\n</details>" if body else ""


def origin(environment: Mapping[str, Any], config_text: str, called: str) -> str:
    """The exact command, where it ran, and the complete configuration."""
    known = dict(environment)
    words = known.pop("command", [])
    command = shlex.join(map(str, words)) if isinstance(words, list) else str(words)
    packages = mapping(known.pop("packages", {}))
    told = {str(key).replace("_", " "): str(value) for key, value in known.items() if value is not None}
    told["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    where = [preformatted(command, "Command"), facts(told)] if environment else []
    return section("Where it ran", *where) + "\n" + details(called, preformatted(config_text, called))
