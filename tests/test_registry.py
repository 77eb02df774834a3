"""Registries find parts by looking, and building a part names what is wrong with its options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stepcredit.errors import InputError
from stepcredit.plugins import load_plugin
from stepcredit.registry import Registry, construct, option_names

PACKAGE = "from stepcredit.registry import Registry\n\nPARTS = Registry('gadget', '{name}')\n"
PART = "from {package} import PARTS\n\n\n@PARTS.register('{name}')\ndef part(size=1):\n    return size\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package with a registry and the parts `gear` and `wheel`, each in a file of its own."""
    name = "stepcredit_gadgets"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE.format(name=name))
    for part in ("wheel", "gear"):
        (folder / f"{part}.py").write_text(PART.format(package=name, name=part))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [key for key in sys.modules if key.split(".")[0] == name]:
        del sys.modules[module]


def parts(package: str) -> Registry[Any]:
    registry: Registry[Any] = __import__(package).PARTS
    return registry


def test_modules_are_imported_at_the_first_look_up_only(package: str) -> None:
    registry = parts(package)
    assert f"{package}.gear" not in sys.modules
    assert registry.names() == ["gear", "wheel"]
    assert f"{package}.gear" in sys.modules


def test_get_returns_the_registered_part(package: str) -> None:
    assert parts(package).get("wheel")(size=3) == 3


def test_a_part_may_come_from_outside_the_package(package: str) -> None:
    registry = parts(package)
    part = partial(int)
    assert registry.register("mine")(part) is part
    assert registry.get("mine") is part
    assert registry.names() == ["gear", "mine", "wheel"]


def test_unknown_part_names_the_nearest(package: str) -> None:
    with pytest.raises(InputError, match=r"^unknown gadget 'whel' \(did you mean 'wheel'\?\); known: gear, wheel$"):
        parts(package).get("whel")


def test_a_name_is_taken_once(package: str) -> None:
    registry = parts(package)
    part = partial(int)
    registry.register("same")(part)
    registry.register("same")(part)
    with pytest.raises(InputError, match="gadget 'same'"):
        registry.register("same")(partial(int))


@pytest.mark.parametrize("name", [print, 3, None, "", " ", "a\nb"])
def test_what_is_not_a_name_is_refused_and_forgotten(package: str, name: Any) -> None:
    """`@register` without parentheses passes the function as the name."""
    registry = parts(package)
    with pytest.raises(InputError, match="gadget is registered as"):
        registry.register(name)
    assert registry.names() == ["gear", "wheel"]


def test_what_cannot_be_called_is_refused(package: str) -> None:
    with pytest.raises(InputError, match="gadget 'mine' is 3"):
        parts(package).register("mine")(3)


def test_an_error_about_a_name_taken_twice_has_both_places(package: str, tmp_path: Path) -> None:
    registry = parts(package)
    registry.names()
    (tmp_path / "mine.py").write_text(PART.format(package=package, name="gear"))
    with pytest.raises(InputError) as raised:
        load_plugin(str(tmp_path / "mine.py"))
    message = str(raised.value)
    assert "gadget 'gear'" in message and "\n" not in message
    assert f"{tmp_path / package / 'gear.py'}, line 4" in message and f"{tmp_path / 'mine.py'}, line 4" in message


def test_a_plugin_loaded_first_cannot_take_a_name_of_the_package(package: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PART.format(package=package, name="gear"))
    with pytest.raises(InputError, match=r"gadget 'gear' .*gear\.py, line 4 and in .*mine\.py, line 4"):
        load_plugin(str(tmp_path / "mine.py"))
    assert parts(package).names() == ["gear", "wheel"]


def test_defining_a_part_again_replaces_it(package: str) -> None:
    """As when a notebook runs a cell a second time."""
    registry = parts(package)
    cell = "@registry.register('mine')\ndef mine():\n    return {}\n"
    for value in (1, 2):
        exec(cell.format(value), {"registry": registry, "__name__": "__main__"})  # noqa: S102
    assert registry.get("mine")() == 2


def test_plugins_are_loaded_for_an_unknown_name_only(package: str, tmp_path: Path) -> None:
    registry, plugin = parts(package), tmp_path / "mine.py"
    plugin.write_text(PART.format(package=package, name="mine"))
    registry.get("gear", [str(plugin)])
    assert registry.names() == ["gear", "wheel"]
    assert registry.get("mine", [str(plugin)])(size=4) == 4
    with pytest.raises(InputError, match=r"unknown gadget 'mime' .*'mine'"):
        registry.get("mime", [str(plugin)])


def test_a_file_and_a_name_work_like_a_registered_name(package: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def part(size=1):\n    return size\n")
    assert parts(package).get(f"{tmp_path}/mine.py:part")(size=5) == 5


def test_a_broken_module_is_reported_at_every_look_up(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "aaa.py").write_text("import no_such_module_anywhere\n")
    registry = parts(package)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            registry.get("wheel")


@dataclass(frozen=True)
class Gear:
    teeth: int
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.teeth < 1:
            raise ValueError(f"teeth is {self.teeth},\nexpected at least 1")


def test_construct_passes_the_options() -> None:
    assert construct(Gear, "gear", {"teeth": 3, "ratio": 2.0}) == Gear(3, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teeth": 3, "ratoi": 2}, "unknown gear option 'ratoi' (did you mean 'ratio'?); known: ratio, teeth"),
        ({}, "cannot build gear: Gear.__init__() missing 1 required positional argument: 'teeth'"),
        ({"teeth": 0}, "cannot build gear: teeth is 0, expected at least 1"),
        ({"teeth": "x"}, "cannot build gear: '<' not supported between instances of 'str' and 'int'"),
    ],
)
def test_construct_says_in_one_line_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        construct(Gear, "gear", options)
    assert str(raised.value) == message


def test_construct_lets_other_errors_through() -> None:
    def broken() -> None:
        raise FileNotFoundError("weights")

    with pytest.raises(FileNotFoundError):
        construct(broken, "broken", {})


def test_construct_of_a_factory_that_takes_anything() -> None:
    def factory(**options: int) -> dict[str, int]:
        return options

    assert construct(factory, "anything", {"a": 1}) == {"a": 1}


def test_option_names_are_those_given_by_keyword() -> None:
    def factory(a: int, /, b: int, *rest: int, c: int = 0, **more: int) -> None: ...

    assert option_names(factory) == ["b", "c"]


def test_a_file_without_a_name_in_it_is_explained(package: str) -> None:
    with pytest.raises(InputError, match=r"mine\.py is a file: write mine\.py:NAME, with the name of the gadget in it"):
        parts(package).get("mine.py")
