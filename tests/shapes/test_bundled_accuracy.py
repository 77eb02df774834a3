"""Accuracy of the bundled pipelines on 512 held-out captions, with the settings of the recipes."""

from __future__ import annotations

import pytest

from stepcredit.shapes.build.evaluation import evaluate_pipeline
from stepcredit.shapes.pipeline import CALL, FLOW, load_checker, load_pipeline

BARS = {
    "foreground": 0.98,
    "background": 0.98,
    "shape": 0.93,
    "size": 0.90,
    "texture": 0.90,
    "position": 0.75,
    "all": 0.60,
}


@pytest.mark.slow
def test_ddim_accuracy_on_held_out_captions() -> None:
    accuracy = evaluate_pipeline(load_pipeline(), load_checker(), count=512, steps=20, guidance=3.0, eta=1.0)
    assert accuracy.keys() == BARS.keys()
    assert {name: value for name, value in accuracy.items() if value < BARS[name]} == {}


FLOW_BARS = {
    "foreground": 0.98,
    "background": 0.98,
    "shape": 0.93,
    "size": 0.95,
    "texture": 0.90,
    "position": 0.95,
    "all": 0.88,
}


@pytest.mark.slow
def test_flow_accuracy_on_held_out_captions() -> None:
    accuracy = evaluate_pipeline(load_pipeline(FLOW), load_checker(), count=512, steps=20, guidance=3.0, **CALL[FLOW])
    assert accuracy.keys() == FLOW_BARS.keys()
    assert {name: value for name, value in accuracy.items() if value < FLOW_BARS[name]} == {}
