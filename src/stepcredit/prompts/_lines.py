"""Lines of text files."""

from collections.abc import Iterator

from stepcredit.utils.paths import expanded


def numbered_lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line without surrounding white space) of each line of a UTF-8 file that is not blank.

    Only a line feed ends a line: other separators of Unicode may be part of a prompt. Raises OSError or ValueError if
    the file cannot be read.
    """
    for number, line in enumerate(expanded(path).read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
