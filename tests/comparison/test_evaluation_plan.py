"""How a comparison file says what its runs are evaluated on after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.comparison.test_protocol import complaint, protocol

from stepcredit.comparison.comparison_file import EvaluateSection
from stepcredit.comparison.evaluation_plan import COMPOSITION_PROMPTS, EvaluationPlan, make_plan
from stepcredit.config import ModelSection, RewardSection, TrainConfig
from stepcredit.errors import InputError
from stepcredit.prompts import prompt_names

SHAPES, COMPOSITION = TrainConfig(), TrainConfig(model=ModelSection(path="embedded-composition"))


def section(**keys: Any) -> EvaluateSection:
    return EvaluateSection.model_validate(keys)


def test_models_of_the_composition_world_are_evaluated_by_default() -> None:
    assert make_plan(None, COMPOSITION) == EvaluationPlan(COMPOSITION_PROMPTS, 1)
    assert make_plan(section(images=2), COMPOSITION) == EvaluationPlan(COMPOSITION_PROMPTS, 2)
    assert make_plan(section(prompts=[]), COMPOSITION) is None
    assert set(COMPOSITION_PROMPTS) <= set(prompt_names())


def test_other_models_are_evaluated_on_the_prompts_that_are_given() -> None:
    assert make_plan(None, SHAPES) is None
    found = make_plan(section(prompts=["animals", "training"], rewards=["warmth"]), SHAPES)
    assert found == EvaluationPlan(("animals", "training"), 1, ("warmth",))
    with pytest.raises(InputError, match="give evaluate"):
        make_plan(section(images=2), SHAPES)


def test_the_protocol_holds_the_plan_and_the_digests_of_its_files(tmp_path: Path) -> None:
    """A comparison that evaluates nothing has no such key, so folders of earlier versions are resumed."""
    assert "evaluate" not in protocol().tree()
    prompts, code = tmp_path / "mine.txt", tmp_path / "mine.py"
    prompts.write_text("a lake\n")
    code.write_text("def dark(images):\n    return -images.mean((1, 2, 3))\n")
    evaluate = {"prompts": ["training", "animals", str(prompts)], "rewards": [f"{code}:dark", "a@http://localhost:1"]}
    tree = protocol(evaluate=evaluate).tree()
    assert tree["evaluate"] == {**evaluate, "images": 1}
    assert set(tree["files"]) == {str(prompts), str(code)}


@pytest.mark.parametrize(
    ("evaluate", "line"),
    [
        ({"prompts": ["animal"]}, "evaluate.prompts: unknown prompt list 'animal' (did you mean 'animals'?)"),
        ({"prompts": ["gone.txt"]}, "evaluate.prompts: no prompt file gone.txt"),
        ({"prompts": ["animals"], "rewards": ["warmt"]}, "evaluate.rewards: unknown reward 'warmt' (did you mean 'wa"),
        ({"images": 2}, "evaluate has no prompts"),
    ],
    ids=str,
)
def test_a_mistake_is_found_before_anything_runs(evaluate: dict[str, Any], line: str) -> None:
    assert complaint(evaluate=evaluate).startswith(line)


def test_held_out_prompts_must_exist_for_every_run(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a lake\n")
    asked = {"evaluate": {"prompts": ["held-out"]}}
    assert protocol(**asked).evaluate == EvaluationPlan(("held-out",), 1)
    other = {"credit.name": "linear", "prompts.source": str(tmp_path / "mine.txt")}
    assert "mine.txt has no held-out list" in complaint(**asked, arms={"uniform": "uniform", "other": other})


def test_rewards_that_a_run_measures_anyway_are_not_asked_for_again() -> None:
    plan = EvaluationPlan(("animals",), 1, ("warmth", "alignment"))
    assert plan.further_rewards(RewardSection(name="warmth")) == ["alignment"]
    mixed = RewardSection.model_validate({"components": [{"name": "warmth"}, {"name": "alignment"}]})
    assert plan.further_rewards(mixed) == []
