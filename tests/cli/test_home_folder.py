"""`~` is the home folder wherever a path is given, also where a shell does not expand it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.cli.command_line import TOY, stepcredit
from tests.tiny import tiny_sd

from stepcredit import Trainer
from stepcredit.config import ModelSection
from stepcredit.policy.loading import load_pipeline
from stepcredit.prompts import load_prompts
from stepcredit.rewards.remote.token import VARIABLE
from stepcredit.runs import recipes
from stepcredit.utils.paths import expanded

REWARD = "def score(images):\n    return images.mean((1, 2, 3))\n"


@pytest.fixture
def home(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, beside the current one. Nothing may be written to the current folder."""
    folder = here / "home"
    (here / "work").mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(here / "work")
    (folder / "mine.py").write_text(REWARD)
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    (folder / "recipe.yaml").write_text("prompts: {source: ~/prompts.txt}\nrun: {plugins: [~/mine.py]}\n")
    return folder


@pytest.mark.usefixtures("toy")
def test_every_path_of_the_command_line(home: Path) -> None:
    train = ["train", "~/recipe.yaml", *TOY, "reward.name=~/mine.py:score", "--plugin=~/mine.py", "--run=~/a"]
    Image.new("RGB", (8, 8), "red").save(home / "red.png")
    for words in (
        train,
        ["train", "--resume", "--run=~/a", "train.epochs=4"],
        ["sample", "~/a", "--prompts=~/prompts.txt", "--out=~/samples", "--plugin=~/mine.py"],
        [
            "evaluate",
            "~/a",
            "--reward=~/mine.py:score",
            "--images=1",
            "--prompts=~/prompts.txt",
            "--out=~/results.json",
        ],
        ["report", "~/a", "--out=~/page.html"],
        ["score", "~/mine.py:score", "~/red.png", "--prompt=red"],
    ):
        said = stepcredit(*words)
        assert said.code == 0, (words, said)
    for name in ("a/metrics.jsonl", "samples/samples.jsonl", "results.json", "page.html"):
        assert (home / name).is_file(), name
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("toy")
def test_every_path_of_the_python_api(home: Path) -> None:
    trainer = Trainer(
        prompts="~/prompts.txt",
        reward="~/mine.py:score",
        output_dir="~/a",
        plugins=["~/mine.py"],
        config=recipes.load("~/recipe.yaml", TOY),
    )
    assert trainer.train().output_dir == home / "a"
    assert list(Path().iterdir()) == []


def test_a_model(home: Path) -> None:
    tiny_sd().save_pretrained(home / "model")
    assert load_pipeline(ModelSection(path="~/model", device="cpu")).unet is not None


def test_a_token_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    said = stepcredit("serve-reward", "warmth", "--token-file=~/token")
    assert said.code == 2 and str(home / "token") in said.err


def test_names_that_do_not_begin_with_a_home_folder(home: Path) -> None:
    for name in ("a/~/b", "~nobody-of-this-name/b", "a~", ""):
        assert str(expanded(name)) == str(Path(name))
    assert load_prompts("~/prompts.txt")[0].text == "a red circle"
