"""Text read in an image against the text asked for: the formula on given readings, then the real OCR engine."""

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
from stepcredit.rewards.text_rendering import TextRendering, target_text

Case = tuple[str, str, float, float]
"""Text read, target, score of `edit-distance`, score of `exact`."""


def scores(
    read: Sequence[str], prompts: Sequence[str], rows: Sequence[dict[str, Any]] = (), **options: Any
) -> list[float]:
    """The scores if OCR reads `read`."""
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
def test_both_modes(read: str, wanted: str, near: float, equal: float) -> None:
    prompt = f'a sign that says "{wanted}"'
    assert scores([read], [prompt]) == pytest.approx([near])
    assert scores([read], [prompt], mode="exact") == [equal]


def test_case_sensitive() -> None:
    assert scores(["open"], ['"OPEN"'], ignore_case=False) == [0.0]
    assert scores(["OPEn"], ['"OPEN"'], ignore_case=False) == [0.75]


def test_each_image_has_its_own_target() -> None:
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
def test_target_text(prompt: str, metadata: dict[str, Any], wanted: str) -> None:
    assert target_text(prompt, metadata) == wanted


@pytest.mark.parametrize(("prompt", "row"), [("a cat", {}), ('a sign with ""', {}), ('"tea"', {"text": " \n"})])
def test_a_prompt_without_target_is_refused_before_any_image_is_read(prompt: str, row: dict[str, Any]) -> None:
    with pytest.raises(RewardError) as raised:
        scores([], ['"fine"', prompt], [{}, row])
    assert repr(prompt) in str(raised.value) and "double quotes" in str(raised.value)


def test_an_unknown_mode() -> None:
    with pytest.raises(InputError, match=r"unknown text_rendering mode 'exct' \(did you mean 'exact'\?\)"):
        TextRendering(mode="exct", read=str)


def test_the_ocr_engine_receives_the_same_pixels_for_every_type_of_image() -> None:
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


@pytest.mark.parametrize("missing", ["rapidocr", "onnxruntime", "rapidfuzz"])
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(InputError) as raised:
        TextRendering()
    assert str(raised.value) == f"text_rendering needs {missing}: pip install 'stepcredit[ocr]'"


def picture(words: str, color: str = "black") -> Tensor:
    """(3,192,192) in [0,1]: words on white."""
    image = Image.new("RGB", (192, 192), "white")
    ImageDraw.Draw(image).text((16, 40), words, fill=color, font=ImageFont.load_default(34))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def test_real_text_with_the_real_ocr_engine(capfd: pytest.CaptureFixture[str]) -> None:
    images = torch.stack([picture("Open late"), picture("Grand\nhotel", "red"), picture("")])
    prompts = ['a sign "open lane"', 'a sign "Grand" "hotel"', 'a sign "open late"']
    assert TextRendering()(images, prompts, [{}] * 3).tolist() == pytest.approx([1 - 1 / 8, 1, 0])
    assert capfd.readouterr() == ("", "")
