"""What scores amount to: figures, cross tables, and how they are printed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from stepcredit.evaluation.cross_table import cross_tables
from stepcredit.evaluation.measure import Measured, PromptSet
from stepcredit.evaluation.results import ONE_IMAGE, findings
from stepcredit.evaluation.tables import cross_text, evaluation_text
from stepcredit.types import Prompt

BASE = Measured({"r": torch.tensor([[1.0, 3.0], [5.0, 7.0]])}, [0.2, 0.4])
TUNED = Measured({"r": torch.tensor([[2.0, 4.0], [8.0, 10.0]])}, [0.1, 0.1])


def prompt_set(*texts: str) -> PromptSet:
    return PromptSet("mine", "mine.txt", [Prompt(text) for text in texts])


def found() -> dict[str, Any]:
    return findings(prompt_set("a", "b"), {"base": BASE, "tuned": TUNED}, 0)


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
    assert figure["difference"]["interval"] == [1, 3]
    assert (
        figure["difference"]["remark"]
        == "2 prompts only: the interval is too narrow, a t interval is ± 12.71 standard errors"
    )


def test_diversity_falls_where_images_become_alike() -> None:
    figure = found()["diversity"]
    assert [figure[side]["mean"] for side in ("base", "tuned", "difference")] == pytest.approx([0.3, 0.1, -0.2])
    assert figure["difference"]["standard_error"] == pytest.approx(0.1)


def test_numbers_and_every_prompt() -> None:
    told = found()
    assert (told["name"], told["source"], told["prompts"], told["images"]) == ("mine", "mine.txt", 2, 4)
    assert told["by_prompt"][1] == {
        "prompt": "b",
        "base": {"scores": {"r": [5.0, 7.0]}, "diversity": 0.4},
        "tuned": {"scores": {"r": [8.0, 10.0]}, "diversity": 0.1},
    }
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_model_alone_has_no_difference() -> None:
    told = findings(prompt_set("a", "b"), {"base": BASE}, 0)
    assert list(told["rewards"]["r"]) == list(told["diversity"]) == ["base"]


def test_prompts_of_equal_text_are_one_cluster() -> None:
    told = findings(prompt_set("a", "a"), {"base": BASE}, 0)
    assert told["rewards"]["r"]["base"]["interval"] is None
    assert told["rewards"]["r"]["base"]["remark"].startswith("one prompt only")


def test_one_image_per_prompt_has_no_diversity_and_says_why() -> None:
    alone = Measured({"r": torch.tensor([[1.0], [5.0]])}, [None, None])
    told = findings(prompt_set("a", "b"), {"base": alone, "tuned": alone}, 0)
    nothing = {"mean": None, "standard_error": None, "interval": None, "remark": ONE_IMAGE}
    assert told["diversity"] == {"base": nothing, "tuned": nothing, "difference": nothing}


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


def test_a_cross_table_reads() -> None:
    (table,) = cross_tables([run("a", [found()]), run("runs/b", [found() | {"source": "b.txt"}], model="sd")])
    assert cross_text(table).splitlines() == [
        "tuned - base on mine prompts",
        "trained on  run     model     r",
        "r           a       embedded  +2.0 ± 1.0 [+1.0, +3.0]",
        "r           runs/b  sd        +2.0 ± 1.0 [+1.0, +3.0]",
        "prompts differ by run: mine.txt, b.txt",
        "models differ by run: embedded, sd; each entry is against its own base",
        "(2 prompts only: the interval is too narrow, a t interval is ± 12.71 standard errors)",
    ]
    (alike,) = cross_tables([run("a", [found()]), run("b", [found()])])
    assert "differ" not in cross_text(alike)


# Tables


def test_an_evaluation_reads() -> None:
    assert evaluation_text(run("a", [found()])).splitlines() == [
        "a: embedded, epoch_0003 trained on r, 20 steps, guidance 1",
        "",
        "mine: 2 prompts of mine.txt, 4 images",
        "           base                      tuned                 tuned - base",
        "r          4.0 ± 2.0 [2.0, 6.0]      6.0 ± 3.0 [3.0, 9.0]  +2.0 ± 1.0 [+1.0, +3.0]",
        "diversity  0.30 ± 0.10 [0.20, 0.40]  0.1 ± 0               -0.20 ± 0.10 [-0.30, -0.10]",
        "(2 prompts only: the interval is too narrow, a t interval is ± 12.71 standard errors)",
    ]


def test_what_is_not_there_is_not_printed() -> None:
    alone = Measured({"r": torch.tensor([[1.25]])}, [None])
    model = run("sd", [findings(PromptSet("one", "one", [Prompt("a")]), {"base": alone}, 0)])
    text = evaluation_text(model | {"trained_on": None, "checkpoint": None})
    assert text.splitlines() == [
        "sd: embedded, 20 steps, guidance 1",
        "",
        "one: 1 prompt, 1 image",
        "           base",
        "r          1.25",
        "diversity  -",
        "(one prompt only: it does not tell how far others would differ)",
        f"({ONE_IMAGE})",
    ]
