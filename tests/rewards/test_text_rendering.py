"""Text read in an image against the words asked for: the rule on given readings, then the real reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stepcredit.errors import InputError, RewardError
from stepcredit.rewards.core import extras
from stepcredit.rewards.text_rendering import TextRendering, levenshtein, wanted_text

Case = tuple[str, str, float, float]
"""Text read, words wanted, score by edit distance, score by equality."""


def scores(
    read: Sequence[str], prompts: Sequence[str], rows: Sequence[dict[str, Any]] = (), **options: Any
) -> list[float]:
    """What is scored if the pictures are read as `read`."""
    readings = iter(read)
    reward = TextRendering(read=lambda picture: next(readings), **options)
    return reward(torch.zeros(len(read), 3, 4, 4), prompts, rows or [{}] * len(read)).tolist()


@pytest.mark.parametrize(
    ("read", "wanted", "near", "equal"),
    [
        ("HELLO", "HELLO", 1.0, 1.0),
        ("hello", "HELLO", 1.0, 1.0),
        ("HEL\nLO ", " H E L L O", 1.0, 1.0),
        ("HALLO", "HELLO", 0.8, 0.0),
        ("HELL", "HELLO", 0.8, 0.0),
        ("HELLO!", "HELLO", 0.8, 0.0),
        ("", "HELLO", 0.0, 0.0),
        ("a long story of something else", "HI", 0.0, 0.0),
        ("Ｈｅｌｌｏ", "hello", 1.0, 1.0),  # full width letters
        ("STRASSE", "straße", 1.0, 1.0),
    ],
)
def test_both_modes_on_what_was_read(read: str, wanted: str, near: float, equal: float) -> None:
    prompt = f'a sign that says "{wanted}"'
    assert scores([read], [prompt]) == pytest.approx([near])
    assert scores([read], [prompt], mode="exact") == [equal]


def test_case_can_count() -> None:
    assert scores(["open"], ['"OPEN"'], ignore_case=False) == [0.0]
    assert scores(["OPEn"], ['"OPEN"'], ignore_case=False) == [0.75]


def test_each_image_has_its_own_words() -> None:
    assert scores(["one", "two"], ['"one"', '"one"']) == pytest.approx([1, 0], abs=0.4)
    assert scores(["two", "one"], ["x", "x"], [{"text": "two"}, {"text": "two"}], mode="exact") == [1, 0]


@pytest.mark.parametrize(
    ("prompt", "metadata", "wanted"),
    [
        ('a cup with "I love you"', {}, "I love you"),
        ("a cup with “I love you”", {}, "I love you"),
        ('a door with "Room" and "24"', {}, "Room 24"),
        ('a cup with "tea"', {"text": "coffee"}, "coffee"),
        ("the number of the beast", {"text": 666}, "666"),
        ("a cup's handle", {}, ""),
        ('one quote " alone', {}, ""),
    ],
)
def test_the_words_asked_for(prompt: str, metadata: dict[str, Any], wanted: str) -> None:
    assert wanted_text(prompt, metadata) == wanted


@pytest.mark.parametrize(("prompt", "row"), [("a cat", {}), ('a sign with ""', {}), ('"tea"', {"text": " \n"})])
def test_a_prompt_without_words_is_named_before_anything_is_read(prompt: str, row: dict[str, Any]) -> None:
    with pytest.raises(RewardError) as raised:
        scores([], ['"fine"', prompt], [{}, row])
    assert str(raised.value).startswith(f"prompt '{prompt}' asks for no words: put them in double quotes")


def test_another_mode() -> None:
    with pytest.raises(InputError, match=r"unknown text_rendering mode 'exct' \(did you mean 'exact'\?\)"):
        TextRendering(mode="exct", read=str)


def test_the_reader_gets_the_same_8_bits_from_every_kind_of_image() -> None:
    seen: list[np.ndarray] = []

    def read(picture: np.ndarray) -> str:
        seen.append(picture)
        return ""

    images = torch.zeros(1, 3, 2, 5)
    images[:, 0] = 1.0
    pixels = (255 * images).to(torch.uint8)
    for given in (images, images.bfloat16(), pixels, [Image.fromarray(pixels[0].permute(1, 2, 0).numpy())]):
        TextRendering(read=read)(given, ['"x"'], [{}])
    assert len(seen) == 4
    for picture in seen:
        assert picture.shape == (2, 5, 3) and picture.dtype == np.uint8
        assert (picture == [255, 0, 0]).all()


def distance(a: str, b: str) -> int:
    """The definition, in exponential time."""
    if not a or not b:
        return len(a) + len(b)
    change = distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(change, distance(a[1:], b) + 1, distance(a, b[1:]) + 1)


def test_levenshtein_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        lengths = torch.randint(6, (2,), generator=generator).tolist()
        a, b = ("".join("abc"[i] for i in torch.randint(3, (n,), generator=generator)) for n in lengths)
        assert levenshtein(a, b) == distance(a, b)
    assert levenshtein("kitten", "sitting") == 3


@pytest.mark.parametrize("missing", ["rapidocr", "onnxruntime"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(InputError) as raised:
        TextRendering()
    assert str(raised.value) == f"text_rendering needs {missing}: pip install 'stepcredit[ocr]'"


def picture(words: str, color: str = "black") -> Tensor:
    """(3,192,192) in [0,1]: words on white."""
    image = Image.new("RGB", (192, 192), "white")
    ImageDraw.Draw(image).text((16, 40), words, fill=color, font=ImageFont.load_default(34))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def test_real_words_read_by_the_real_reader(capfd: pytest.CaptureFixture[str]) -> None:
    images = torch.stack([picture("Open late"), picture("Grand\nhotel", "red"), picture("")])
    prompts = ['a sign "open lane"', 'a sign "Grand" "hotel"', 'a sign "open late"']
    assert TextRendering()(images, prompts, [{}] * 3).tolist() == pytest.approx([1 - 1 / 8, 1, 0])
    assert capfd.readouterr() == ("", "")
