"""What curves amount to, on curves whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from tests.comparison.test_protocol import protocol
from torch import Tensor

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.curves import Curve, read_curve
from stepcredit.comparison.learning_rates import Choice
from stepcredit.comparison.results import comparison_findings
from stepcredit.comparison.tables import markdown, printed
from stepcredit.errors import InputError
from stepcredit.stats.power import detectable_difference

REWARD = "jpeg_compressibility"
Rewards = Mapping[int, Sequence[float]]
"""By seed."""


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def curve(rewards: Sequence[float], seconds: float = 1.0, watched: Sequence[float] | None = None) -> Curve:
    """10 queries and `seconds` an epoch."""
    epochs = column(range(1, len(rewards) + 1))
    beside = {} if watched is None else {"alignment": column(watched)}
    return Curve(10 * epochs, column(rewards), beside, seconds * epochs, 0.25 * seconds * epochs)


def findings(arms: Mapping[str, Mapping[int, Curve]], last_epochs: int = 1) -> Any:
    """Of a comparison on one reward whose reference is uniform, through JSON."""
    decided = protocol(arms=stand_ins(arms), criterion={"last_epochs": last_epochs})
    curves = {Cell("fresh", REWARD, arm, 0.01, seed): one for arm, runs in arms.items() for seed, one in runs.items()}
    choices = {(REWARD, arm): Choice(0.01, {0.01: {1: 0.5}, 0.02: {1: 0.25}}) for arm in arms}
    return json.loads(json.dumps(comparison_findings(decided, choices, curves), allow_nan=False))


def stand_ins(names: Iterable[str]) -> dict[str, Any]:
    """Arms of these names, no two alike."""
    return {name: {"credit": {"name": "uniform", "window": place}} for place, name in enumerate(names, 1)}


def arm(uniform: Rewards, other: Rewards, last_epochs: int = 1) -> Any:
    """The findings of the other arm."""
    arms = {"uniform": uniform, "other": other}
    curves = {name: {seed: curve(rewards) for seed, rewards in runs.items()} for name, runs in arms.items()}
    return findings(curves, last_epochs)["rewards"][REWARD]["arms"]["other"]


# Queries to the reference's reward


def test_factor_is_the_references_queries_over_the_arms() -> None:
    found = arm({11: [0, 1, 2, 3]}, {11: [0, 2, 4, 6]})["by_seed"][0]
    assert found["queries_to_reference"] == 25  # reward 3 lies half way between the second and the third epoch
    assert found["factor"] == pytest.approx(40 / 25)


def test_a_reference_that_was_there_earlier_is_not_charged_for_the_rest() -> None:
    """It passed its final reward 1 after 15 queries, then fell: the arm that needs 15 too is worth 1, not 40 / 15."""
    found = arm({11: [0, 2, 3, 1]}, {11: [0, 2, 3, 9]})
    assert found["by_seed"][0]["factor"] == 1
    assert (found["factor"]["above_one"], found["factor"]["of"]) == (0, 1)


def test_an_arm_that_is_never_there_counts_as_nothing_and_is_counted() -> None:
    found = arm({11: [0, 4], 12: [0, 4], 13: [0, 4]}, {11: [0, 2], 12: [0, 8], 13: [0, 3]})
    assert [row["factor"] for row in found["by_seed"]] == [0, pytest.approx(20 / 15), 0]
    assert [row["queries_to_reference"] for row in found["by_seed"]] == [None, 15, None]
    factor = found["factor"]
    assert (factor["median"], factor["never"], factor["above_one"], factor["of"]) == (0, 2, 1, 3)


def test_curves_are_smoothed_as_the_criterion_is() -> None:
    """Trailing means over two epochs: the reference ends at 3, the arm is there between 2 and 6."""
    found = arm({11: [0, 2, 2, 4]}, {11: [0, 4, 8, 8]}, last_epochs=2)
    assert found["final"]["mean"] == 8
    assert found["by_seed"][0]["queries_to_reference"] == 22.5


def test_each_seed_is_measured_against_the_reference_with_the_same_seed() -> None:
    found = arm({11: [0, 1], 12: [10, 11]}, {11: [0, 2], 12: [10, 14]})
    assert [row["queries_to_reference"] for row in found["by_seed"]] == [15, 12.5]
    assert found["difference"]["mean"] == 2
    assert found["difference"]["standard_error"] == pytest.approx(1)
    assert found["final"]["standard_error"] == pytest.approx(6)


def test_a_seed_whose_reference_failed_has_no_factor() -> None:
    found = arm({11: [0, 1]}, {11: [0, 2], 12: [0, 2]})
    assert [row["factor"] for row in found["by_seed"]] == [pytest.approx(20 / 15), None]
    assert found["factor"]["of"] == 1
    assert found["difference"]["remark"].startswith("one seed only")


def test_an_arm_without_any_run_is_a_gap() -> None:
    found = arm({11: [0, 1]}, {})
    assert (found["final"]["mean"], found["factor"]["median"], found["curve"]["queries"]) == (None, None, [])


# Seconds


def test_the_same_in_seconds_asks_what_an_epoch_costs() -> None:
    """Twice the queries' worth, at three times the seconds an epoch."""
    arms = {"uniform": {11: curve([0, 1, 2, 3])}, "other": {11: curve([0, 3, 3, 3], seconds=3)}}
    row = findings(arms)["rewards"][REWARD]["arms"]["other"]["by_seed"][0]
    assert row["factor"] == pytest.approx(40 / 20)
    assert row["seconds_to_reference"] == pytest.approx(6)
    assert row["seconds_factor"] == pytest.approx(4 / 6)


