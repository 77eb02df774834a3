"""A few steps of the preference scorers' training, and their build command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tests.shapes.build.helpers import same, silent

from stepcredit.errors import InputError
from stepcredit.maths.preference import negative_log_likelihood
from stepcredit.shapes.build import preferences
from stepcredit.shapes.build.loop import draw_scenes
from stepcredit.shapes.build.preference_agreement import agreements, decided_pairs
from stepcredit.shapes.build.preference_pairs import Comparisons, draw_comparisons
from stepcredit.shapes.build.preference_training import (
    FLIP_INVARIANT,
    RECOLOR_INVARIANT,
    PreferenceRecipe,
    augmented,
    calibration_images,
    captions_and_utilities,
    judge_loss,
    score_comparisons,
    standardize,
    train_scorer,
)
from stepcredit.shapes.build.random_pictures import select_rows
from stepcredit.shapes.render import render
from stepcredit.shapes.rules import RULES, utility
from stepcredit.shapes.scorers import Scorer, load_scorer
from stepcredit.shapes.world import caption, is_held_out, parse

FEW = PreferenceRecipe(captions=32, images=4, steps=12, batch=8)


@pytest.fixture(scope="module")
def data(vae: AutoencoderKL) -> Comparisons:
    return draw_comparisons(np.random.default_rng(0), vae, FEW.captions, FEW.images, held_out=False)


def loss(scorer: Scorer, name: str, data: Comparisons) -> float:
    """The loss over the first pair of each caption, without the judge's noise."""
    scores = score_comparisons(scorer, data)[:, :2] / FEW.temperature
    left, right = data.utilities[name][:, :2].unbind(1)
    return float(negative_log_likelihood(scores[:, 0], scores[:, 1], left > right))


@pytest.mark.parametrize("name", ["balance", "faithfulness"])
def test_training_lowers_the_loss_reproducibly(name: str, data: Comparisons) -> None:
    first, again, other = (train_scorer(name, FEW, seed, data, silent) for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)
    assert not first.training and not any(weight.requires_grad for weight in first.parameters())
    torch.manual_seed(0)
    assert loss(first, name, data) < 0.97 * loss(Scorer(name), name, data)


