import pytest

from stepcredit.report.axes import number, ticks


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.93, -0.61, False, [-0.9, -0.8, -0.7]),
        (1, 3, True, [1, 2, 3]),
        (1, 10, True, [2, 4, 6, 8, 10]),
        (64, 640, True, [100, 200, 300, 400, 500, 600]),
        (0, 3e-7, False, [0, 5e-8, 1e-7, 1.5e-7, 2e-7, 2.5e-7, 3e-7]),
        (5, 5, True, [5]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, whole: bool, expected: list[float]) -> None:
    assert ticks(low, high, whole=whole) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.934217, "−0.9342"),
        (999.0, "999"),
        (25600, "25.6k"),
        (2e6, "2M"),
        (3.456e-5, "3.456e−5"),
        (1e-7, "1e−7"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_numbers_along_an_axis_share_their_form() -> None:
    assert [number(value, like=0.0015) for value in (0.0, 0.0005, 0.001)] == ["0", "0.0005", "0.001"]
