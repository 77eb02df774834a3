"""Evaluation of the fresh runs: executed once, summarized over seeds. `fake_evaluate.py` replaces the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.comparison.faked import FILE, fake_compare, results

from stepcredit.comparison import process_pool
from stepcredit.comparison.evaluation_results import evaluation_results
from stepcredit.comparison.evaluation_tables import evaluation_table
from stepcredit.comparison.evaluations import SetEvaluation, figure_label, read_evaluation
from stepcredit.config import RewardSection
from stepcredit.errors import InputError, StepcreditError

EVALUATED = f"{FILE}rewards: [warmth]\nevaluate: {{prompts: [held-out, animals], images: 2}}\n"
RUNS = 2 * 3 * 2 + 2 * 3
FIGURES = ["rewards.warmth", "pass_rates.warmth", "rewards.alignment", "frechet"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_pool, "POLL_SECONDS", 0.01)
    Path("mine.yaml").write_text(EVALUATED)


def compared(**options: Any) -> Any:
    fake_compare(Path("mine.yaml"), Path("a"), "train.epochs=2", **options)
    return results(Path("a"))["rewards"]["warmth"]["evaluation"]


def test_figures_of_the_fresh_runs_are_summarized_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    held_out, animals = compared()
    assert (held_out["set"], animals["set"], animals["images"]) == ("held-out", "animals", 6)
    uniform, linear = animals["arms"]["uniform"], animals["arms"]["linear"]
    assert list(linear["figures"]) == FIGURES, "without diversity, which is not defined, and without the mixture"
    assert linear["figures"]["rewards.warmth"]["mean"] == 24
    # Seeds 11, 12, 13: standard error 1 / sqrt(3), t_{0.975, 2} = 4.303.
    assert uniform["figures"]["rewards.warmth"]["interval"] == pytest.approx([12 - 2.484, 12 + 2.484], abs=1e-3)
    assert linear["differences"]["rewards.warmth"]["mean"] == 12
    assert linear["differences"]["frechet"]["standard_error"] == pytest.approx(3**-0.5)
    assert [row["tuned"]["frechet"] for row in linear["by_seed"]] == [24, 26, 28]
    assert animals["base"] == [
        {"arms": ["uniform", "linear"], "figures": dict(zip(FIGURES, [1.0, 0.0, 0.5, 2.0], strict=True))}
    ]
    assert animals["baselines"] == {"frechet_of_renders": 0.5}
    said = capsys.readouterr()
    assert f"run  {RUNS + 6}/{RUNS + 6}  evaluation of fresh/warmth/" in said.err
    for text in (said.out, Path("a/summary.md").read_text(), Path("a/report.html").read_text()):
        assert "animals, 6 images" in text and "linear - uniform" in text and "Fréchet distance from renders" in text


def test_finished_evaluations_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared()
    Path("a/runs/fresh/warmth/linear/lr-0.01-clip-0.01/seed-12/evaluation.json").unlink()
    started, start = [], process_pool.ProcessPool._start

    def spy(self: process_pool.ProcessPool, job: Any, slot: int) -> Any:
        started.append(job.name)
        return start(self, job, slot)

    monkeypatch.setattr(process_pool.ProcessPool, "_start", spy)
    assert compared() == first
    assert started == ["evaluation of fresh/warmth/linear/lr-0.01-clip-0.01/seed-12"]


def test_a_failed_evaluation_is_repeated_or_left_out() -> None:
    Path("broken-evaluation").write_text("linear/lr-0.01-clip-0.01/seed-12")
    with pytest.raises(StepcreditError, match=r"evaluation of fresh/\S*/seed-12 failed \(exit 2\): reward 'x' is down"):
        compared()
    assert not Path("a/results.json").exists()
    _, animals = compared(skip_failed=True)
    assert [row["seed"] for row in animals["arms"]["linear"]["by_seed"]] == [11, 13]
    assert animals["arms"]["linear"]["differences"]["rewards.warmth"]["mean"] == 12
    Path("broken-evaluation").unlink()
    _, animals = compared()
    assert [row["seed"] for row in animals["arms"]["linear"]["by_seed"]] == [11, 12, 13]


def test_a_comparison_without_evaluation_has_no_tables_of_it() -> None:
    Path("mine.yaml").write_text(FILE)
    fake_compare(Path("mine.yaml"), Path("a"), "train.epochs=2")
    found = results(Path("a"))
    assert "evaluation" not in found["method"] and "evaluation" not in found["rewards"]["jpeg_compressibility"]
    assert "\n- evaluation: " not in Path("a/summary.md").read_text()


# Reading


def evaluation(**rewards: float) -> str:
    """What `evaluate` writes about a run with these rewards after training."""
    figures = {name: {"base": {"mean": 0.0}, "tuned": {"mean": value}} for name, value in rewards.items()}
    found = {"name": "mine", "prompts": 1, "images": 2, "rewards": figures, "pass_rates": {}}
    return json.dumps({"evaluations": [{"sets": [found]}]})


def read(text: str, reward: dict[str, Any], watch: tuple[str, ...] = ()) -> dict[str, float]:
    Path("found.json").write_text(text)
    (found,) = read_evaluation(Path("found.json"), RewardSection.model_validate(reward), watch)
    return dict(found.tuned)


def test_the_mixture_of_a_reward_and_watched_ones_is_the_reward() -> None:
    text = evaluation(**{"mixture": 1.0, "mixture.warmth": 1.0, "mixture.alignment": 2.0})
    watched = [{"name": "warmth", "standardize": "none"}, {"name": "alignment", "weight": 0, "standardize": "none"}]
    assert read(text, {"components": watched}, ("alignment",)) == {"rewards.warmth": 1, "rewards.alignment": 2}
    whole = {"rewards.mixture": 1, "rewards.warmth": 1, "rewards.alignment": 2}
    assert read(text, {"components": [{"name": "warmth"}, {"name": "alignment"}]}) == whole
    scaled = [{"name": "warmth", "weight": 2, "standardize": "none"}, watched[1]]
    assert read(text, {"components": scaled}, ("alignment",)) == whole


def test_a_single_reward_keeps_its_name() -> None:
    assert read(evaluation(**{"own.py:dark": 1.0}), {"name": "own.py:dark"}) == {"rewards.own.py:dark": 1}
    assert figure_label("rewards.own.py:dark") == "own.py:dark"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"evaluations": [{"sets": [{}]}]}'])
def test_a_damaged_file_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"found\.json") as raised:
        read(text, {"name": "warmth"})
    assert "\n" not in str(raised.value) and "again" in str(raised.value)


# Statistics


def one(base: float, tuned: float, name: str = "mine") -> SetEvaluation:
    return SetEvaluation(name, 1, 2, {"rewards.r": base}, {"rewards.r": tuned}, {})


def test_arms_with_other_base_models_have_base_rows_of_their_own() -> None:
    arms = {
        "a": {1: [one(0.0, 1.0)], 2: [one(0.0, 2.0)]},
        "b": {1: [one(0.5, 1.0)]},
        "c": {2: [one(0.0, 4.0)]},
        "failed": {},
    }
    (found,) = evaluation_results(arms, "a")
    assert [(base["arms"], base["figures"]["rewards.r"]) for base in found["base"]] == [(["a", "c"], 0), (["b"], 0.5)]
    assert list(found["arms"]) == ["a", "b", "c"]
    assert found["arms"]["c"]["differences"]["rewards.r"]["mean"] == 2, "of the seed that both have"
    names = [line[0] for line in evaluation_table("a", found)]
    assert names == ["mine, 2 images", "base model of a, c", "base model of b", "a", "b", "c", "b - a", "c - a"]


def test_arms_are_summarized_without_the_reference() -> None:
    (found,) = evaluation_results({"a": {}, "b": {1: [one(0.0, 1.0)]}}, "a")
    assert found["arms"]["b"]["differences"]["rewards.r"]["mean"] is None
    assert evaluation_table("a", found)[-1] == ["b - a", "-"]
    assert evaluation_results({"a": {}, "b": {}}, "a") == []