@pytest.mark.parametrize("name", RULES)
def test_augmentations_match_the_rule(name: str) -> None:
    images = torch.rand(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    seen = torch.stack([augmented(name, images, rng) for _ in range(2000)])
    kinds = {row.numpy().tobytes() for row in seen}
    assert len(kinds) == {0: 1, 1: 8, 2: 8 * 12}[(name in FLIP_INVARIANT) + (name in RECOLOR_INVARIANT)]


def test_harmony_augments_each_caption_separately() -> None:
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    for name, ways in (("harmony", 5), ("balance", 1)):
        seen = augmented(name, image.expand(5, 2, 3, 4, 4), np.random.default_rng(0)).unflatten(0, (5, 2))
        assert torch.equal(seen[:, 0], seen[:, 1])
        assert len({row.numpy().tobytes() for row in seen[:, 0]}) == ways


def test_calibration_images_and_captions(vae: AutoencoderKL) -> None:
    images, captions = calibration_images(vae, np.random.default_rng(0), count=64)
    rng = np.random.default_rng(0)
    scenes = draw_scenes(rng, 64)
    clean = render(scenes, rng)
    assert captions[0::2] == captions[1::2] == [caption(scene) for scene in scenes[0::2]]
    assert 0.01 < (images - clean).square().mean().sqrt() < 0.06


def test_standardize() -> None:
    torch.manual_seed(0)
    scorer = Scorer("faithfulness").requires_grad_(False)
    images, captions = (
        torch.rand(50, 3, 32, 32),
        [caption(scene) for scene in draw_scenes(np.random.default_rng(0), 50)],
    )
    before = scorer(images, captions)
    standardize(scorer, images, captions)
    scores = scorer(images, captions)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4) and float(scores.std()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(scores.argsort(), before.argsort())


def test_only_faithfulness_depends_on_the_caption() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    captions = ["a red circle on a blue background", "a blue circle on a red background"]
    for name in RULES:
        scorer = Scorer(name)
        left, right = scorer(images, captions), scorer(images, captions[::-1])
        assert torch.equal(left, right) == (name != "faithfulness"), "the same words in another order"


@pytest.mark.parametrize("name", ["harmony", "faithfulness"])
def test_table_of_scores(name: str, data: Comparisons) -> None:
    torch.manual_seed(0)
    scorer = Scorer(name)
    images, captions = data.images[:3, 0], data.captions[:2]
    table = scorer.table(images, captions)
    assert table.shape == (3, 2)
    for column, text in enumerate(captions):
        torch.testing.assert_close(table[:, column], scorer(images, [text] * 3))


def test_utilities_of_images_under_captions(data: Comparisons) -> None:
    rows = torch.tensor([3, 0, 5, 5])
    captions, utilities = captions_and_utilities("faithfulness", data, rows, np.random.default_rng(0))
    assert len(captions) == 4 and utilities.shape == (4 * FEW.images, 4) and not any(map(is_held_out, captions))
    for row, column in ((0, 0), (5, 2), (15, 3)):
        picture = select_rows(data.pictures, (rows[row // FEW.images] * FEW.images + row % FEW.images).view(1))
        left = data.left[rows[row // FEW.images], row % FEW.images].view(1)
        expected = utility(RULES["faithfulness"](picture, [captions[column]]), left)
        torch.testing.assert_close(utilities[row, column], expected[0])
    captions, utilities = captions_and_utilities("harmony", data, rows, np.random.default_rng(0))
    assert captions == [""] and torch.equal(utilities.view(4, -1), data.utilities["harmony"][rows])


def test_half_of_the_captions_are_perturbed(data: Comparisons) -> None:
    rng, rows = np.random.default_rng(0), torch.arange(16)
    own = [
        parse(text).items() <= vars(data.scenes[row]).items()
        for _ in range(20)
        for row, text in enumerate(captions_and_utilities("faithfulness", data, rows, rng)[0])
    ]
    assert 0.45 < np.mean(own) < 0.75, "a changed attribute is not always mentioned"


def test_judge_loss_is_the_negative_log_likelihood() -> None:
    utilities = torch.tensor([[0.0, 1.0], [1.0, 0.0], [9.0, -9.0]])
    scores = torch.tensor([[0.0, 0.2], [0.1, 0.0], [0.3, 0.0]])
    better, worse = torch.tensor([0.1, 0.3, 0.3, 0.2, 0.2, 0.0]), torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.0])
    result = judge_loss(scores, utilities, 0.05, np.random.default_rng(0))
    torch.testing.assert_close(result, torch.nn.functional.softplus((worse - better) / 0.05).mean())


def test_decided_pairs() -> None:
    left = torch.tensor([0.12, 0.10, -0.12, 0.0])
    assert decided_pairs(left, torch.zeros(4), 0.05).tolist() == [True, False, True, False]


def test_agreement_of_the_rule_with_itself(data: Comparisons) -> None:
    pairs = replace(
        data,
        images=data.images[:, :2],
        utilities={rule: values[:, :2] for rule, values in data.utilities.items()},
        damages=data.damages[:, :2],
    )
    rule = pairs.utilities["harmony"]
    for scores, expected in ((rule, 1.0), (-rule, 0.0)):
        result = agreements(scores, "harmony", pairs, 0.05)
        assert result["decided"] == result["decided_undamaged"] == result["all"] == expected
        assert 0.8 < result["judge_ceiling"] <= 1 and 0 < result["decided_share"] < 1
        assert result["judge"] == pytest.approx(result["judge_ceiling"] if expected else 1 - result["judge_ceiling"])


def test_preferences_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preferences, "PreferenceRecipe", lambda: FEW)
    monkeypatch.setattr(preferences, "calibration_images", partial(calibration_images, count=8))
    arguments = ["--out", str(tmp_path), "--threads", "1", "--steps", "1", "--held-out-pairs", "8"]
    preferences.main(arguments)
    report = json.loads((tmp_path / "preferences" / "report.json").read_text())
    assert (report["seed"], report["recipe"]["steps"], report["recipe"]["captions"]) == (0, 1, 32)
    assert report["agreement"].keys() == report["seconds"].keys() == set(RULES)
    assert capsys.readouterr().out.endswith(json.dumps(report, indent=1) + "\n")
    assert len({path.stat().st_mode for path in (tmp_path / "preferences").iterdir()}) == 1, (
        "all files have the same mode"
    )

    monkeypatch.delattr(preferences, "train_scorer")
    (tmp_path / "preferences" / "report.json").unlink()
    preferences.main(arguments)
    assert json.loads((tmp_path / "preferences" / "report.json").read_text()) == report
    stored = load_scorer("harmony", tmp_path)
    assert next(stored.parameters()).dtype == torch.float32 and load_scorer("harmony", tmp_path) is stored


def test_unknown_scorer_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^unknown preference 'harmoni' \(did you mean 'harmony'\?"):
        load_scorer("harmoni")
