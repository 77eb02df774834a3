"""What a grid of captioned images looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stepcredit.runs import image_grid
from stepcredit.runs.fonts import CaptionFont
from stepcredit.runs.image_grid import _caption, save_grid


def grid(path: Path, images: torch.Tensor, captions: list[str], columns: int = 4) -> np.ndarray:
    save_grid(path, images, captions, columns=columns)
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def box(pixels: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the area of a color."""
    rows, columns = np.nonzero((pixels == color).all(axis=-1))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def red(height: int, width: int) -> torch.Tensor:
    return torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, height, width)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (160, 160)), ((200, 180), (200, 180)), ((512, 384), (256, 192)), ((8, 16), (80, 160))],
)
def test_images_are_drawn_with_160_to_256_pixels(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert box(grid(tmp_path / "a.png", red(*size), [""]), (255, 0, 0)) == shown


def test_small_images_are_enlarged_without_smoothing(tmp_path: Path) -> None:
    checks = (torch.arange(32).view(-1, 1) + torch.arange(32)) % 2
    images = torch.stack([checks, 1 - checks, torch.zeros_like(checks)]).unsqueeze(0).float()
    pixels = grid(tmp_path / "a.png", images, [""])[20:180, 20:180]
    assert set(map(tuple, pixels.reshape(-1, 3).tolist())) == {(255, 0, 0), (0, 255, 0)}


def test_rows_fill_from_the_left_on_a_white_background(tmp_path: Path) -> None:
    pixels = grid(tmp_path / "new" / "a.png", red(32, 32).expand(3, -1, -1, -1), ["a", "b", "c"], columns=2)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels.shape[1] == 20 + 160 + 20 + 160 + 20
    assert (pixels[-20:, 190:] == 255).all()


def test_long_captions_wrap_inside_their_column(tmp_path: Path) -> None:
    images = torch.ones(2, 3, 32, 32)
    text = "a large striped red circle on a blue background at the top\nreward -0.93"
    short, long = grid(tmp_path / "a.png", images, ["x", "x"]), grid(tmp_path / "b.png", images, [text, "x" * 99])
    assert long.shape[0] == short.shape[0] + 3 * 17
    ink: np.ndarray = np.any(long[184:] < 128, axis=(0, 2))
    assert ink[20:180].any() and ink[200:360].any()
    assert not ink[181:199].any() and not ink[361:].any()


@pytest.mark.parametrize("text", ["Übergröße naïve", "一只猫", "", "\n\nreward 1"])
def test_captions_may_have_any_characters(tmp_path: Path, text: str) -> None:
    assert grid(tmp_path / "a.png", red(32, 32), [text]).size


def test_values_out_of_range_are_clipped(tmp_path: Path) -> None:
    images = torch.tensor([2.0, -1.0, float("nan")], dtype=torch.bfloat16).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert box(grid(tmp_path / "a.png", images, [""]), (255, 0, 0)) == (160, 160)


def test_the_same_grid_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_grid(tmp_path / name, red(32, 32), ["caption"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


# Images that pass and images that fail


def lines(caption: str, passed: bool | None) -> list[str]:
    return [line for line, _ in _caption(caption, 160, CaptionFont([caption], 13), passed)]


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance of WCAG 2.1."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_captions_are_green_or_red(tmp_path: Path) -> None:
    images, captions = torch.ones(2, 3, 32, 32), ["a circle\n0.5", "a circle\n0.5"]
    save_grid(tmp_path / "a.png", images, captions, passed=torch.tensor([True, False]))
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture).astype(int)[184:]
    left, right = pixels[:, 20:180].reshape(-1, 3), pixels[:, 200:360].reshape(-1, 3)
    green, red_ink = (part[part.sum(1).argmin()] for part in (left, right))
    assert green[1] > green[0] + 50 and green[1] > green[2] + 30
    assert red_ink[0] > red_ink[1] + 100 and red_ink[0] > red_ink[2] + 100


@pytest.mark.parametrize("color", [image_grid._PASSED, image_grid._FAILED])
def test_both_colors_can_be_read_on_white(color: tuple[int, int, int]) -> None:
    assert 1.05 / (luminance(color) + 0.05) >= 4.5


def test_a_mark_before_the_score_says_the_same_without_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaptionFont, "has", lambda self, text: True)
    assert lines("a circle\n1.000", True) == ["a circle", "✓ 1.000"]
    assert lines("a circle\n0.500", False) == ["a circle", "✗ 0.500"]
    assert lines("a circle", True) == ["✓ a circle"] and lines("", False) == ["✗"]


def test_words_stand_in_for_marks_that_no_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaptionFont, "has", lambda self, text: False)
    assert lines("a circle\n1.000", True) == ["a circle", "pass 1.000"]
    assert lines("a circle\n0.500", False) == ["a circle", "fail 0.500"]


def test_without_outcomes_captions_stay_as_they_are() -> None:
    assert lines("a circle\n1.000", None) == ["a circle", "1.000"]


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match=r"\(32, 32, 3\)"):
        save_grid(path, torch.zeros(32, 32, 3), [""])
    with pytest.raises(ValueError, match="N >= 1"):
        save_grid(path, torch.zeros(0, 3, 32, 32), [])
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        save_grid(path, red(32, 32), ["", ""])
    with pytest.raises(ValueError, match="columns is 0"):
        save_grid(path, red(32, 32), [""], columns=0)
    with pytest.raises(ValueError, match=r"passed has shape \(2,\)"):
        save_grid(path, red(32, 32), [""], passed=torch.tensor([True, False]))
    assert not path.exists()
