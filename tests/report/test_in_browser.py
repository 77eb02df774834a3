"""The pages in a real browser: light and dark, wide and narrow, with mouse, keyboard and without scripts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.comparison.finished import finished_comparison
from tests.report.chromium import Chromium, installed
from tests.report.test_run_page import row, start, write_rows

from stepcredit.comparison.report import write_comparison_report
from stepcredit.report import write_report
from stepcredit.runs.image_grid import save_grid

RED, BLUE = (255, 0, 0), (0, 0, 255)
SCHEMES = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 23, 27)"}
LOW_CONTRAST = """
(() => {
  const channels = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = (color) => {
    const linear = (share) => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = channels(color).map((channel) => linear(channel / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if ((channels(color)[3] ?? 1) === 1) return color;
    }
  };
  for (const closed of document.querySelectorAll("details")) closed.open = true;
  const texts = [...document.body.querySelectorAll("*")].filter((element) => element.getClientRects().length
    && !["SCRIPT", "STYLE", "title"].includes(element.tagName)
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  const low = texts.filter((element) => {
    const style = getComputedStyle(element);
    const shown = light(element.tagName === "text" ? style.fill : style.color), paper = light(behind(element));
    return (Math.max(shown, paper) + 0.05) / (Math.min(shown, paper) + 0.05) < 4.5;
  });
  return [texts.length, low.map((element) => element.outerHTML.slice(0, 80))];
})()
"""
PICTURE = """
(() => {
  const place = document.querySelector(".compare .grids").getBoundingClientRect();
  return {x: place.x + scrollX, y: place.y + scrollY, width: place.width, height: place.height};
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    program = installed()
    if program is None:  # a browser is no Python package: CONTRIBUTING.md says how to get one
        pytest.skip("no Chromium: install Debian's package chromium, or name one in $CHROMIUM")
    with Chromium(program) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of 70 epochs whose grids turn from red to blue, and a comparison of three arms."""
    folder = tmp_path_factory.mktemp("pages")
    run = start(folder / "run", ("stepcredit", "train", "prompts.source=" + "a-very-long-name-" * 20))
    profiles = {name: [1.5, 0.75, 0.75] for name in ("credit_profile", "native_scale", "update_profile")}
    write_rows(run, [row(epoch) | profiles for epoch in range(1, 71)])
    for epoch, color in ((0, RED), (70, BLUE)):
        images = torch.tensor(color).view(1, 3, 1, 1).expand(4, 3, 32, 32) / 255
        save_grid(run.grid_path(epoch), images, ["a circle"] * 4)
    rising = {seed: [0.0, 1.0 + seed / 10, 2.0] for seed in (11, 12, 13)}
    arms = {"uniform": rising, "linear": rising, "third": {seed: [0.0, 2.0, 4.0] for seed in rising}}
    comparison = finished_comparison(folder / "comparison", arms)
    return {"run": write_report(run.path), "comparison": write_comparison_report(comparison.path)}


def pixels(browser: Chromium, *places: float) -> list[tuple[int, ...]]:
    """Colors of the picture at so many hundredths of its width, in its first row of samples."""
    clip = browser.evaluate(PICTURE)
    picture = Image.open(io.BytesIO(browser.screenshot(clip))).convert("RGB")
    return [picture.getpixel((int(picture.width * place / 100), 90)) for place in places]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_a_page_is_whole_readable_and_asks_for_nothing(
    browser: Chromium, pages: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    browser.open(pages[name], width=width, scheme=scheme)
    assert browser.complaints == []
    assert {request for request in browser.requests if not request.startswith("data:")} == {pages[name].as_uri()}
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == SCHEMES[scheme]
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate("[...document.images].every((one) => one.naturalWidth > 0 && one.alt !== '')")
    texts, low = browser.evaluate(LOW_CONTRAST)
    assert texts > 50 and low == []
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "opened"


def test_the_slider_shows_less_or_more_of_the_first_picture(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["run"])
    assert pixels(browser, 10, 40, 60, 85) == [RED, RED, BLUE, BLUE]
    browser.evaluate("document.querySelector('input[type=range]').focus()")
    browser.press("Home")
    assert pixels(browser, 10, 85) == [BLUE, BLUE]
    browser.press("End")
    assert pixels(browser, 10, 85) == [RED, RED]
    for _ in range(30):
        browser.press("ArrowLeft")
    assert pixels(browser, 60, 85) == [RED, BLUE]
    told = "document.querySelector('input[type=range]').getAttribute('aria-valuetext')"
    assert browser.evaluate(told) == "70% Before training"


def test_the_picture_itself_can_be_dragged(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["run"])
    browser.evaluate("document.querySelector('.compare').scrollIntoView()")
    place = browser.evaluate("document.querySelector('.grids').getBoundingClientRect().toJSON()")
    browser.drag(place["x"] + place["width"] / 2, place["x"] + place["width"] / 5, place["y"] + 50)
    assert browser.evaluate("Number(document.querySelector('input[type=range]').value)") == 20
    assert pixels(browser, 10, 40) == [RED, BLUE]


def test_pictures_can_be_put_side_by_side(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["run"])
    browser.evaluate("document.querySelector('input[type=checkbox]').focus()")
    browser.press("Space")
    lefts = browser.evaluate("[...document.images].map((one) => one.getBoundingClientRect().x)")
    assert lefts[0] < lefts[1]
    assert browser.evaluate("getComputedStyle(document.querySelector('figure.left')).clipPath") == "none"


def test_of_several_arms_any_two_are_compared(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["comparison"])
    options = "[...document.querySelector('select').options].map((one) => one.text)"
    names = ["Before training", "uniform, after epoch 3", "linear, after epoch 3", "third, after epoch 3"]
    assert browser.evaluate(options) == names
    assert browser.evaluate("[...document.querySelectorAll('select')].map((one) => one.value)") == [names[0], names[3]]
    browser.evaluate("document.querySelector('select').focus()")
    browser.press("ArrowDown")
    browser.evaluate("document.querySelectorAll('select')[1].focus()")
    browser.press("ArrowUp")
    assert pixels(browser, 30, 70) == [RED, BLUE]


def test_everything_that_moves_is_reached_from_the_keyboard(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["comparison"])
    reached = set()
    for _ in range(25):
        browser.press("Tab")
        reached.add(browser.evaluate("document.activeElement.tagName + (document.activeElement.type ?? '')"))
    assert reached >= {"SELECTselect-one", "INPUTrange", "INPUTcheckbox", "SUMMARY", "DIV", "PRE"}


def test_without_scripts_both_pictures_are_there(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["run"], scripts=False)
    boxes = browser.evaluate("[...document.images].map((one) => one.getBoundingClientRect().toJSON())")
    assert boxes[0]["right"] <= boxes[1]["left"] and all(box["width"] > 100 for box in boxes)
    assert browser.evaluate("document.querySelector('.controls').getClientRects().length") == 0


def test_no_script_but_the_pages_own_is_obeyed(browser: Chromium, pages: dict[str, Path], tmp_path: Path) -> None:
    """The policy stands behind the escaping: what would get into the page is still refused."""
    foreign = (
        "<script>document.title = 'mine'</script><img src='x' onerror='document.title = 1'><style>h1{color:red}</style>"
    )
    page = tmp_path / "page.html"
    page.write_text(pages["run"].read_text().replace("</header>", f"</header>{foreign}"))
    browser.open(page)
    assert browser.evaluate("document.title") == "run · stepcredit"
    assert browser.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(27, 27, 31)"
    assert len([told for told in browser.complaints if "Content Security Policy" in told]) >= 3
    assert pixels(browser, 40, 60) == [RED, BLUE], "the page's own script still runs"
