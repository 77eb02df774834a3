"""The bundled preference scorers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.shapes.build.preference_agreement import agreements
from stepcredit.shapes.build.preference_pairs import Comparisons, draw_comparisons
from stepcredit.shapes.build.preference_training import PreferenceRecipe, calibration_images, score_comparisons
from stepcredit.shapes.pipeline import WEIGHTS
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.scorers import FOLDER, READS_CAPTION, load_scorer

BAR = 0.95
TEMPERATURE = PreferenceRecipe().temperature
REPORT = json.loads((WEIGHTS / FOLDER / "report.json").read_text())


@pytest.fixture(scope="module")
def pairs(vae: AutoencoderKL) -> Comparisons:
    return draw_comparisons(np.random.default_rng(77), vae, 256, 2, held_out=True)


@pytest.fixture(scope="module")
def usual(vae: AutoencoderKL) -> tuple[Tensor, list[str]]:
    return calibration_images(vae, np.random.default_rng(78), 128)


def test_weights_are_small() -> None:
    files = sorted((WEIGHTS / FOLDER).iterdir())
    assert [path.name for path in files] == sorted(["report.json", *(f"{name}.safetensors" for name in RULES)])
    assert sum(path.stat().st_size for path in files) <= 1e6


def test_report_matches_the_recipe() -> None:
    assert PreferenceRecipe(**REPORT["recipe"]) == PreferenceRecipe()
    assert REPORT["seed"] == 0 and REPORT["held_out_pairs"] == 4096
    assert REPORT["agreement"].keys() == REPORT["seconds"].keys() == set(RULES)
    for name, agreement in REPORT["agreement"].items():
        assert agreement["decided"] >= BAR, name


@pytest.mark.parametrize("name", RULES)
def test_scorer_agrees_most_with_its_own_rule(name: str, pairs: Comparisons) -> None:
    scores = score_comparisons(load_scorer(name), pairs)
    result = agreements(scores, name, pairs, TEMPERATURE)
    assert result["decided"] >= BAR - 0.02, "256 pairs"
    assert result["decided"] == pytest.approx(REPORT["agreement"][name]["decided"], abs=0.04)
    assert result["judge"] > result["judge_ceiling"] - 0.1
    # All rules agree on damage, so only undamaged pairs distinguish them.
    undamaged = {rule: agreements(scores, rule, pairs, TEMPERATURE)["decided_undamaged"] for rule in RULES}
    own = undamaged.pop(name)
    assert own > 0.9 and max(undamaged.values()) < own - 0.1


@pytest.mark.parametrize("name", RULES)
def test_scores_are_standardized_on_new_images(name: str, usual: tuple[Tensor, list[str]]) -> None:
    scores = load_scorer(name)(*usual)
    assert float(scores.mean()) == pytest.approx(0, abs=0.2) and float(scores.std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", RULES)
def test_noise_and_plain_colors_score_low(name: str, usual: tuple[Tensor, list[str]]) -> None:
    images, captions = usual[0][:64], usual[1][:64]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator)
    plain = torch.rand(64, 3, 1, 1, generator=generator).expand_as(images)
    scorer = load_scorer(name)
    median = scorer(images, captions).median()
    for empty in (noise, plain):
        assert (scorer(empty, captions) < median).float().mean() > 0.95


def test_scorers_are_frozen() -> None:
    for name in RULES:
        scorer = load_scorer(name)
        assert load_scorer(name) is scorer and not scorer.training
        assert not any(weight.requires_grad for weight in scorer.parameters())
        assert (scorer.reader is not None) == (name in READS_CAPTION)
