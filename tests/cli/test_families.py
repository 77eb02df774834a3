"""Every documented family through the command line, from a folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.command_line import rows, stepcredit
from tests.families import FAMILIES

from stepcredit.evaluation.source import open_source

SMALL = [
    "model.device=cpu",
    "sample.steps=3",
    "sample.prompts_per_epoch=1",
    "sample.images_per_prompt=2",
    "train.epochs=1",
    "train.updates_per_epoch=1",
    "reward.name=warmth",
    "run.grid_images=1",
    "run.trackers=[]",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_and_sampled_from_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    family = FAMILIES[name]
    family.build(0).save_pretrained("model")
    adapter = ["model.adapter=full"] if name == "pixart_sigma" else []
    words = [f"sample.call={json.dumps(family.call)}", f"sample.guidance={family.guidance}", *adapter]
    said = stepcredit("train", "model.path=model", *SMALL, *words, "--run", "run")
    assert said.code == 0, said.err
    assert "self-check: " in said.out and rows(Path("run"))[0]["ratio_max_deviation"] == 0
    said = stepcredit("sample", "run", "--prompt", "a cat", "--out", "images")
    assert said.code == 0, said.err
    assert len(list(Path("images").glob("*.png"))) == 1


def test_a_model_without_a_lora_loader_can_be_sampled(tmp_path: Path) -> None:
    FAMILIES["pixart_sigma"].build(0).save_pretrained(tmp_path / "model")
    policy, _ = open_source(str(tmp_path / "model"), "to sample from").load()
    assert policy.parameters() == [] and policy.state_dict() == {}