# Faithfulness at matched reward


def test_watched_rewards_are_compared_where_the_arms_have_the_references_reward() -> None:
    """The reference ends with faithfulness 0.4; the arm is there after 15 queries, where its own is half way, 0.8."""
    arms = {
        "uniform": {11: curve([0, 1], watched=[1, 0.4])},
        "other": {11: curve([0, 2], watched=[1, 0.6])},
    }
    found = findings(arms)["rewards"][REWARD]["arms"]
    other = found["other"]["watched"]["alignment"]
    assert other["at_reference"]["mean"] == pytest.approx(0.8)
    assert other["difference"]["mean"] == pytest.approx(0.4)
    assert other["final"]["mean"] == pytest.approx(0.6)
    assert found["uniform"]["watched"]["alignment"]["at_reference"]["mean"] == pytest.approx(0.4)


def test_seeds_that_never_have_the_reward_are_left_out_and_counted() -> None:
    arms = {
        "uniform": {seed: curve([0, 1], watched=[1, 0.4]) for seed in (11, 12)},
        "other": {11: curve([0, 2], watched=[1, 0.6]), 12: curve([0, 0.5], watched=[1, 1])},
    }
    other = findings(arms)["rewards"][REWARD]["arms"]["other"]["watched"]["alignment"]
    assert other["left_out"] == 1
    assert other["at_reference"]["mean"] == pytest.approx(0.8)


# Curves and pairs


def test_the_band_is_the_mean_over_seeds_and_its_interval() -> None:
    band = arm({11: [0, 1]}, {11: [0, 1], 12: [0, 2], 13: [0, 6]})["curve"]
    assert (band["queries"], band["mean"]) == ([10, 20], [0, 3])
    assert (band["low"][0], band["high"][0]) == (0, 0)
    assert 1 <= band["low"][1] < 3 < band["high"][1] <= 6
    alone = arm({11: [0, 1]}, {11: [0, 1]})["curve"]
    assert (alone["low"], alone["high"]) == ([None, None], [None, None])


