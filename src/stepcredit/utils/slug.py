"""File names for texts in any script."""

from __future__ import annotations

import os
import re
import unicodedata

_MAX_LENGTH = 60


def slug(text: str) -> str:
    """A part of a file name that resembles `text`: lower case letters and digits of any script, with hyphens between.

    Emoji and other symbols outside of ASCII get their Unicode name. A file system that cannot hold the letters gets
    their code points. A text of nothing but punctuation gives `prompt`.

    >>> slug("A cat, 2 dogs")
    'a-cat-2-dogs'
    """
    words = "".join(_kept(letter) for letter in unicodedata.normalize("NFC", text).lower())
    name = re.sub(r"[-\s]+", "-", words).strip("-")[:_MAX_LENGTH].strip("-") or "prompt"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("ascii", "backslashreplace").decode().replace("\\", "")[:_MAX_LENGTH]
    return name


def _kept(letter: str) -> str:
    if letter.isascii():
        return letter if letter.isalnum() else "-"
    match unicodedata.category(letter)[0]:
        case "L" | "N":
            return letter
        case "M":  # vowel signs of many scripts; selectors of emoji variants have none
            return "" if "\ufe00" <= letter <= "\ufe0f" else letter
        case "S":
            return f"-{unicodedata.name(letter, f'u{ord(letter):x}').lower().replace(' ', '-')}-"
        case _:
            return "-"
