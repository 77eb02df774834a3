"""The recipes for published models, on tiny random pipelines of the same classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.command_line import rows, stepcredit
from tests.families import FAMILIES

from stepcredit.families import find_family
from stepcredit.prompts import load_prompts
from stepcredit.runs import recipes
from stepcredit.runs.model_defaults import KEYS

RECIPES = {
    "sd15_aesthetic": "sd",
    "sd15_hpsv2": "sd",
    "sd15_imagereward": "sd",
    "sd15_pickscore": "sd",
    "sdxl_pickscore": "sdxl",
    "sd35_medium_pickscore": "sd3",
    "flux1_dev_pickscore": "flux",
    "flux2_klein_pickscore": "flux2_klein",
    "qwen_image_pickscore": "qwen_image",
    "z_image_pickscore": "z_image",
    "sana_pickscore": "sana",
}
SMALL = [
    "model.device=cpu",
    "model.dtype=float32",
    "model.shard=false",
    "sample.prompts_per_epoch=2",
    "sample.images_per_prompt=2",
    "sample.steps=4",
    "sample.evaluation_steps=1",
    "train.epochs=1",
    "train.updates_per_epoch=1",
    "train.advantage=group",
    "reward.name=warmth",
    "reward.options={}",
    "prompts.source=animals",
    "run.processes=null",
    "run.grid_images=1",
    "run.trackers=[]",
]


def test_every_recipe_for_a_published_model_is_tried_here() -> None:
    models = {name for name in recipes.packaged() if "arms:" not in recipes.find(name).read_text()}
    assert {name for name in models if "/" in recipes.load(name).model.path} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete(name: str) -> None:
    """Nothing in it depends on the model's family, and its prompt list is long enough."""
    tree = recipes.read_tree(recipes.find(name))
    missing = [key for key in KEYS if key.partition(".")[2] not in tree[key.partition(".")[0]]]
    assert missing == []
    config = recipes.load(name)
    prompts = config.sample.prompts_per_epoch
    assert config.prompts.order == "random" or (prompts or 0) <= len(load_prompts(config.prompts.source))


QUICK = "sd35_medium_pickscore"


@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name != QUICK)]
)
def test_a_recipe_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = FAMILIES[RECIPES[name]]
    pipeline = tiny.build(0)
    pipeline.save_pretrained("model")
    call = f"sample.call={json.dumps(tiny.call)}"
    said = stepcredit("train", name, "model.path=model", *SMALL, call, "--run", "run")
    assert said.code == 0, said.err
    assert rows(Path("run"))[0]["ratio_max_deviation"] <= 1e-6
    family = find_family([type(pipeline).__name__])
    assert f"guidance {family.defaults.guidance:g}," in said.out
