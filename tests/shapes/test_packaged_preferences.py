"""The preference scorers that ship with the package."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.shapes.build.preference_agreement import agreements
from stepcredit.shapes.build.preference_pairs import Comparisons, draw_comparisons
from stepcredit.shapes.build.preference_training import PreferenceRecipe, calibration_images
from stepcredit.shapes.pipeline import WEIGHTS
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.scorers import FOLDER, READS_CAPTION, load_scorer

BAR = 0.95
TEMPERATURE = PreferenceRecipe().temperature
REPORT = json.loads((WEIGHTS / FOLDER / "report.json").read_text())


@pytest.fixture(scope="module")
def pairs(vae: AutoencoderKL) -> Comparisons:
    return draw_comparisons(np.random.default_rng(77), vae, 512, 2, held_out=True)


@pytest.fixture(scope="module")
def usual(vae: AutoencoderKL) -> tuple[Tensor, list[str]]:
    return calibration_images(vae, np.random.default_rng(78), 256)


def test_the_weights_are_small() -> None:
    files = sorted((WEIGHTS / FOLDER).iterdir())
    assert [path.name for path in files] == sorted(["report.json", *(f"{name}.safetensors" for name in RULES)])
    assert sum(path.stat().st_size for path in files) <= 1e6


def test_the_report_belongs_to_the_recipe_and_all_reach_the_bar() -> None:
    assert PreferenceRecipe(**REPORT["recipe"]) == PreferenceRecipe()
    assert REPORT["seed"] == 0 and REPORT["held_out_pairs"] == 4096
    assert REPORT["agreement"].keys() == REPORT["seconds"].keys() == set(RULES)
    for name, found in REPORT["agreement"].items():
        assert found["decided"] >= BAR, name


@pytest.mark.parametrize("name", RULES)
def test_a_scorer_agrees_with_its_rule_on_fresh_pairs(name: str, pairs: Comparisons) -> None:
    found = agreements(load_scorer(name), name, pairs, TEMPERATURE)
    assert found["decided"] >= BAR - 0.01, "512 pairs"
    assert found["decided"] == pytest.approx(REPORT["agreement"][name]["decided"], abs=0.03)
    assert found["judge"] > found["judge_ceiling"] - 0.1


@pytest.mark.parametrize("name", RULES)
def test_a_scorer_knows_its_own_rule_best(name: str, pairs: Comparisons) -> None:
    """Where nothing is damaged: damage is what all rules have in common."""
    whole = pairs.damages.amax(1) == 0
    undamaged = replace(
        pairs,
        captions=[caption for caption, kept in zip(pairs.captions, whole, strict=True) if kept],
        images=pairs.images[whole],
        utilities={rule: values[whole] for rule, values in pairs.utilities.items()},
        damages=pairs.damages[whole],
    )
    found = {rule: agreements(load_scorer(name), rule, undamaged, TEMPERATURE)["decided"] for rule in RULES}
    others = [share for rule, share in found.items() if rule != name]
    assert found[name] > 0.9 and max(others) < found[name] - 0.1


@pytest.mark.parametrize("name", RULES)
def test_scores_are_standardized_on_fresh_images(name: str, usual: tuple[Tensor, list[str]]) -> None:
    scores = load_scorer(name)(*usual)
    assert float(scores.mean()) == pytest.approx(0, abs=0.2) and float(scores.std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", RULES)
def test_what_is_no_picture_scores_below_pictures(name: str, usual: tuple[Tensor, list[str]]) -> None:
    images, captions = usual[0][:64], usual[1][:64]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator)
    plain = torch.rand(64, 3, 1, 1, generator=generator).expand_as(images)
    scorer = load_scorer(name)
    median = scorer(images, captions).median()
    for empty in (noise, plain):
        assert (scorer(empty, captions) < median).float().mean() > 0.95


def test_scorers_are_frozen_and_read_captions_only_if_they_must() -> None:
    for name in RULES:
        scorer = load_scorer(name)
        assert load_scorer(name) is scorer and not scorer.training
        assert not any(weight.requires_grad for weight in scorer.parameters())
        assert (scorer.reader is not None) == (name in READS_CAPTION)
