import math
from xml.etree import ElementTree

from stepcredit.report.heat import Strip, heat_map, highest, scale


def cells(*strips: Strip, most: float = 2.0) -> list[tuple[str, float]]:
    """What each cell says, and how strong its color is."""
    svg = ElementTree.fromstring(heat_map(strips, most, what="credit"))
    rectangles = [one for one in svg.iter("rect") if one.get("class") == "cell"]
    return [(one[0].text or "", float(one.get("fill-opacity", ""))) for one in rectangles]


def test_a_cell_for_every_epoch_and_step() -> None:
    assert cells(Strip(1, [2.0, 0.5]), Strip(2, [0.0, 1.0])) == [
        ("credit 2, epoch 1, step 0", 1),
        ("credit 0.5, epoch 1, step 1", 0.25),
        ("credit 0, epoch 2, step 0", 0),
        ("credit 1, epoch 2, step 1", 0.5),
    ]


def test_later_epochs_are_lower_and_later_steps_further_right() -> None:
    svg = ElementTree.fromstring(heat_map([Strip(1, [1.0, 1.0]), Strip(2, [1.0, 1.0])], 1.0, what="credit"))
    places = [(float(r.get("x", "")), float(r.get("y", ""))) for r in svg.iter("rect") if r.get("class") == "cell"]
    assert places[0][0] < places[1][0] and places[0][1] == places[1][1]
    assert places[0][1] < places[2][1] and places[0][0] == places[2][0]
    assert [text.text for text in svg.iter("text")] == ["0", "1", "1", "2", "denoising step, epochs downwards"]


def test_missing_values_leave_gaps_and_nothing_is_no_map() -> None:
    assert [told for told, _ in cells(Strip(1, [math.nan, 1.0]), Strip(2, [1.0]))] == [
        "credit 1, epoch 1, step 1",
        "credit 1, epoch 2, step 0",
    ]
    for strips in ([], [Strip(1, [])], [Strip(1, [math.nan])]):
        assert heat_map(strips, 1.0, what="credit") == "" and highest(strips) == 1


def test_of_many_epochs_and_steps_neighbors_are_averaged() -> None:
    found = cells(*(Strip(epoch, [float(epoch % 2)] * 150) for epoch in range(1, 82)))
    assert len(found) == 27 * 75
    assert found[0] == ("credit 0.6667, epochs 1 to 3, steps 0 to 1", 0.333)
    assert found[-1][0] == "credit 0.6667, epochs 79 to 81, steps 148 to 149"


def test_shades_say_what_the_strongest_is() -> None:
    assert highest([Strip(1, [0.5, 2.25])]) == 2.25
    assert scale(2.25).endswith("2.25</span>")


def test_values_out_of_range_are_still_drawn_and_names_escaped() -> None:
    assert [strength for _, strength in cells(Strip(1, [-1.0, 9.0]))] == [0, 1]
    assert "<b>" not in heat_map([Strip(1, [1.0])], 1.0, what="<b>")
