"""Recipes load, equal what they claim to be, and a mistake in one is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stepcredit.comparison.comparison_file import read_comparison
from stepcredit.comparison.protocol import make_protocol
from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import InputError
from stepcredit.prompts import load_prompts
from stepcredit.rewards import REWARDS
from stepcredit.runs import recipes

NAMES = [
    "embedded_alignment",
    "embedded_flow_jpeg",
    "embedded_jpeg",
    "embedded_mixture",
    "embedded_warmth",
    "sd15_aesthetic",
    "sd15_hpsv2",
    "sd15_imagereward",
    "sd15_pickscore",
    "sdxl_pickscore",
]
ARMS = {
    "uniform": ("uniform", 3e-2),
    "uniform-slow": ("uniform", 1.2e-2),
    "linear": ("linear", 1.2e-2),
    "coca-w1": ("contribution", 1.2e-2),
    "coca-w5": ("contribution", 1.2e-2),
    "batch-mean": ("contribution-batch-mean", 1.2e-2),
    "inverse-native-scale": ("inverse-native-scale", 1.2e-2),
}
"""Rule and rate of the arms of the embedded benchmarks."""
PREFERENCES = ["harmony", "balance", "legibility", "faithfulness"]
BENCHMARKS = {
    "benchmark_embedded": (list(ARMS), ["jpeg_compressibility", "warmth", "balance", "legibility"], 5),
    "benchmark_embedded_flow": (list(ARMS), ["jpeg_compressibility", "warmth", "balance", "legibility"], 5),
    "benchmark_preferences": (["uniform", "uniform-slow", "linear", "coca-w5", "batch-mean"], PREFERENCES, 3),
}
COMPARISONS = [*BENCHMARKS, "benchmark_sd15", "better_rule_fast", "better_rule_slow", "screen_rules"]
PAPER = {"aesthetic": (5e-5, 100), "pickscore": (1e-4, 4), "imagereward": (1e-4, 4), "hpsv2": (1e-4, 4)}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def complaint(source: str | Path | None, *overrides: str) -> str:
    with pytest.raises(InputError) as raised:
        recipes.load(source, overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_packaged_recipes() -> None:
    assert list(recipes.packaged()) == sorted([*NAMES, *COMPARISONS])


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    config = recipes.load(name)
    assert recipes.validate(yaml.safe_load(recipes.dump(config)), "dump") == config
    assert recipes.load(recipes.packaged()[name]) == config


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_packaged_comparison_can_be_built_and_is_no_recipe(name: str) -> None:
    protocol = make_protocol(read_comparison(recipes.packaged()[name]), {})
    assert len(protocol.rewards) >= 2 and len(protocol.fresh_seeds) >= 2
    assert complaint(name) == f"{name} is a comparison, not a recipe: run it with `stepcredit compare {name}`"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_embedded_benchmarks_compare_what_the_docs_say(name: str) -> None:
    protocol = make_protocol(read_comparison(recipes.packaged()[name]), {})
    arms, rewards, seeds = BENCHMARKS[name]
    assert (list(protocol.arms), list(protocol.rewards), len(protocol.fresh_seeds)) == (arms, rewards, seeds)
    assert protocol.reference == "uniform" and protocol.base.sample.steps == 20 and protocol.base.train.epochs == 10
    for arm in arms:
        config = protocol.config(rewards[0], arm, None, 0)
        assert (config.credit.name, config.train.learning_rate) == ARMS[arm]
        assert config.credit.window == (1 if arm == "coca-w1" else 5)


def test_the_benchmark_on_sd15_tunes_every_arm_on_a_seed_of_its_own() -> None:
    protocol = make_protocol(read_comparison(recipes.packaged()["benchmark_sd15"]), {})
    assert list(protocol.arms) == [arm for arm in ARMS if arm != "uniform-slow"]
    assert all(len(protocol.grid(arm)) == 3 for arm in protocol.arms) and protocol.watch == ("clipscore",)
    assert set(protocol.rewards) == set(PAPER) and not set(protocol.tuning_seeds) & set(protocol.fresh_seeds)
    assert protocol.base.model.path == "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.mark.parametrize("name", [*NAMES, *COMPARISONS])
def test_a_packaged_recipe_says_where_it_comes_from(name: str) -> None:
    text = recipes.packaged()[name].read_text()
    assert "# Source: " in text and "# Recorded result: " in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_recipe_names_a_credit_rule_there_is(name: str) -> None:
    build_credit(recipes.load(name).credit)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("embedded")])
def test_an_embedded_recipe_needs_nothing_else(name: str) -> None:
    config = recipes.load(name)
    assert config.model.path in ("embedded", "embedded-flow")
    names = [component.name for component in config.reward.components] or [config.reward.name]
    assert set(names) <= set(REWARDS.names()) and not config.reward.remote
    assert config.sample.prompts_per_epoch is not None
    assert len(load_prompts(config.prompts.source)) >= config.sample.prompts_per_epoch


def test_the_default_recipe_is_the_defaults() -> None:
    assert recipes.load(recipes.DEFAULT) == TrainConfig() == recipes.load(None)


@pytest.mark.parametrize(("name", "rate"), [("embedded_warmth", 1.2e-2), ("embedded_alignment", 4e-3)])
def test_the_other_embedded_recipes_differ_in_reward_and_rate_only(name: str, rate: float) -> None:
    reward = name.removeprefix("embedded_")
    overrides = [f"reward.name={reward}", f"train.learning_rate={rate}"]
    assert recipes.load(name) == recipes.load(None, overrides)


@pytest.mark.parametrize("reward", PAPER)
def test_the_paper_s_runs(reward: str) -> None:
    config = recipes.load(f"sd15_{reward}")
    clip, updates = PAPER[reward]
    source = "hpsv2_prompts.txt" if reward == "hpsv2" else "animals"
    assert config == recipes.validate(
        {
            "model": {"path": "stable-diffusion-v1-5/stable-diffusion-v1-5", "dtype": "float16"},
            "sample": {"steps": 50, "guidance": 5, "prompts_per_epoch": 256, "images_per_prompt": 1, "batch": 16},
            "train": {
                "epochs": 100,
                "learning_rate": 1e-4,
                "updates_per_epoch": updates,
                "clip_range": clip,
                "advantage": "running",
                "microbatch": 2,
            },
            "reward": {"name": reward},
            "prompts": {"source": source, "order": "random"},
            "run": {"seed": 42},
        },
        "the paper",
    )
    assert config.images_per_epoch == 256


def test_what_the_paper_s_runs_leave_to_the_defaults() -> None:
    """Values of the release that the previous test takes from the defaults, so that those may change."""
    config = recipes.load("sd15_pickscore")
    train, credit = config.train, config.credit
    assert (config.sample.eta, config.model.adapter, config.model.lora_rank) == (1, "lora", 4)
    assert (train.weight_decay, train.max_grad_norm, train.betas, train.adam_epsilon) == (1e-4, 1, (0.9, 0.999), 1e-8)
    assert (train.inner_epochs, train.kl_weight, train.advantage_clip) == (1, 0, 5)
    assert (train.buffer_size, train.min_count) == (32, 16)
    assert (credit.name, credit.window, credit.alpha) == ("contribution", 5, 0)
    assert (credit.clamp, credit.standardize) == (False, True)


def test_overrides_are_read_as_yaml_and_win_over_the_file(recipe: Path) -> None:
    recipe.write_text("train:\n  epochs: 3\n  clip_range: 0.5\n")
    config = recipes.load(recipe, ["train.epochs=4", "train.learning_rate=1e-4", "sample.call.height=64"])
    assert (config.train.epochs, config.train.clip_range, config.train.learning_rate) == (4, 0.5, 1e-4)
    assert config.sample.call == {"height": 64}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("sample.batch=null", None),
        ("reward.name=mine.py:score", "mine.py:score"),
        ("prompts.source=a=b.txt", "a=b.txt"),
    ],
)
def test_override_values(override: str, value: object) -> None:
    section, name = override.partition("=")[0].split(".")
    assert recipes.load(None, [override]).model_dump()[section][name] == value


@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\n", "\ufefftrain: {}\n"])
def test_empty_files_and_sections_are_the_defaults(recipe: Path, text: str) -> None:
    recipe.write_text(text, encoding="utf-8")
    assert recipes.load(recipe) == TrainConfig()


def test_an_override_into_an_empty_section(recipe: Path) -> None:
    recipe.write_text("train:\n")
    assert recipes.load(recipe, ["train.epochs=3"]).train.epochs == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("credit.windw=3", "unknown key 'credit.windw' in the defaults; did you mean 'credit.window'?"),
        ("trian.epochs=3", "unknown key 'trian' in the defaults; did you mean 'train'?"),
        ("epochs=3", "unknown key 'epochs' in the defaults; did you mean 'train.epochs'?"),
        ("zzz=3", "unknown key 'zzz' in the defaults"),
        ("train.epochs", "'train.epochs' is not an override; write section.key=value"),
        ("train.=3", "'train.=3' is not an override; write section.key=value"),
        ("run.seed=-1", "run.seed = -1 in the defaults: input should be greater than or equal to 0"),
        ("train.learning_rate=.nan", "train.learning_rate = nan in the defaults: input should be a finite number"),
        ("sample.eta=0", "sample.eta = 0 in the defaults: input should be greater than 0"),
        ("credit.alpha=2", "credit.alpha = 2 in the defaults: input should be less than or equal to 1"),
        (
            "model.dtype=int8",
            "model.dtype = 'int8' in the defaults: input should be 'float32', 'bfloat16' or 'float16'",
        ),
        (
            "train.updates_per_epoch=100",
            "the defaults: train.updates_per_epoch is 100 but an epoch has only 64 images",
        ),
    ],
)
def test_a_bad_override(override: str, message: str) -> None:
    assert complaint(None, override) == message


@pytest.mark.parametrize("override", ["train.epochs=[", "train.epochs=2024-13-45"])
def test_an_override_that_is_not_yaml(override: str) -> None:
    assert complaint(None, override).startswith(f"cannot read the value of '{override}': ")


def test_an_override_through_a_value() -> None:
    message = "'credit.window' goes through 'credit', which holds a value, not a section"
    assert complaint(None, "credit=contribution", "credit.window=3") == message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a", "must hold a mapping of sections, not a list"),
        ("a: [", "is not valid YAML: "),
        ("run: {seed: 2024-13-45}", "is not valid YAML: month must be in 1..12"),
        ("1: 2", "the key 1 is a int: quote it"),
        ("train: 3", "train = 3 in "),
        ("train: {epochs: many}", "train.epochs = 'many' in "),
        ("sample: {windw: 3}\ncredit: {widow: 3}", "; unknown key 'credit.widow' in "),
    ],
)
def test_a_bad_file(recipe: Path, text: str, part: str) -> None:
    recipe.write_text(text)
    assert part in (message := complaint(recipe)) and "mine.yaml" in message


def test_a_file_that_is_not_text(recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    assert complaint(recipe).startswith(f"cannot read {recipe}: ")


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    assert complaint("embedded_jpg").startswith(
        "unknown recipe 'embedded_jpg' (did you mean 'embedded_jpeg'?); known: "
    )
    missing = tmp_path / "none.yaml"
    assert complaint(missing) == f"no recipe file {missing}"


def test_betas_outside_their_range() -> None:
    with pytest.raises(InputError, match=r"train\.betas\.1 = 1\.0 in the defaults: input should be less than 1"):
        recipes.load(None, ["train.betas=[0.9, 1.0]"])
