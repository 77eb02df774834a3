"""A rule takes from the recipe what it has fields for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.credit.test_credit_rules import settling
from torch import Tensor

from stepcredit.config import CreditSection
from stepcredit.credit import CREDIT, SHARED, CreditRule, build_credit
from stepcredit.credit.contribution import Contribution
from stepcredit.credit.contribution_batch_mean import ContributionBatchMean
from stepcredit.credit.linear import Linear
from stepcredit.credit.uniform import Uniform
from stepcredit.errors import InputError
from stepcredit.types import CreditAssigner, Trajectory


@dataclasses.dataclass(frozen=True)
class Option(CreditRule):
    """A rule with an option of its own that has no default."""

    gamma: float
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise InputError(f"gamma is {self.gamma}, expected above 0 and at most 1")

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        powers = self.gamma ** torch.arange(trajectory.steps)
        return advantage.unsqueeze(1) * powers


@pytest.fixture
def option(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    CREDIT.names()
    monkeypatch.setitem(CREDIT._parts, "test-option", Option)
    yield "test-option"


def complaint(name: str, options: dict[str, Any]) -> str:
    with pytest.raises(InputError) as raised:
        build_credit(CreditSection(name=name, options=options))
    return str(raised.value)


def test_the_rules() -> None:
    assert {
        "contribution",
        "contribution-batch-mean",
        "discount",
        "drop-last",
        "group-contrastive",
        "inverse-native-scale",
        "layout-contribution",
        "linear",
        "linear-inverse-scale",
        "noise-weight",
        "relative-change",
        "signal-to-noise",
        "step-size",
        "uniform",
    } <= set(CREDIT.names())


def test_shared_keys_are_keys_of_the_section() -> None:
    assert CreditSection.model_fields.keys() >= SHARED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uniform", Uniform()),
        ("linear", Linear(alpha=0.5)),
        ("contribution", Contribution(window=3, alpha=0.5, clamp=True)),
        ("contribution-batch-mean", ContributionBatchMean(window=3, alpha=0.5, clamp=True)),
    ],
)
def test_a_rule_takes_the_shared_keys_it_has_fields_for(name: str, expected: object) -> None:
    assert build_credit(CreditSection(name=name, window=3, alpha=0.5, clamp=True)) == expected


def test_the_defaults_of_a_rule_are_those_of_the_section() -> None:
    assert build_credit(CreditSection()) == Contribution()
    assert build_credit(CreditSection(name="contribution-batch-mean")) == ContributionBatchMean()
    assert build_credit(CreditSection(name="linear")) == Linear()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("discount", {"gamma": 1.5}, "credit.options.gamma is 1.5, expected above 0 and at most 1: 1 is no discount"),
        ("discount", {"gamma": 0}, "credit.options.gamma is 0, expected above 0 and at most 1: 1 is no discount"),
        ("drop-last", {"k": -1}, "credit.options.k is -1, expected a whole number of steps, 0 or more"),
        ("drop-last", {"k": 1.5}, "credit.options.k is 1.5, expected a whole number of steps, 0 or more"),
        ("drop-last", {"n": 2}, "unknown drop-last option 'n'; known: k"),
        ("noise-weight", {"gamma": 1}, "unknown noise-weight option 'gamma'; known: none"),
    ],
)
def test_options_out_of_range_are_the_user_s_error(name: str, options: dict[str, Any], reason: str) -> None:
    assert complaint(name, options) == reason


def test_rules_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Contribution().window = 3  # type: ignore[misc]


def test_further_options_reach_the_rule(option: str) -> None:
    assert build_credit(CreditSection(name=option, alpha=0.5, options={"gamma": 0.9})) == Option(0.9, 0.5)


def test_what_a_rule_refuses_is_the_user_s_error(option: str) -> None:
    assert complaint(option, {"gamma": 2}) == "gamma is 2, expected above 0 and at most 1"
    assert "missing 1 required positional argument: 'gamma'" in complaint(option, {})


def test_an_unknown_option_names_the_nearest(option: str) -> None:
    expected = "unknown test-option option 'gama' (did you mean 'gamma'?); known: gamma"
    assert complaint(option, {"gama": 1}) == expected
    assert complaint("uniform", {"gamma": 1}) == "unknown uniform option 'gamma'; known: none"


@pytest.mark.parametrize("name", ["contribution", "uniform"])
def test_a_shared_key_is_no_option(name: str) -> None:
    assert complaint(name, {"window": 3}) == "credit.options.window is a key of the section itself: write credit.window"


def test_an_unknown_rule_names_the_nearest() -> None:
    assert complaint("contribtion", {}).startswith("unknown credit rule 'contribtion' (did you mean 'contribution'?)")


MINE = """
from stepcredit.credit import CreditRule, register_credit


@register_credit("{name}")
def late(trajectory, advantage, power=1.0, *, alpha=0.0):
    return advantage[:, None] * (trajectory.timesteps >= 0) * power + alpha


def wrong_shape(trajectory, advantage):
    return advantage


def wrong_type(trajectory, advantage):
    return None


def not_finite(trajectory, advantage):
    return advantage[:, None] / 0 * trajectory.timesteps


def no_advantage(trajectory):
    return None


class Half:
    def __init__(self, size=0.5):
        self.size = size

    def __call__(self, trajectory, advantage):
        return self.size * advantage[:, None].expand(-1, trajectory.steps)


class Incomplete(Half):
    needs_x0 = True
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with rules of the user's own; its registered rule is forgotten afterwards."""
    CREDIT.names()
    monkeypatch.setattr(CREDIT, "_parts", dict(CREDIT._parts))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE.format(name="late"))
    return "mine.py"


def spread(name: str, **keys: Any) -> Tensor:
    rule = build_credit(CreditSection(name=name, **keys), plugins=["mine.py"])
    assert isinstance(rule, CreditAssigner) and rule.needs_x0 and rule.compares_images
    return rule(settling(2, 3), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("name", ["late", "mine.py:late"])
def test_a_function_is_a_rule(mine: str, name: str) -> None:
    result = spread(name, alpha=0.5, options={"power": 2.0})
    assert torch.equal(result, torch.tensor([[2.5], [-1.5]]).expand(2, 3))


def test_an_object_of_a_plain_class_is_a_rule(mine: str) -> None:
    assert torch.equal(spread("mine.py:Half", options={"size": 2.0}), torch.tensor([[2.0], [-2.0]]).expand(2, 3))


@pytest.mark.parametrize(
    ("name", "words"),
    [("wrong_shape", r"\(2,\), .*\(2, 3\)"), ("wrong_type", "NoneType"), ("not_finite", "not finite")],
)
def test_what_a_function_returns_is_checked(mine: str, name: str, words: str) -> None:
    with pytest.raises(InputError, match=f"mine.py:{name}' returned .*{words}"):
        spread(f"mine.py:{name}")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mine.py:late", {"powr": 1}, "option 'powr' .*'power'"),
        ("mine.py:late", {"advantage": 1}, "option 'advantage'"),
        ("mine.py:no_advantage", {}, r"must take \(trajectory, advantage\)"),
        ("mine.py:Incomplete", {}, "needs_x0: derive its class from credit.CreditRule"),
        ("mine.py:lat", {}, "'late'"),
        ("none.py:late", {}, "no file none.py"),
    ],
)
def test_a_rule_that_cannot_be_built(mine: str, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_credit(CreditSection(name=name, options=options))
