"""HTML elements. Plain text is escaped; parameters named `body`, `title` or `caption` take HTML."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from stepcredit.report.metrics import mapping


def section(title: str, *body: str) -> str:
    """A section with a heading; "" if its body is empty."""
    inside = "\n".join(filter(None, body))
    return f"<section>\n<h2>{title}</h2>\n{inside}\n</section>" if inside else ""


def subsection(title: str, *body: str) -> str:
    """A heading one level below `section`; "" if its body is empty."""
    inside = "\n".join(filter(None, body))
    return f"<h3>{title}</h3>\n{inside}" if inside else ""


def figure(body: str, caption: str = "", *, large: bool = False) -> str:
    if not body:
        return ""
    opening = '<figure class="large">' if large else "<figure>"
    return f"{opening}{f'<figcaption>{caption}</figcaption>' if caption else ''}{body}</figure>"


def gallery(figures: Iterable[str]) -> str:
    """Small figures in rows that fill the width of the page."""
    inside = "\n".join(filter(None, figures))
    return f'<div class="small">\n{inside}\n</div>' if inside else ""


def note(body: str) -> str:
    return f'<p class="note">{body}</p>'


def facts(values: Mapping[str, str]) -> str:
    """A list of names and values."""
    items = "\n".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in values.items())
    return f"<dl>\n{items}\n</dl>" if values else ""


def bullets(lines: Iterable[str], style: str = "note") -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{style}">\n{items}\n</ul>' if items else ""


def preformatted(text: str, label: str) -> str:
    """Text without line wrapping. It scrolls sideways, also from the keyboard."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}">{escape(text)}</pre>'


def table(lines: Sequence[Sequence[str]], label: str) -> str:
    """A table whose first line and first column are headings."""
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
    """A part of the page that is folded at first."""
    return f"<details>\n<summary>{title}</summary>\n{body}\n</details>" if body else ""


def origin(environment: Mapping[str, Any], config_text: str, config_title: str) -> str:
    """The command, the environment and the complete configuration."""
    known = dict(environment)
    words = known.pop("command", [])
    command = shlex.join(map(str, words)) if isinstance(words, list) else str(words)
    packages = mapping(known.pop("packages", {}))
    values = {str(key).replace("_", " "): str(value) for key, value in known.items() if value is not None}
    values["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    run = [preformatted(command, "Command"), facts(values)] if environment else []
    return f"{section('Environment', *run)}\n{details(config_title, preformatted(config_text, config_title))}"
