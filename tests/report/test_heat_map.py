import math
from xml.etree import ElementTree

from stepcredit.report.heat_map import EpochValues, color_scale, heat_map, highest_cell


def cells(*epochs: EpochValues, maximum: float = 2.0) -> list[tuple[str, float]]:
    """The title and the opacity of each cell."""
    svg = ElementTree.fromstring(heat_map(epochs, maximum, label="credit"))
    rectangles = [one for one in svg.iter("rect") if one.get("class") == "cell"]
    return [(one[0].text or "", float(one.get("fill-opacity", ""))) for one in rectangles]


def test_a_cell_for_every_epoch_and_step() -> None:
    assert cells(EpochValues(1, [2.0, 0.5]), EpochValues(2, [0.0, 1.0])) == [
        ("credit 2, epoch 1, step 0", 1),
        ("credit 0.5, epoch 1, step 1", 0.25),
        ("credit 0, epoch 2, step 0", 0),
        ("credit 1, epoch 2, step 1", 0.5),
    ]


def test_later_epochs_are_lower_and_later_steps_further_right() -> None:
    svg = ElementTree.fromstring(
        heat_map([EpochValues(1, [1.0, 1.0]), EpochValues(2, [1.0, 1.0])], 1.0, label="credit")
    )
    places = [(float(r.get("x", "")), float(r.get("y", ""))) for r in svg.iter("rect") if r.get("class") == "cell"]
    assert places[0][0] < places[1][0] and places[0][1] == places[1][1]
    assert places[0][1] < places[2][1] and places[0][0] == places[2][0]
    assert [text.text for text in svg.iter("text")][:4] == ["0", "1", "1", "2"]


def test_missing_values_leave_gaps() -> None:
    assert [title for title, _ in cells(EpochValues(1, [math.nan, 1.0]), EpochValues(2, [1.0]))] == [
        "credit 1, epoch 1, step 1",
        "credit 1, epoch 2, step 0",
    ]
    for epochs in ([], [EpochValues(1, [])], [EpochValues(1, [math.nan])]):
        assert heat_map(epochs, 1.0, label="credit") == "" and highest_cell(epochs) == 1


def test_neighbors_of_many_epochs_and_steps_are_averaged() -> None:
    found = cells(*(EpochValues(epoch, [float(epoch % 2)] * 150) for epoch in range(1, 82)))
    assert len(found) == 27 * 75
    assert found[0] == ("credit 0.6667, epochs 1 to 3, steps 0 to 1", 0.333)
    assert found[-1][0] == "credit 0.6667, epochs 79 to 81, steps 148 to 149"


def test_the_color_scale_ends_at_the_maximum() -> None:
    assert highest_cell([EpochValues(1, [0.5, 2.25])]) == 2.25
    assert color_scale(2.25).endswith("2.25</span>")


def test_values_out_of_range_are_clipped_and_labels_escaped() -> None:
    assert [strength for _, strength in cells(EpochValues(1, [-1.0, 9.0]))] == [0, 1]
    assert "<b>" not in heat_map([EpochValues(1, [1.0])], 1.0, label="<b>")
