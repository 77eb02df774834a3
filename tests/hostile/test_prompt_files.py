"""Malformed and unusual prompt files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from tests.cli.command_line import stepcredit
from tests.hostile.trials import REFUSED, WORKS, cases, outcome_of, record, survive
from tests.hostile.values import ANY_TEXT, JSON_VALUES, TEXT, damaged

from stepcredit.errors import InputError
from stepcredit.prompts import draw_prompts, load_prompts
from stepcredit.prompts._rows import MAX_CHARACTERS
from stepcredit.runs.fonts import CaptionFont
from stepcredit.runs.image_grid import _caption, save_grid
from stepcredit.types import Prompt

WHAT = "prompt file"
ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift_jis",
    "gb18030",
    "utf-7",
]
SUFFIXES = st.sampled_from([".txt", ".jsonl"])


def read_and_draw(folder: Path, content: bytes, suffix: str) -> None:
    """Read a prompt file and use the prompts as a run does: draw them and write them as JSON."""
    path = folder / f"prompts{suffix}"
    path.write_bytes(content)
    prompts = load_prompts(str(path))
    drawn = draw_prompts(prompts, epoch=3, seed=1, count=2, order="random", images_per_prompt=2)
    for prompt in drawn:
        assert prompt.text.strip() and len(prompt.text) <= MAX_CHARACTERS and "\0" not in prompt.text
        assert json.loads(json.dumps(prompt.text)).encode() == prompt.text.encode()


@cases(fast=20, slow=700)
def test_any_bytes(tmp_path: Path, cases: int) -> None:
    strategy = st.tuples(st.binary(max_size=300), SUFFIXES)
    survive(WHAT, "random bytes", cases, strategy, lambda case: read_and_draw(tmp_path, *case))


@cases(fast=20, slow=700)
def test_any_text_in_any_encoding(tmp_path: Path, cases: int) -> None:
    strategy = st.tuples(st.lists(TEXT, max_size=6), st.sampled_from(ENCODINGS), st.sampled_from(["\n", "\r\n", "\r"]))

    def attempt(case: tuple[list[str], str, str]) -> None:
        lines, encoding, end = case
        read_and_draw(tmp_path, end.join(lines).encode(encoding, errors="ignore"), ".txt")

    survive(WHAT, "texts in ten encodings, with and without BOM", cases, strategy, attempt)


@cases(fast=20, slow=700)
def test_any_json_per_line(tmp_path: Path, cases: int) -> None:
    objects = st.fixed_dictionaries({"prompt": TEXT | JSON_VALUES}, optional={"extra": JSON_VALUES})
    strategy = st.lists(st.one_of(objects, JSON_VALUES), max_size=4)

    def attempt(lines: list[object]) -> None:
        read_and_draw(tmp_path, "\n".join(map(json.dumps, lines)).encode(), ".jsonl")

    survive(WHAT, "random JSON values", cases, strategy, attempt)


@cases(fast=15, slow=500)
def test_a_damaged_valid_file(tmp_path: Path, cases: int) -> None:
    valid = b'{"prompt": "a red fox", "tag": 1}\n"two dogs"\n{"prompt": "\\u00e9t\\u00e9"}\n'
    found = survive(
        WHAT, "bytes of a valid file changed", cases, damaged(valid), lambda c: read_and_draw(tmp_path, c, ".jsonl")
    )
    assert found[WORKS] and found[REFUSED]


@cases(fast=10, slow=300)
def test_every_accepted_prompt_can_be_a_caption(tmp_path: Path, cases: int) -> None:
    def attempt(text: str) -> None:
        (tmp_path / "p.jsonl").write_text(json.dumps(text))
        prompt = load_prompts(str(tmp_path / "p.jsonl"))[0]
        save_grid(tmp_path / "grid.png", torch.zeros(1, 3, 16, 16), [f"{prompt.text}\n0.5"])
        assert (tmp_path / "grid.png").stat().st_size < 10**6

    survive("caption of a sample grid", "random texts", cases, ANY_TEXT | TEXT, attempt)


@pytest.mark.parametrize("text", ["word " * 4000, "x" * 20_000, "\n".join("abc" * 100), "W" * 590])
def test_captions_have_a_limited_height(tmp_path: Path, text: str) -> None:
    save_grid(tmp_path / "grid.png", torch.zeros(1, 3, 16, 16), [f"{text}\n0.5"])
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.height < 160 + 40 + 17 * 15


def test_long_captions_are_truncated_before_the_score() -> None:
    font = CaptionFont([], 13)
    lines = [line for line, _ in _caption("word " * 400 + "\n0.5", 160, font)]
    assert lines[-2:] == ["...", "0.5"] and len(lines) == 13
    assert [line for line, _ in _caption("a cat\n0.5", 160, font)] == ["a cat", "0.5"]


def test_too_many_images_are_refused() -> None:
    prompts = [Prompt("a lake")] * 10
    with pytest.raises(InputError, match="10 prompts of 9223372036854775807 images"):
        draw_prompts(prompts, epoch=0, seed=0, count=None, order="fixed", images_per_prompt=2**63 - 1)
    with pytest.raises(InputError, match="9223372036854775807 prompts of 1 images"):
        draw_prompts(prompts, epoch=0, seed=0, count=2**63 - 1, order="random", images_per_prompt=1)


@pytest.mark.parametrize("lines", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_lines(tmp_path: Path, lines: int) -> None:
    content = b"".join(b"a lake %d\n\n" % number for number in range(lines))
    assert outcome_of(lambda: read_and_draw(tmp_path, content, ".txt")) == WORKS
    assert len(load_prompts(str(tmp_path / "prompts.txt"))) == lines
    record(WHAT, f"{lines:,} prompts, every other line empty", WORKS)


@pytest.mark.parametrize(
    ("content", "suffix", "complaint"),
    [
        (b"", ".txt", "holds no prompts"),
        (b"\n \n\t\n", ".txt", "holds no prompts"),
        (b"\xef\xbb\xbf", ".txt", "holds no prompts"),
        ("a cat".encode("utf-16"), ".txt", "is not UTF-8 text"),
        ("a cat".encode("utf-16-le"), ".txt", "line 1: the prompt holds NUL characters"),
        (b"a lake\na \xff cat", ".txt", "is not UTF-8 text"),
        (b"a lake\na\0cat", ".txt", "line 2: the prompt holds NUL characters"),
        (b'"a lake"\n"a \\ud800 cat"', ".jsonl", "line 2: character 3 of the prompt is half a surrogate pair"),
        (b"x" * 20_001, ".txt", "line 1: the prompt has 20001 characters, expected at most 20000"),
        (b"[" * 100_000, ".jsonl", "line 1 is not JSON"),
    ],
)  # fmt: skip
def test_errors_of_the_command_line(tmp_path: Path, content: bytes, suffix: str, complaint: str) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    result = stepcredit("sample", "embedded", "--prompts", str(path), "--out", str(tmp_path / "out"))
    assert result.code == 2 and complaint in result.err and result.err.count("\n") == 1, result
    record(WHAT, "hand-written, through the command line", REFUSED)


def test_long_and_unusual_prompts_are_sampled(tmp_path: Path) -> None:
    texts = ["word " * 2000, "x" * 10_000, "<script>alert(1)</script>", "\U0001f600\u202e\x1b[31m", "日本 é"]
    path = tmp_path / "p.txt"
    path.write_text("\ufeff" + "\r\n".join(texts), encoding="utf-8", newline="")
    result = stepcredit(
        "sample", "embedded", "--prompts", str(path), "--steps", "1", "--out", str(tmp_path / "out"), "--guidance", "1"
    )
    assert result.code == 0, result
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [text.strip() for text in texts]
    assert len(list((tmp_path / "out").glob("*.png"))) == len(texts)
    record(WHAT, "10,000 characters, tags, escapes; through the model", WORKS, times=len(texts))


@pytest.mark.parametrize("text", ["a\0b", "\udcff", "x" * 20_001])
def test_prompts_of_the_command_line_are_checked_too(tmp_path: Path, text: str) -> None:
    result = stepcredit("sample", "embedded", "--prompt", text, "--out", str(tmp_path / "out"))
    assert result.code == 2 and result.err.startswith("stepcredit: --prompt: "), result
    record(WHAT, "hand-written, through the command line", REFUSED)


@pytest.mark.parametrize("name", ["a\0b.txt", "x" * 5000 + ".txt", "\ud800.txt", ".txt", "/proc/self/mem.txt"])
def test_impossible_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert outcome_of(lambda: load_prompts(name)) == REFUSED
    record(WHAT, "impossible names", REFUSED)
