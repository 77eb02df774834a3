"""`stepcredit score` and the line that `stepcredit list reward` has about each reward."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.command_line import refused, stepcredit
from tests.rewards.vision.checkpoints import options_of

from stepcredit.rewards import REWARDS
from stepcredit.rewards.core.card import RewardCard

COLORS = {"red.png": (255, 0, 0), "blue.png": (0, 0, 255), "grey.png": (99, 99, 99)}
WARMTH = {"red.png": 1.0, "blue.png": -1.0, "grey.png": 0.0}


@pytest.fixture
def pictures(here: Path) -> list[str]:
    """Three files of different sizes in the working directory."""
    for number, (name, color) in enumerate(COLORS.items()):
        Image.new("RGB", (20, 20 + 4 * (number % 2)), color).save(here / name)
    return list(COLORS)


def test_one_line_per_image_in_order(pictures: list[str]) -> None:
    said = stepcredit("score", "warmth", *pictures, "--prompt", "a wall")
    assert (said.code, said.err) == (0, "")
    assert [line.split() for line in said.out.splitlines()] == [["red.png", "1"], ["blue.png", "-1"], ["grey.png", "0"]]


def test_json(pictures: list[str]) -> None:
    said = stepcredit("score", "warmth", *pictures, "--prompt", "a wall", "--json")
    assert json.loads(said.out) == [{"file": name, "prompt": "a wall", "score": WARMTH[name]} for name in pictures]


def test_one_prompt_per_image_and_options(pictures: list[str]) -> None:
    Path("mine.py").write_text(
        "def score(images, prompts, metadata, weight=1):\n    return [weight * len(prompt) for prompt in prompts]\n"
    )
    prompts = [word for text in ("a", "bb", "ccc") for word in ("--prompt", text)]
    said = stepcredit("score", "mine.py:score", *pictures, *prompts, "--option", "weight=2.5", "--json")
    assert [(row["prompt"], row["score"]) for row in json.loads(said.out)] == [("a", 2.5), ("bb", 5), ("ccc", 7.5)]


def test_images_of_equal_size_are_one_batch(pictures: list[str]) -> None:
    Path("mine.py").write_text("def score(images, prompts, metadata):\n    return [len(prompts)] * len(prompts)\n")
    said = stepcredit("score", "mine.py:score", *pictures, "--prompt", "x", "--json")
    assert [row["score"] for row in json.loads(said.out)] == [2, 1, 2]


def test_pixels_reach_the_reward_unchanged(here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("noise.png")
    said = stepcredit("score", "warmth", "noise.png", "--prompt", "x", "--json")
    expected = (pixels[..., 0].astype(float) - pixels[..., 2]).mean() / 255
    assert json.loads(said.out)[0]["score"] == pytest.approx(expected, abs=1e-6)


def test_a_learned_reward(pictures: list[str], tmp_path: Path) -> None:
    options = [
        word for key, value in options_of("clipscore", tmp_path).items() for word in ("--option", f"{key}={value}")
    ]
    said = stepcredit("score", "clipscore", *pictures, "--prompt", "a wall", *options, "--json")
    assert (said.code, said.err) == (0, "")
    assert all(0 <= row["score"] <= 100 for row in json.loads(said.out))


def test_files_that_are_not_images(pictures: list[str]) -> None:
    assert refused("score", "warmth", "none.png", "--prompt", "x") == "cannot read none.png as an image: no such file"
    Path("text.png").write_text("hello")
    message = refused("score", "warmth", *pictures, "text.png", "--prompt", "x")
    assert message.startswith("cannot read text.png as an image: cannot identify image file")
    whole = Path("red.png").read_bytes()
    Path("half.png").write_bytes(whole[: len(whole) // 2])
    assert refused("score", "warmth", "half.png", "--prompt", "x").startswith("cannot read half.png as an image: ")


def test_invalid_arguments(pictures: list[str]) -> None:
    line = "2 prompts for 3 images: pass one --prompt for all images, or one per image"
    assert refused("score", "warmth", *pictures, "--prompt", "a", "--prompt", "b") == line
    call = ("score", "jpeg_compressibility", "red.png", "--prompt", "a", "--option")
    assert refused(*call, "quality") == "'quality' is not an option: write key=value"
    assert refused(*call, "quality=[1") .startswith("cannot read the value of 'quality=[1': ")  # fmt: skip
    assert refused(*call, "qualty=3").startswith(
        "unknown jpeg_compressibility option 'qualty' (did you mean 'quality'?)"
    )
    assert refused("score", "warmht", "red.png", "--prompt", "a").startswith(
        "unknown reward 'warmht' (did you mean 'warmth'"
    )
    assert refused("score", "warmth", "--prompt", "a").startswith("Missing argument 'IMAGE...'")
    assert refused("score", "warmth", "red.png").startswith("Missing option '--prompt'")


def test_rewards_are_listed_with_what_they_need(here: Path) -> None:
    parts = json.loads(stepcredit("list", "reward", "--json").out)
    lines = stepcredit("list", "reward").out.splitlines()
    for part, line in zip(parts, lines, strict=True):
        card = getattr(REWARDS.get(part["name"]), "CARD", RewardCard())
        expected = {key: value for key, value in asdict(card).items() if value not in ("", None)}
        assert {key: part[key] for key in part if key not in ("name", "description")} == expected
        assert line.split()[0] == part["name"] and all(str(value) in line for value in expected.values())
