"""Prompt files, and the errors of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.errors import InputError
from stepcredit.prompts import load_prompts
from stepcredit.types import Prompt


def complaint(source: str | Path) -> str:
    with pytest.raises(InputError) as raised:
        load_prompts(str(source))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.txt", "  a cat \n\n\ta dog, running\r\n \n# a hash is no comment")
    assert load_prompts(str(path)) == [Prompt("a cat"), Prompt("a dog, running"), Prompt("# a hash is no comment")]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_files_are_utf_8(tmp_path: Path, mark: bytes) -> None:
    assert load_prompts(str(write(tmp_path, "a.txt", mark + "café ☕\n".encode()))) == [Prompt("café ☕")]
    assert load_prompts(str(write(tmp_path, "a.jsonl", mark + '"café"\n'.encode()))) == [Prompt("café")]


def test_a_jsonl_file_has_objects_and_strings(tmp_path: Path) -> None:
    lines = '{"prompt": "a cat", "count": 2, "tags": ["x"]}\n\n"a dog"\n{"tag": null, "prompt": " a fox "}'
    assert load_prompts(str(write(tmp_path, "mine.jsonl", lines))) == [
        Prompt("a cat", {"count": 2, "tags": ["x"]}),
        Prompt("a dog"),
        Prompt(" a fox ", {"tag": None}),
    ]


def test_a_unicode_line_separator_does_not_end_a_line(tmp_path: Path) -> None:
    assert load_prompts(str(write(tmp_path, "mine.jsonl", '"one\u2028two"\n'))) == [Prompt("one\u2028two")]


TEXTS = st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), min_size=1, max_size=5)


@given(texts=TEXTS)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_any_text_is_read_unchanged(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = write(tmp_path_factory.mktemp("prompts"), "mine.txt", "\n".join(texts))
    assert [prompt.text for prompt in load_prompts(str(path))] == texts


def test_an_unknown_list_suggests_the_nearest() -> None:
    message = complaint("anmals")
    assert "'anmals'" in message and "did you mean 'animals'" in message
    assert ".txt" in message and ".jsonl" in message


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_file_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    assert complaint(path) == f"no prompt file {path}"
    path.mkdir()
    assert str(path) in complaint(path) and "Is a directory" in complaint(path)


@pytest.mark.parametrize("name", ["mine.txt", "mine.jsonl"])
@pytest.mark.parametrize("data", ["", "\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_prompts(tmp_path: Path, name: str, data: str | bytes) -> None:
    path = write(tmp_path, name, data)
    assert f"{path} holds no prompts" in complaint(path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_that_is_not_utf_8(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "mine.txt", "café au lait\n".encode(encoding))
    assert f"{path} is not UTF-8 text (byte " in complaint(path)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ('{"prompt": "a"', "not JSON"),
        ("a dog", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"promt": "a", "n": 1}', "did you mean 'promt'"),
        ("{}", "'prompt'"),
        ('{"prompt": 3}', "3"),
        ('{"prompt": " "}', "blank"),
        ('""', "blank"),
        ('["a"]', "list"),
        ("null", "None"),
        ("3.5", "3.5"),
        ("true", "True"),
    ],
    ids=lambda value: value[:20],
)
def test_a_malformed_line_is_reported_with_its_number(tmp_path: Path, line: str, fact: str) -> None:
    path = write(tmp_path, "mine.jsonl", f'"fine"\n\n{line}\n"fine"\n')
    message = complaint(path)
    assert message.startswith(f"{path} line 3") and fact in message
