"""Hints for unknown keys: names of other trainers, keys of other sections, typing errors, or none."""

from __future__ import annotations

import pytest
from tests.cli.command_line import stepcredit

from stepcredit import Trainer
from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.runs import recipes
from stepcredit.runs.foreign_names import FOREIGN_NAMES, foreign_hint

KEYS = {
    f"{section}.{key}"
    for section in TrainConfig.model_fields
    for key in type(getattr(TrainConfig(), section)).model_fields
}


def complaint(override: str) -> str:
    with pytest.raises(InputError) as raised:
        recipes.load(None, [override])
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train.beta", "train.kl_weight"),
        ("beta", "train.kl_weight"),
        ("train.lr", "train.learning_rate"),
        ("gradient_accumulation_steps", "train.updates_per_epoch"),
        ("train.gradient_accumulation_steps", "train.updates_per_epoch"),
        ("sample.height", "sample.call.height"),
        ("sample.width", "sample.call.width"),
        ("width", "sample.call.width"),
        ("sample.negative_prompt", "sample.call.negative_prompt"),
        ("train.num_train_epochs", "train.epochs"),
        ("train.steps", "train.epochs"),
        ("train.per_device_train_batch_size", "train.microbatch"),
        ("sample.num_image_per_prompt", "sample.images_per_prompt"),
        ("model.rank", "model.lora_rank"),
        ("network_dim", "model.lora_rank"),
        ("mixed_precision", "model.dtype"),
        ("sample.guidance_scale", "sample.guidance"),
        ("sample.num_steps", "sample.steps"),
        ("output_dir", "--run"),
        ("train.seed", "run.seed"),
        ("train.lora_rank", "model.lora_rank"),
        ("model.learning_rate", "train.learning_rate"),
        ("credit.windw", "credit.window"),
    ],
)
def test_the_hint_names_the_key(name: str, key: str) -> None:
    line = complaint(f"{name}=1")
    assert key in line and "\n" not in line


@pytest.mark.parametrize("name", ["train.text_encoder_lr", "min_snr_gamma", "train.caption_column"])
def test_names_without_a_key_are_explained(name: str) -> None:
    assert "no key here" in complaint(f"{name}=1")


@pytest.mark.parametrize("name", ["zzz", "train.foo", "sample.xyz", "model.quux", "run.everything", "train.warp"])
def test_a_key_that_resembles_nothing_gets_no_hint(name: str) -> None:
    line = complaint(f"{name}=1")
    assert "did you mean" not in line and " here" not in line


def test_misspelled_keys_of_a_component_are_found() -> None:
    assert "weight" in complaint("reward.components=[{name: warmth, weigth: 2}]")


def test_every_name_leads_to_a_key_that_exists() -> None:
    names = [name for entry in FOREIGN_NAMES for name in entry.names]
    assert len(set(names)) == len(names)
    for entry in FOREIGN_NAMES:
        known = entry.key in KEYS or entry.key.startswith(("sample.call.", "--")) or not entry.key
        assert known, entry.key
        assert entry.difference and all(entry.key in foreign_hint(name) for name in entry.names)


def test_options_and_arguments_get_the_same_hints() -> None:
    said = stepcredit("train", "--lr", "1e-4")
    assert said.code == 2 and "train.learning_rate" in said.err
    said = stepcredit("train", "--learning-rate=1e-4")
    assert said.code == 2 and "train.learning_rate" in said.err
    with pytest.raises(InputError, match="kl_weight"):
        Trainer(beta=0.1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="learning_rate"):
        Trainer(train={"lr": 1e-4})
