"""The frame of a page: head, style, script and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from stepcredit.report.pictures import OPENING
from stepcredit.utils.files import write_atomically

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$name · stepcredit</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$name</h1>
<p class="verdict">$verdict</p>
$summary
</header>
<main>
$body
</main>
$script</body>
</html>
""")


def page(name: str, verdict: str, summary: str, sections: Iterable[str]) -> str:
    """A whole page of text; everything but `name` is HTML.

    Its policy allows pictures inside the page, this style sheet and, where there is a slider to move, this script, both
    by their hash: nothing is loaded, and no other script or style would be obeyed.
    """
    body = "\n".join(filter(None, sections))
    style, script = _file("style.css"), _file("slider.js") if OPENING in body else ""
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_hash(style)}'",
        *([f"script-src '{_hash(script)}'"] if script else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return _PAGE.substitute(
        name=escape(name),
        policy="; ".join(policy),
        style=style,
        verdict=verdict,
        summary=summary,
        body=body,
        script=f"<script>{script}</script>\n" if script else "",
    )


def save(html: str, path: Path) -> Path:
    """Write the page whole or not at all; returns `path`."""
    write_atomically(path, html.encode(errors="replace"))  # halves of surrogate pairs
    return path


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy writes it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
