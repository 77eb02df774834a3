"""A rule takes from the recipe what it has fields for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stepcredit.config import CreditSection
from stepcredit.credit import CREDIT, SHARED, build_credit
from stepcredit.credit.contribution import Contribution
from stepcredit.credit.contribution_batch_mean import ContributionBatchMean
from stepcredit.credit.linear import Linear
from stepcredit.credit.uniform import Uniform
from stepcredit.errors import InputError
from stepcredit.types import Trajectory


@dataclasses.dataclass(frozen=True)
class Option:
    """A rule with an option of its own that has no default."""

    gamma: float
    alpha: float = 0.0

    needs_x0 = False

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise InputError(f"gamma is {self.gamma}, expected above 0 and at most 1")

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        powers = self.gamma ** torch.arange(trajectory.steps)
        return advantage.unsqueeze(1) * powers

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}


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
        ("drop-last", {"n": 2}, "unknown drop-last option 'n'; known: alpha, k"),
        ("noise-weight", {"gamma": 1}, "unknown noise-weight option 'gamma'; known: alpha"),
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
    expected = "unknown test-option option 'gama' (did you mean 'gamma'?); known: alpha, gamma"
    assert complaint(option, {"gama": 1}) == expected
    assert complaint("uniform", {"gamma": 1}) == "unknown uniform option 'gamma'; known: none"


@pytest.mark.parametrize("name", ["contribution", "uniform"])
def test_a_shared_key_is_no_option(name: str) -> None:
    assert complaint(name, {"window": 3}) == "credit.options.window is a key of the section itself: write credit.window"


def test_an_unknown_rule_names_the_nearest() -> None:
    assert complaint("contribtion", {}).startswith("unknown credit rule 'contribtion' (did you mean 'contribution'?)")
