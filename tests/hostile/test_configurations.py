"""Invalid recipes and overrides: each is refused with one line, and what is accepted can be written and read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from tests.cli.command_line import stepcredit
from tests.hostile.trials import REFUSED, WORKS, cases, outcome_of, record, survive
from tests.hostile.values import JSON_VALUES, NUMBERS, TEXT, damaged

from stepcredit.config import TrainConfig
from stepcredit.credit import CREDIT, build_credit
from stepcredit.prompts import draw_prompts, load_prompts
from stepcredit.rewards import build_reward
from stepcredit.runs import recipes

FILE, OVERRIDE = "recipe file", "override"
KEYS = [
    f"{section}.{key}" for section, field in TrainConfig.model_fields.items() for key in field.annotation.model_fields
]
REWARDS = st.sampled_from(
    ["jpeg_compressibility", "warmth", "vlm_judge", "mixture", "remote", "", "no such", ":", "a:"]
)


def use(config: TrainConfig) -> None:
    """Write an accepted configuration, read it back, and build its parts."""
    text = recipes.dump(config)
    again = recipes.validate(recipes.parse(text, "config.yaml"), "config.yaml")
    assert _same(again.model_dump(), config.model_dump())
    build_credit(config.credit)
    sample = config.sample
    draw_prompts(
        load_prompts(config.prompts.source),
        epoch=0,
        seed=config.run.seed,
        count=sample.prompts_per_epoch,
        order=config.prompts.order,
        images_per_prompt=sample.images_per_prompt,
    )
    if ":" not in config.reward.name.strip(":") and config.reward.ray_workers is None:  # no import, no cluster
        build_reward(config.reward)


def _same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


def read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    use(recipes.load(path))


@cases(fast=30, slow=800)
def test_any_bytes(tmp_path: Path, cases: int) -> None:
    text = st.text(max_size=60).map(str.encode) | st.text("{}[]:,-&*!|>'\"?%@` \n\tab1.~#", max_size=40).map(str.encode)
    survive(
        FILE,
        "random bytes and YAML signs",
        cases,
        st.binary(max_size=200) | text,
        lambda c: read(tmp_path / "a.yaml", c),
    )


@cases(fast=15, slow=400)
def test_any_damaged_recipe(tmp_path: Path, cases: int) -> None:
    sound = (recipes.packaged()["embedded_jpeg"]).read_bytes()
    strategy = damaged(sound)
    survive(FILE, "bytes of a packaged recipe changed", cases, strategy, lambda c: read(tmp_path / "a.yaml", c))


@cases(fast=30, slow=900)
def test_any_value_under_any_key(tmp_path: Path, cases: int) -> None:
    names = st.sampled_from(CREDIT.names()) | TEXT
    special = {
        "reward.name": REWARDS,
        "credit.name": names,
        "prompts.source": st.sampled_from(["shapes", "x", "a.txt"]),
    }
    pairs = st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), special.get(key, NUMBERS | JSON_VALUES)))

    def attempt(chosen: list[tuple[str, Any]]) -> None:
        tree: dict[str, dict[str, Any]] = {}
        for key, value in chosen:
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        read(tmp_path / "a.yaml", yaml.safe_dump(tree, allow_unicode=False).encode())

    survive(FILE, "random values under every key", cases, st.lists(pairs, min_size=1, max_size=2), attempt)


@cases(fast=30, slow=900)
def test_any_override(cases: int) -> None:
    keys = st.sampled_from([*KEYS, "reward.options.quality", "credit.options.gamma", "model", "", ".", "a.b.c"]) | TEXT
    values = NUMBERS.map(str) | TEXT | JSON_VALUES.map(str) | st.sampled_from(["true", "null", "[]", "{}", "1", "0.5"])
    small = st.integers(1, 8).map(str) | st.floats(0, 1).map(str) | st.booleans().map(str)
    pairs = st.tuples(st.sampled_from(KEYS), small) | st.tuples(st.sampled_from(KEYS) | keys, values)
    strategy = st.lists(pairs, min_size=1, max_size=2)

    def attempt(pairs: list[tuple[str, str]]) -> None:
        names = [pair for pair in pairs if pair[0].strip() not in ("reward.name", "reward")]
        use(recipes.load(None, [f"{key}={value}" for key, value in names]))

    found = survive(OVERRIDE, "random texts and values", cases, strategy, attempt)
    assert found[WORKS] and found[REFUSED]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (BOMB, "aliases"),
        ("reward: {options: &a {x: *a}}", "Circular"),
        ("reward: {options: {x: " + "[" * 5000 + "]" * 5000 + "}}", "nested too deeply"),
        ("reward: {options: {x: 2024-01-01}}", "date"),
        ("reward: {options: {x: !!binary aGVsbG8=}}", "bytes"),
        ("reward: {options: !!set {x}}", "set"),
        ("reward: {options: {1: x}}", "keys"),
        ("run: {seed: 0x" + "f" * 100 + "}", "more than 64 bits"),
        ("run: {seed: " + "9" * 5000 + "}", "is not valid YAML"),
        ('prompts: {source: "\\ud800"}', "surrogates"),
        ("model: !!python/object/apply:os.system ['true']", "python/object/apply"),
        ("? [a]\n: b", "unhashable key"),
        ("[" * 3 + "a", "is not valid YAML"),
        ("x" * 2**20 + "y", "is larger than 1048576 bytes"),
        ("a: b\0", "is not valid YAML"),
    ],
)  # fmt: skip
def test_yaml_that_config_yaml_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    monkeypatch.setattr("stepcredit.training.run.start_run", lambda config, path, **_: use(config))
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    said = stepcredit("train", str(path), "--run", str(tmp_path / "run"))
    assert said.code == 2 and complaint in said.err and said.err.count("\n") == 1, said
    assert not (tmp_path / "run").exists()
    record(FILE, "aliases of aliases, depth, other types, other sizes; through the command line", REFUSED)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "x" * 5000 + ".yaml", "\ud800", "", ".", "/", "a\nb"])
def test_an_impossible_recipe_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert outcome_of(lambda: recipes.load(name)) == REFUSED
    record(FILE, "impossible names", REFUSED)


def test_control_characters_are_not_printed(tmp_path: Path) -> None:
    said = stepcredit("train", "credit.name=\x1b]0;owned\x07\u202e", "--run", str(tmp_path / "run"))
    assert said.code == 2 and said.err.removesuffix("\n").isprintable(), said
    record(OVERRIDE, "control characters; through the command line", REFUSED)


@cases(fast=10, slow=200)
def test_any_words_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int) -> None:
    """`train` up to the point where training would start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stepcredit.training.run.start_run", lambda config, path, **_: use(config))

    def attempt(words: list[str]) -> str:
        said = stepcredit("train", *words)
        assert said.code in (0, 2), said
        assert "Traceback" not in said.err
        assert said.code == 0 or (said.err.count("\n") == 1 and said.err.startswith("stepcredit: ")), said
        return WORKS if said.code == 0 else REFUSED

    words = (
        st.sampled_from(["--run", "--resume", "--help", "--", "embedded_jpeg", "train.epochs=1", "a=b", "-x"]) | TEXT
    )
    strategy = st.lists(words, max_size=4).filter(lambda found: not any("reward" in word for word in found))
    survive("command line of train", "random words", cases, strategy, attempt)