def test_every_arm_is_compared_with_every_other() -> None:
    rewards = {"uniform": 1.0, "a": 4.0, "b": 9.0}
    found = findings({name: {11: curve([0, end])} for name, end in rewards.items()})["rewards"][REWARD]["differences"]
    assert {(one, other): row["mean"] for one, others in found.items() for other, row in others.items()} == {
        (one, other): rewards[one] - rewards[other] for one in rewards for other in rewards if one != other
    }


def test_every_arm_could_be_the_reference() -> None:
    arms = {"uniform": [0, 1, 2], "a": [0, 2, 2], "b": [0, 4, 4]}
    found = findings({name: {11: curve(rewards)} for name, rewards in arms.items()})["rewards"][REWARD]["factors"]
    medians = {(one, other): row["median"] for one, others in found.items() for other, row in others.items()}
    assert medians == {
        ("uniform", "a"): pytest.approx(20 / 30),
        ("uniform", "b"): 0,
        ("a", "uniform"): pytest.approx(30 / 20),
        ("a", "b"): 0,
        ("b", "uniform"): pytest.approx(30 / 15),
        ("b", "a"): pytest.approx(20 / 15),
    }


# Text


def test_the_tables_say_it_all() -> None:
    arms = {
        "uniform": {seed: curve([0, 1], watched=[1, 0.4]) for seed in (11, 12)},
        "other": {11: curve([0, 2], watched=[1, 0.6]), 12: curve([0, 0.5], watched=[1, 1])},
        "third": {11: curve([0, 3], watched=[1, 0.6])},
    }
    results = findings(arms) | {"failed": ["fresh/jpeg/third/seed-12 failed"], "jobs": 2}
    for text in (printed(results), markdown(results, "stepcredit compare x.yaml")):
        lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
        assert (
            "other 0.01 1.25 ± 0.75 [0.50, 2.00] +0.25 ± 0.75 [-0.50, +1.00] 0.67 [never, 1.33] 1 of 2 1 1 (0.25)"
            in lines
        )
        assert "other 1.33 never 0.67 [never, 1.33]" in lines
        assert "third 1.50 - 1.50" in lines
        assert "queries to the final reward of uniform 11 12" in lines
        assert {"uniform 20 20", "other 15 never", "third 13 -"} <= set(lines)
        assert "other 0.8 +0.4 0.80 ± 0.20 [0.60, 1.00] 1" in lines
        assert "third +2 +1" in lines
        assert "uniform 0.67 [never, 1.33]; 1 of 2 never; 0 of 1" in lines
        assert "third 1.50; 1 of 1 1.20; 1 of 1" in lines
        for remark in (
            "2 seeds only: the interval is too narrow, a t interval is ± 12.71 standard errors",
            "one seed only",
            "it failed: fresh/jpeg/third",
        ):
            assert sum(remark in line for line in lines) >= 1, remark
        assert "an arm that is never there counts as 0" in text.replace("\n", " ")
        assert "share cores" in text.replace("\n", " ") and "2 at a time" in text.replace("\n", " ")
        assert "no learning rate was tuned" not in text


def test_untuned_arms_are_remarked_on() -> None:
    results = findings({"uniform": {11: curve([0, 1])}, "other": {11: curve([0, 2])}})
    for one in results["rewards"][REWARD]["arms"].values():
        one["tuning"]["grid"] = []
    text = printed(results | {"failed": [], "jobs": 1})
    assert "(no learning rate was tuned: an arm may be ahead by its rate alone)" in text
    assert "0.01 (given)" in text


def test_an_arm_that_differs_by_more_than_credit_and_rate_is_remarked_on() -> None:
    results = findings({"uniform": {11: curve([0, 1])}, "other": {11: curve([0, 2])}})
    arms = results["rewards"][REWARD]["arms"]
    arms["other"]["overrides"] |= {"train.learning_rate": 0.1, "train.epochs": 2, "model.path": "embedded-flow"}
    text = printed(results | {"failed": [], "jobs": 1})
    assert "(other differs from uniform by train.epochs, model.path, not by credit and rate alone)" in text
    arms["uniform"]["overrides"] |= {"train.epochs": 2, "model.path": "embedded-flow"}
    assert "differs from" not in printed(results | {"failed": [], "jobs": 1})


