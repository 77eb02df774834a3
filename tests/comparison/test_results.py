"""Statistics of a comparison, on curves with known results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from tests.comparison.test_protocol import protocol
from torch import Tensor

from stepcredit.comparison import tables
from stepcredit.comparison.cells import Cell
from stepcredit.comparison.curves import Curve, read_curve
from stepcredit.comparison.results import comparison_results
from stepcredit.comparison.settings import Setting
from stepcredit.comparison.tuning import Choice
from stepcredit.errors import InputError
from stepcredit.stats.power import detectable_difference

REWARD = "jpeg_compressibility"
Rewards = Mapping[int, Sequence[float]]
"""By seed."""


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def curve(rewards: Sequence[float], seconds: float = 1.0, watched: Sequence[float] | None = None) -> Curve:
    """A curve with 10 queries and `seconds` per epoch."""
    epochs = column(range(1, len(rewards) + 1))
    others = {} if watched is None else {"alignment": column(watched)}
    return Curve(10 * epochs, column(rewards), others, seconds * epochs, 0.25 * seconds * epochs)


def results(arms: Mapping[str, Mapping[int, Curve]], last_epochs: int = 1) -> Any:
    """The results of a comparison on one reward with reference uniform, written to JSON and read again."""
    made = protocol(arms=stand_ins(arms), criterion={"last_epochs": last_epochs})
    curves = {
        Cell("fresh", REWARD, arm, 0.01, seed, 0.05): one for arm, runs in arms.items() for seed, one in runs.items()
    }
    choices = {
        (REWARD, arm): Choice(
            Setting(0.01, 0.05),
            {Setting(rate, clip): {1: rate - clip} for rate in (0.01, 0.02) for clip in (0.05, 0.1)},
        )
        for arm in arms
    }
    return json.loads(json.dumps(comparison_results(made, choices, curves), allow_nan=False))


def stand_ins(names: Iterable[str]) -> dict[str, Any]:
    """Arms of these names, all different."""
    return {name: {"credit": {"name": "uniform", "window": place}} for place, name in enumerate(names, 1)}


def arm(uniform: Rewards, other: Rewards, last_epochs: int = 1) -> Any:
    """The results of the other arm."""
    arms = {"uniform": uniform, "other": other}
    curves = {name: {seed: curve(rewards) for seed, rewards in runs.items()} for name, runs in arms.items()}
    return results(curves, last_epochs)["rewards"][REWARD]["arms"]["other"]


# Queries to the reference's reward


def test_factor_is_the_queries_of_the_reference_over_those_of_the_arm() -> None:
    found = arm({11: [0, 1, 2, 3]}, {11: [0, 2, 4, 6]})["by_seed"][0]
    assert found["queries_to_reference"] == 25  # reward 3 lies half way between the second and the third epoch
    assert found["factor"] == pytest.approx(40 / 25)


def test_the_reference_counts_until_it_first_reaches_its_final_reward() -> None:
    """It reaches its final reward 1 after 15 queries and then falls. An arm that needs 15 has factor 1, not 40 / 15."""
    found = arm({11: [0, 2, 3, 1]}, {11: [0, 2, 3, 9]})
    assert found["by_seed"][0]["factor"] == 1
    assert (found["factor"]["above_one"], found["factor"]["of"]) == (0, 1)


def test_an_arm_that_never_reaches_the_reference_has_factor_0() -> None:
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
    assert found["difference"]["interval"] is None


def test_an_arm_without_runs_has_no_figures() -> None:
    found = arm({11: [0, 1]}, {})
    assert (found["final"]["mean"], found["factor"]["median"], found["curve"]["queries"]) == (None, None, [])


# Seconds


def test_the_factor_in_seconds_depends_on_the_cost_of_an_epoch() -> None:
    """Half the queries, at three times the seconds per epoch."""
    arms = {"uniform": {11: curve([0, 1, 2, 3])}, "other": {11: curve([0, 3, 3, 3], seconds=3)}}
    row = results(arms)["rewards"][REWARD]["arms"]["other"]["by_seed"][0]
    assert row["factor"] == pytest.approx(40 / 20)
    assert row["seconds_to_reference"] == pytest.approx(6)
    assert row["seconds_factor"] == pytest.approx(4 / 6)


# Watched rewards


def test_watched_rewards_are_compared_at_matched_reward() -> None:
    """The reference ends at 0.4. The arm has the same reward after 15 queries, halfway between 1 and 0.6: 0.8."""
    arms = {
        "uniform": {11: curve([0, 1], watched=[1, 0.4])},
        "other": {11: curve([0, 2], watched=[1, 0.6])},
    }
    found = results(arms)["rewards"][REWARD]["arms"]
    other = found["other"]["watched"]["alignment"]
    assert other["at_reference"]["mean"] == pytest.approx(0.8)
    assert other["difference"]["mean"] == pytest.approx(0.4)
    assert other["final"]["mean"] == pytest.approx(0.6)
    assert found["uniform"]["watched"]["alignment"]["at_reference"]["mean"] == pytest.approx(0.4)


def test_seeds_that_never_reach_the_reference_are_left_out() -> None:
    arms = {
        "uniform": {seed: curve([0, 1], watched=[1, 0.4]) for seed in (11, 12)},
        "other": {11: curve([0, 2], watched=[1, 0.6]), 12: curve([0, 0.5], watched=[1, 1])},
    }
    other = results(arms)["rewards"][REWARD]["arms"]["other"]["watched"]["alignment"]
    assert other["left_out"] == 1
    assert other["at_reference"]["mean"] == pytest.approx(0.8)


# Curves and pairs


def test_the_curve_is_the_mean_over_seeds_with_its_interval() -> None:
    band = arm({11: [0, 1]}, {11: [0, 1], 12: [0, 2], 13: [0, 6]})["curve"]
    assert (band["queries"], band["mean"]) == ([10, 20], [0, 3])
    assert (band["low"][0], band["high"][0]) == (0, 0)
    # t_{0.975, 2} = 4.3027 and the standard error of 1, 2 and 6 is sqrt(7 / 3).
    assert (band["low"][1], band["high"][1]) == pytest.approx((3 - 6.5724, 3 + 6.5724), abs=1e-3)
    single = arm({11: [0, 1]}, {11: [0, 1]})["curve"]
    assert (single["low"], single["high"]) == ([None, None], [None, None])


def test_differences_of_every_pair() -> None:
    rewards = {"uniform": 1.0, "a": 4.0, "b": 9.0}
    found = results({name: {11: curve([0, end])} for name, end in rewards.items()})["rewards"][REWARD]["differences"]
    assert {(one, other): row["mean"] for one, others in found.items() for other, row in others.items()} == {
        (one, other): rewards[one] - rewards[other] for one in rewards for other in rewards if one != other
    }


def test_factors_of_every_pair() -> None:
    arms = {"uniform": [0, 1, 2], "a": [0, 2, 2], "b": [0, 4, 4]}
    found = results({name: {11: curve(rewards)} for name, rewards in arms.items()})["rewards"][REWARD]["factors"]
    medians = {(one, other): row["median"] for one, others in found.items() for other, row in others.items()}
    assert medians == {
        ("uniform", "a"): pytest.approx(20 / 30),
        ("uniform", "b"): 0,
        ("a", "uniform"): pytest.approx(30 / 20),
        ("a", "b"): 0,
        ("b", "uniform"): pytest.approx(30 / 15),
        ("b", "a"): pytest.approx(20 / 15),
    }


# Tables


def lines_of(text: str) -> list[str]:
    """The lines of a table with one space between cells."""
    return [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]


def test_the_tables_hold_every_figure() -> None:
    arms = {
        "uniform": {seed: curve([0, 1], watched=[1, 0.4]) for seed in (11, 12)},
        "other": {11: curve([0, 2], watched=[1, 0.6]), 12: curve([0, 0.5], watched=[1, 1])},
        "third": {11: curve([0, 3], watched=[1, 0.6])},
    }
    found = complete(results(arms)) | {"failed": ["fresh/jpeg/third/seed-12 failed"]}
    for lines in (lines_of(tables.text(found)), lines_of(tables.markdown(found, "stepcredit compare x.yaml"))):
        final, difference = "1.25 ± 0.75 [-8.28, 10.78]", "+0.25 ± 0.75 [-9.28, +9.78]"
        assert f"other 0.01 0.05 {final} {difference} 0.67 [never, 1.33] 1 of 2 1 1 (0.25)" in lines
        assert "other 1.33 never 0.67 [never, 1.33]" in lines, "factors by seed"
        assert "third 1.50 - 1.50" in lines
        assert {"uniform 20 20", "other 15 never", "third 13 -"} <= set(lines), "queries by seed"
        assert "other 0.8 +0.4 0.80 ± 0.20 [-1.74, 3.34] 1" in lines, "watched reward"
        assert "third +2 +1" in lines, "differences of pairs"
        assert "uniform 0.67 [never, 1.33]; 1 of 2 never; 0 of 1" in lines, "factors of pairs"
        assert "third 1.50; 1 of 1 1.20; 1 of 1" in lines
        assert any("fresh/jpeg/third/seed-12 failed" in line for line in lines)


def caveats(found: Any) -> str:
    return "\n".join(tables.caveats(found, found["rewards"][REWARD]))


def test_untuned_arms_have_a_caveat() -> None:
    found = complete(results({"uniform": {11: curve([0, 1])}, "other": {11: curve([0, 2])}}))
    assert "tuned" not in caveats(found)
    for one in found["rewards"][REWARD]["arms"].values():
        one["tuning"]["grid"] = []
    assert "no learning rate was tuned" in caveats(found) and "no clip range was tuned" in caveats(found)
    assert "0.01 (not tuned)" in tables.text(found)


def test_an_arm_with_other_overrides_than_credit_and_rate_has_a_caveat() -> None:
    found = complete(results({"uniform": {11: curve([0, 1])}, "other": {11: curve([0, 2])}}))
    arms = found["rewards"][REWARD]["arms"]
    arms["other"]["overrides"] |= {
        "train.learning_rate": 0.1,
        "train.clip_range": 1,
        "train.epochs": 2,
        "model.path": "embedded-flow",
    }
    assert "other differs from uniform by train.epochs, model.path" in caveats(found)
    arms["uniform"]["overrides"] |= {"train.epochs": 2, "model.path": "embedded-flow"}
    assert "differs from" not in caveats(found)


def test_a_reference_that_did_not_improve_has_a_caveat() -> None:
    arms = {"uniform": {11: curve([2, 1]), 12: curve([0, 1])}, "other": {11: curve([2, 9]), 12: curve([0, 9])}}
    assert "on seed 11 the reference" in caveats(complete(results(arms)))


def test_a_reference_with_one_epoch_has_a_caveat_instead_of_equal_speed_ups() -> None:
    arms = {"uniform": {11: curve([2])}, "other": {11: curve([2])}}
    found = caveats(complete(results(arms)))
    assert "raise train.epochs" in found and "speed-ups mean little" not in found


# Reading runs


def row(epoch: int, **more: Any) -> dict[str, Any]:
    components = {"reward_components": {"alignment": {"mean": 0.5, "std": 0}, "warmth": {"mean": 1, "std": 0}}}
    return {"epoch": epoch, "reward_queries": 8 * epoch, "reward_mean": epoch / 2, **components, **more}


def test_overlapped_scoring_costs_only_the_waiting_time(tmp_path: Any) -> None:
    times = {"seconds_sampling": 1, "seconds_reward": 100, "seconds_waiting": 2, "seconds_training": 3}
    lines = [row(1, **times), row(2, **times)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_curve(tmp_path, ("alignment", "clipscore"), 2)
    assert found.seconds.tolist() == [6, 12]
    assert (found.queries.tolist(), found.rewards.tolist()) == ([8, 16], [0.5, 1])
    assert {name: values.tolist() for name, values in found.watched.items()} == {"alignment": [0.5, 0.5]}


@pytest.mark.parametrize("epochs", [[1], [1, 2, 3], [1, 3], []])
def test_a_run_with_other_epochs_is_refused(tmp_path: Any, epochs: list[int]) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row(epoch)) + "\n" for epoch in epochs))
    with pytest.raises(InputError, match="does not hold 2 epochs"):
        read_curve(tmp_path, (), 2)


# Detectable difference


def test_the_detectable_difference() -> None:
    """Differences -1, 0, 1: their standard deviation is 1."""
    found = finals(uniform={11: 3, 12: 4, 13: 5}, other={11: 2, 12: 4, 13: 6})
    shown = found["rewards"][REWARD]["detectable"]
    assert shown == pytest.approx(detectable_difference(1.0, 3))
    assert f"{shown:.2g}" in caveats(complete(found))


def test_two_seeds_have_no_detectable_difference() -> None:
    found = finals(uniform={11: 12, 12: 13}, other={11: 12, 12: 13})
    assert found["rewards"][REWARD]["detectable"] is None


def test_failed_runs_do_not_count_for_the_detectable_difference() -> None:
    """Differences 0, 2, 0, 2 of the first two arms; 0, 0, 0 and 0, 2, 0 with the third, whose last run failed."""
    found = finals(uniform=dict.fromkeys(range(4), 1.0), other={0: 1, 1: 3, 2: 1, 3: 3}, third={0: 1, 1: 1, 2: 1})
    assert found["rewards"][REWARD]["detectable"] == pytest.approx(detectable_difference((4 / 3) ** 0.5, 3))
    disjoint = finals(uniform={11: 0.0, 12: 1.0, 13: 2.0}, other={14: 0.0, 15: 1.0, 16: 2.0})
    assert disjoint["rewards"][REWARD]["detectable"] is None


def finals(**arms: Mapping[int, float]) -> Any:
    """The results of arms with these final rewards by seed."""
    return results({name: {seed: curve([0, last]) for seed, last in runs.items()} for name, runs in arms.items()})


def complete(found: Any) -> Any:
    """The results with the entries that the command adds."""
    return found | {"failed": [], "jobs": 2}
