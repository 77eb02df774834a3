"""The frame of a page: head, style, script and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from stepcredit.report.sample_grids import SLIDER
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
    """A complete page. All arguments except `name` are HTML.

    The Content-Security-Policy allows images inside the page, the style sheet and, if there is a slider, its script,
    both by their hash. The page loads nothing, and the browser runs no other script and applies no other style.
    """
    body = "\n".join(filter(None, sections))
    style, script = _file("style.css"), _file("slider.js") if SLIDER in body else ""
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
    """Write the page atomically, and return `path`."""
    write_atomically(path, html.encode(errors="replace"))  # unpaired surrogates
    return path


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash of `text` as a Content-Security-Policy writes it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