def test_a_reference_that_did_not_learn_is_remarked_on() -> None:
    arms = {"uniform": {11: curve([2, 1]), 12: curve([0, 1])}, "other": {11: curve([2, 9]), 12: curve([0, 9])}}
    text = printed(findings(arms) | {"failed": [], "jobs": 1})
    assert "(the reference ends no higher than it began on seed 11: factors say little there)" in text


# Reading runs


def row(epoch: int, **more: Any) -> dict[str, Any]:
    beside = {"reward_components": {"alignment": {"mean": 0.5, "std": 0}, "warmth": {"mean": 1, "std": 0}}}
    return {"epoch": epoch, "reward_queries": 8 * epoch, "reward_mean": epoch / 2, **beside, **more}


def test_scoring_beside_sampling_costs_what_was_waited_for(tmp_path: Any) -> None:
    times = {"seconds_sampling": 1, "seconds_reward": 100, "seconds_waiting": 2, "seconds_training": 3}
    lines = [row(1, **times), row(2, **times)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_curve(tmp_path, ("alignment", "clipscore"), 2)
    assert found.seconds.tolist() == [6, 12]
    assert (found.queries.tolist(), found.rewards.tolist()) == ([8, 16], [0.5, 1])
    assert {name: values.tolist() for name, values in found.watched.items()} == {"alignment": [0.5, 0.5]}


@pytest.mark.parametrize("epochs", [[1], [1, 2, 3], [1, 3], []])
def test_a_run_with_other_epochs_is_not_read_as_finished(tmp_path: Any, epochs: list[int]) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row(epoch)) + "\n" for epoch in epochs))
    with pytest.raises(InputError, match="does not hold 2 epochs"):
        read_curve(tmp_path, (), 2)


# Power


def test_the_difference_that_so_many_seeds_show() -> None:
    """Differences -1, 0, 1: their standard deviation is 1."""
    found = finals(uniform={11: 3, 12: 4, 13: 5}, other={11: 2, 12: 4, 13: 6})
    shown = found["rewards"][REWARD]["detectable"]
    assert shown == pytest.approx(detectable_difference(1.0, 3))
    assert f"(so many seeds show differences of final reward from about {shown:.2g} on)" in printed(told(found))


def test_two_seeds_say_nothing_of_their_spread() -> None:
    found = finals(uniform={11: 12, 12: 13}, other={11: 12, 12: 13})
    assert found["rewards"][REWARD]["detectable"] is None
    assert "so many seeds show differences" not in printed(told(found))


def test_runs_that_failed_leave_the_spread_of_those_that_did_not() -> None:
    """Differences 0, 2, 0, 2 of two arms; 0, 0, 0 and 0, 2, 0 of each and the third, whose last run failed."""
    found = finals(uniform=dict.fromkeys(range(4), 1.0), other={0: 1, 1: 3, 2: 1, 3: 3}, third={0: 1, 1: 1, 2: 1})
    assert found["rewards"][REWARD]["detectable"] == pytest.approx(detectable_difference((4 / 3) ** 0.5, 3))
    apart = finals(uniform={11: 0.0, 12: 1.0, 13: 2.0}, other={14: 0.0, 15: 1.0, 16: 2.0})
    assert apart["rewards"][REWARD]["detectable"] is None


def finals(**arms: Mapping[int, float]) -> Any:
    """Findings of arms with these final rewards by seed."""
    return findings({name: {seed: curve([0, last]) for seed, last in runs.items()} for name, runs in arms.items()})


def told(found: Any) -> Any:
    """With what the command adds."""
    return found | {"failed": [], "jobs": 1}
