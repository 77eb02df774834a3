"""Statistics of scores, cross tables, and their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from stepcredit.evaluation.cross_table import cross_tables
from stepcredit.evaluation.measure import Measurement
from stepcredit.evaluation.prompt_sets import PromptSet
from stepcredit.evaluation.results import prompt_set_results
from stepcredit.evaluation.set_statistics import PerPrompt, PerSet
from stepcredit.evaluation.tables import cross_table, evaluation_table
from stepcredit.types import Prompt


def spread(*values: float | None) -> dict[str, PerPrompt]:
    """The diversity of each prompt."""
    return {"diversity": PerPrompt(values, "one image" if None in values else "")}


BASE = Measurement({"r": torch.tensor([[1.0, 3.0], [5.0, 7.0]])}, spread(0.2, 0.4))
TUNED = Measurement({"r": torch.tensor([[2.0, 4.0], [8.0, 10.0]])}, spread(0.1, 0.1))


def prompt_set(*texts: str) -> PromptSet:
    return PromptSet("mine", "mine.txt", [Prompt(text) for text in texts])


def found() -> dict[str, Any]:
    return prompt_set_results(prompt_set("a", "b"), {"base": BASE, "tuned": TUNED}, 0)


def run(name: str, sets: list[dict[str, Any]], model: str = "embedded") -> dict[str, Any]:
    return {
        "source": name,
        "model": model,
        "trained_on": "r",
        "checkpoint": "epoch_0003",
        "steps": 20,
        "guidance": 1.0,
        "sets": sets,
    }


# Figures


def test_both_sides_and_their_difference() -> None:
    figure = found()["rewards"]["r"]
    assert [figure[side]["mean"] for side in ("base", "tuned", "difference")] == [4, 6, 2]
    # Differences 1, 1, 3, 3: prompt means 1 and 3.
    assert figure["difference"]["standard_error"] == pytest.approx(1)
    # t_{0.975, 1} = 12.706.
    assert figure["difference"]["interval"] == pytest.approx([2 - 12.706, 2 + 12.706], abs=1e-3)
    assert figure["difference"]["method"] == "t"


def test_diversity_falls_when_images_become_similar() -> None:
    figure = found()["diversity"]
    assert [figure[side]["mean"] for side in ("base", "tuned", "difference")] == pytest.approx([0.3, 0.1, -0.2])
    assert figure["difference"]["standard_error"] == pytest.approx(0.1)


def test_counts_and_the_scores_of_every_prompt() -> None:
    result = found()
    assert (result["name"], result["source"], result["prompts"], result["images"]) == ("mine", "mine.txt", 2, 4)
    assert result["by_prompt"][1] == {
        "prompt": "b",
        "base": {"scores": {"r": [5.0, 7.0]}, "diversity": 0.4},
        "tuned": {"scores": {"r": [8.0, 10.0]}, "diversity": 0.1},
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_model_alone_has_no_difference() -> None:
    result = prompt_set_results(prompt_set("a", "b"), {"base": BASE}, 0)
    assert list(result["rewards"]["r"]) == list(result["diversity"]) == ["base"]


def test_prompts_of_equal_text_are_one_cluster() -> None:
    result = prompt_set_results(prompt_set("a", "a"), {"base": BASE}, 0)
    assert result["rewards"]["r"]["base"]["interval"] is None
    assert result["rewards"]["r"]["base"]["warning"]


def test_one_image_per_prompt_has_no_diversity() -> None:
    alone = Measurement({"r": torch.tensor([[1.0], [5.0]])}, spread(None, None))
    result = prompt_set_results(prompt_set("a", "b"), {"base": alone, "tuned": alone}, 0)
    nothing = {"mean": None, "standard_error": None, "interval": None, "warning": "one image"}
    assert result["diversity"] == {"base": nothing, "tuned": nothing, "difference": nothing}


# Statistics of the whole set


def far() -> dict[str, Any]:
    """Results with Fréchet distances."""
    sides = {
        name: Measurement(one.scores, {**one.statistics, "frechet": PerSet(distance, {"frechet_of_renders": 0.5})})
        for name, one, distance in (("base", BASE, 1.5), ("tuned", TUNED, 4.0))
    }
    return prompt_set_results(prompt_set("a", "b"), sides, 0)


def test_a_statistic_of_the_set_has_a_number_for_each_side_and_its_baseline() -> None:
    result = far()
    assert result["frechet"] == {"base": 1.5, "tuned": 4.0, "difference": 2.5}
    assert result["frechet_of_renders"] == 0.5
    assert "frechet" not in result["by_prompt"][0]["base"]
    assert {name: figure for name, figure in result.items() if not name.startswith("frechet")} == found()
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_text_has_the_number_of_each_side_and_the_baseline() -> None:
    lines = evaluation_table(run("a", [far()])).splitlines()
    assert [cell.strip() for cell in lines[6].split("  ") if cell] == [
        "Fréchet distance from renders",
        "1.5",
        "4",
        "+2.5",
    ]
    assert lines[-1].startswith("(Fréchet distance from renders: 0.5 for ")
    assert "renders" not in evaluation_table(run("a", [found()]))


# By tag

TAGS = [Prompt("a", {"tag": "counting"}), Prompt("b", {"tag": "colors"}), Prompt("c"), Prompt("d", {"tag": "counting"})]


def tagged(prompts: list[Prompt] = TAGS) -> dict[str, Any]:
    base = torch.tensor([[1.0, 3.0], [5.0, 7.0], [100.0, 100.0], [2.0, 2.0]])
    sides = {
        "base": Measurement({"r": base, "s": -base}, spread(*[0.1] * 4)),
        "tuned": Measurement({"r": base + 1, "s": base}, spread(*[0.1] * 4)),
    }
    return prompt_set_results(PromptSet("mine", "mine.txt", prompts), sides, 0)


def test_each_tag_has_the_figures_of_its_prompts() -> None:
    by_tag = tagged()["by_tag"]
    assert list(by_tag) == ["counting", "colors"]
    counting, colors = by_tag.values()
    assert (counting["prompts"], counting["images"], colors["prompts"], colors["images"]) == (2, 4, 1, 2)
    assert [counting["rewards"]["r"][side]["mean"] for side in ("base", "tuned", "difference")] == [2, 3, 1]
    assert counting["rewards"]["s"]["base"]["mean"] == -2
    alone = prompt_set("a", "d")
    rows = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert (
        counting["rewards"]["r"]["base"]
        == prompt_set_results(alone, {"base": Measurement({"r": rows}, spread(0.1, 0.1))}, 0)["rewards"]["r"]["base"]
    )
    assert colors["rewards"]["r"]["base"]["warning"], "one prompt has no interval"
    json.dumps(by_tag, allow_nan=False)


def test_without_tags_nothing_is_by_tag() -> None:
    assert found()["by_tag"] == {}
    assert "by tag" not in evaluation_table(run("a", [found()]))


def test_the_text_has_a_table_by_tag_for_each_reward_of_each_set_with_tags() -> None:
    blocks = evaluation_table(run("a", [tagged(), found(), tagged() | {"name": "other"}])).split("\n\n")
    assert [block.partition("\n")[0].partition(" prompt")[0] for block in blocks[1:]] == [
        "mine: 4",
        "mine: r by tag",
        "mine: s by tag",
        "mine: 2",
        "other: 4",
        "other: r by tag",
        "other: s by tag",
    ]
    lines = blocks[2].splitlines()
    assert lines[2].split("  ") == ["counting (4 images)", "2 ± 0", "3 ± 0", "+1 ± 0"]
    assert lines[3].startswith("colors (2 images)")


# Images that pass


def passing() -> dict[str, Any]:
    scores, after = torch.tensor([[0.0, 1.0]] * 4), torch.tensor([[1.0, 1.0]] * 4)
    sides = {
        "base": Measurement({"r": scores, "s": scores}, spread(*[0.1] * 4), {"r": scores >= 1}),
        "tuned": Measurement({"r": after, "s": scores}, spread(*[0.1] * 4), {"r": after >= 1}),
    }
    return prompt_set_results(PromptSet("mine", "mine.txt", TAGS), sides, 0)


def test_pass_rates_of_rewards_with_a_pass_score() -> None:
    result = passing()
    for part in (result, *result["by_tag"].values()):
        assert list(part["pass_rates"]) == ["r"]
        assert [part["pass_rates"]["r"][side]["mean"] for side in ("base", "tuned", "difference")] == [0.5, 1, 0.5]
    assert found()["pass_rates"] == {}


def test_the_text_has_pass_rates_and_a_table_of_them_by_tag() -> None:
    blocks = evaluation_table(run("a", [passing()])).split("\n\n")
    assert [line.split("  ")[0] for line in blocks[1].splitlines()[2:]] == ["r", "s", "r, pass rate", "diversity"]
    assert [block.splitlines()[0] for block in blocks[2:]] == [
        "mine: r by tag",
        "mine: s by tag",
        "mine: r, pass rate by tag",
    ]
    assert blocks[4].splitlines()[2].split("  ") == ["counting (4 images)", "0.5 ± 0", "1 ± 0", "+0.5 ± 0"]


# Runs against rewards


def test_rows_are_runs_and_columns_rewards() -> None:
    other = {**found(), "name": "other"}
    tables = cross_tables([run("a", [found(), other]), run("b", [other | {"source": "b.txt"}], model="sd")])
    assert [table["set"] for table in tables] == ["other"]
    assert tables[0]["rewards"] == ["r"]
    first, second = tables[0]["rows"]
    assert (first["run"], first["trained_on"], first["model"], first["prompts"]) == ("a", "r", "embedded", "mine.txt")
    assert (second["run"], second["model"], second["prompts"]) == ("b", "sd", "b.txt")
    assert first["entries"] == {"r": found()["rewards"]["r"]["difference"]}


def test_the_text_of_a_cross_table_has_a_line_per_run() -> None:
    (table,) = cross_tables([run("a", [found()]), run("runs/b", [found() | {"source": "b.txt"}], model="sd")])
    text = cross_table(table)
    assert [line.split()[:2] for line in text.splitlines()[2:4]] == [["r", "a"], ["r", "runs/b"]]
    assert text.count("+2.0 ± 1.0 [-10.7, +14.7]") == 2
    assert "mine.txt, b.txt" in text and "embedded, sd" in text, "runs on different prompts or models are pointed out"


# Tables


def test_the_text_of_an_evaluation_has_a_line_per_reward() -> None:
    lines = evaluation_table(run("a", [found()])).splitlines()
    assert lines[4].split("  ")[0] == "r" and "+2.0 ± 1.0 [-10.7, +14.7]" in lines[4]
    assert lines[5].startswith("diversity  0.30 ± 0.10 [-0.97, 1.57]") and "0.1 ± 0 " in lines[5]


def test_missing_figures_are_left_out() -> None:
    single = Measurement({"r": torch.tensor([[1.25]])}, spread(None))
    model = run("sd", [prompt_set_results(PromptSet("one", "one", [Prompt("a")]), {"base": single}, 0)])
    lines = evaluation_table(model | {"trained_on": None, "checkpoint": None}).splitlines()
    assert [line.split() for line in lines[3:6]] == [["base"], ["r", "1.25"], ["diversity", "-"]]
