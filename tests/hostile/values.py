"""What may stand where something sensible was expected."""

from __future__ import annotations

from hypothesis import strategies as st

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
"""Every code point, halves of surrogate pairs and NUL among them."""

NASTY_TEXT = st.sampled_from(
    [
        *("", " ", "\0", "\ud800", "\ufeff", "\r", "\u202e", "\x1b[31m", "'", '"', "a: b", "~", "null", "NaN", "-1"),
        *("1e999", "2024-01-01", "0x" + "f" * 200, "x" * 10_000, "%s%n", "{prompt}", "../../etc/passwd"),
        "<script>alert(1)</script>",
    ]
)
TEXT = ANY_TEXT | NASTY_TEXT

NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 5e-324, 1e-300])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """`sound` with bytes changed, put in, cut out, doubled, or the end torn off."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(content))), draw(st.integers(0, 30))
        match draw(st.sampled_from(["flip", "put", "cut", "double", "tear"])):
            case "flip" if place < len(content):
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "put":
                content[place:place] = draw(st.binary(max_size=12))
            case "cut":
                del content[place : place + length]
            case "double":
                content[place:place] = content[place : place + length]
            case "tear":
                del content[place:]
    return bytes(content)
