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
class Discount:
    """A rule with an option of its own."""

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
def discount(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    CREDIT.names()
    monkeypatch.setitem(CREDIT._parts, "test-discount", Discount)
    yield "test-discount"


def complaint(name: str, options: dict[str, Any]) -> str:
    with pytest.raises(InputError) as raised:
        build_credit(CreditSection(name=name, options=options))
    return str(raised.value)


def test_the_rules() -> None:
    assert {"uniform", "linear", "contribution", "contribution-batch-mean"} <= set(CREDIT.names())


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


def test_rules_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Contribution().window = 3  # type: ignore[misc]


def test_further_options_reach_the_rule(discount: str) -> None:
    assert build_credit(CreditSection(name=discount, alpha=0.5, options={"gamma": 0.9})) == Discount(0.9, 0.5)


def test_what_a_rule_refuses_is_the_user_s_error(discount: str) -> None:
    assert complaint(discount, {"gamma": 2}) == "gamma is 2, expected above 0 and at most 1"
    assert "missing 1 required positional argument: 'gamma'" in complaint(discount, {})


def test_an_unknown_option_names_the_nearest(discount: str) -> None:
    expected = "unknown test-discount option 'gama' (did you mean 'gamma'?); known: alpha, gamma"
    assert complaint(discount, {"gama": 1}) == expected
    assert complaint("uniform", {"gamma": 1}) == "unknown uniform option 'gamma'; known: none"


@pytest.mark.parametrize("name", ["contribution", "uniform"])
def test_a_shared_key_is_no_option(name: str) -> None:
    assert complaint(name, {"window": 3}) == "credit.options.window is a key of the section itself: write credit.window"


def test_an_unknown_rule_names_the_nearest() -> None:
    assert complaint("contribtion", {}).startswith("unknown credit rule 'contribtion' (did you mean 'contribution'?)")
