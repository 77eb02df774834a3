"""`stepcredit sample` on the toy policy: files, weights and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.command_line import TOY, only_line, refused, stepcredit, tree
from tests.tiny import tiny_sd
from tests.toy_policy import ToyPolicy

from stepcredit.config import TrainConfig

pytestmark = pytest.mark.usefixtures("toy")


def index(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / str(row["file"]))) for row in index(folder)]


def test_a_png_per_image_and_an_index(here: Path) -> None:
    (here / "more.txt").write_text("A Hill!\n???\n")
    arguments = ["--prompt", "a lake", "--prompts", "more.txt", "--images", "2", "--out", "deep/down"]
    said = stepcredit("sample", "embedded", *arguments)
    assert (said.code, said.out, said.err) == (0, "6 images in deep/down\n", "")
    names = ["a-lake", "a-lake", "a-hill", "a-hill", "prompt", "prompt"]
    assert index(here / "deep/down") == [
        {"prompt": prompt, "number": number, "file": f"{number:04d}_{name}.png"}
        for number, (prompt, name) in enumerate(zip(["a lake"] * 2 + ["A Hill!"] * 2 + ["???"] * 2, names, strict=True))
    ]
    assert set(tree(here / "deep/down")) == {"samples.jsonl", *(str(row["file"]) for row in index(here / "deep/down"))}
    assert {picture.shape for picture in pixels(here / "deep/down")} == {(8, 8, 3)}


def test_files_of_prompts_in_any_script_are_told_by_their_name(here: Path) -> None:
    prompts = ["一只猫", "एक बिल्ली", "🐈", "кошка 7", "a+b"]
    given = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert stepcredit("sample", "embedded", *given, "--out", "a").code == 0
    names = [str(row["file"]) for row in index(here / "a")]
    assert names == ["0000_一只猫.png", "0001_एक-बिल्ली.png", "0002_cat.png", "0003_кошка-7.png", "0004_a-b.png"]
    assert all((here / "a" / name).is_file() for name in names)


def test_the_seed_determines_the_images(here: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        stepcredit("sample", "embedded", "--prompt", "a lake", "--images", "2", "--seed", seed, "--out", name)
    first, again, other = (pixels(here / name) for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[0], other[0])


def test_a_run_is_sampled_with_its_newest_weights(here: Path, toy: list[ToyPolicy]) -> None:
    stepcredit("train", *TOY, "--run", "a")
    said = stepcredit("sample", "a", "--prompt", "a lake", "--out", "after")
    assert said.code == 0
    trained, sampled = toy
    assert trained.target.any() and trained.target.equal(sampled.target)


def test_images_do_not_depend_on_the_batch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepcredit("sample", "embedded", "--prompts", "animals-held-out", "--images", "3", "--out", "a")
    monkeypatch.setattr("stepcredit.evaluation.sampling.BATCH", 5)
    stepcredit("sample", "embedded", "--prompts", "animals-held-out", "--images", "3", "--out", "b")
    assert tree(here / "a") == tree(here / "b") and len(tree(here / "a")) == 25


def test_a_prompt_is_needed() -> None:
    assert "--prompt TEXT or --prompts FILE" in refused("sample", "embedded")


@pytest.mark.parametrize(
    ("prompts", "line"),
    [("gone.txt", "no prompt file gone.txt"), ("shape", "unknown prompt list 'shape' (did you mean 'shapes'?)")],
)
def test_unknown_prompts_are_refused(prompts: str, line: str) -> None:
    assert refused("sample", "embedded", "--prompts", prompts).startswith(line)


def test_an_unknown_folder_is_refused(here: Path) -> None:
    (here / "empty").mkdir()
    assert refused("sample", "empty", "--prompt", "a").startswith("empty is neither a run (no config.yaml) nor ")


def test_a_run_without_a_checkpoint_is_refused(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    (here / "a" / "checkpoints").rename(here / "elsewhere")
    assert refused("sample", "a", "--prompt", "a").startswith("a holds no checkpoint")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_must_be_a_folder(here: Path, out: str) -> None:
    (here / "file").write_text("mine")
    line = refused("sample", "embedded", "--prompt", "a", "--out", out)
    assert line.startswith(f"cannot write to {out}: ") and line.endswith("; choose another --out")


def test_a_full_disk_is_a_one_line_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    said = stepcredit("sample", "embedded", "--prompt", "a", "--out", "out")
    assert said.code == 2 and only_line(said).startswith("cannot write to out: No space left on device")
    assert set(tree(here)) == {"out"}


def test_steps_and_guidance_default_to_those_of_the_source(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def load_policy(config: TrainConfig, **_: bool) -> ToyPolicy:
        seen.append((config.sample.steps, config.sample.guidance))
        return ToyPolicy(config.sample.steps)

    def make_policy(pipeline: object, config: TrainConfig, **_: bool) -> ToyPolicy:
        return load_policy(config)

    monkeypatch.setattr("stepcredit.policy.loading.load_policy", load_policy)
    monkeypatch.setattr("stepcredit.policy.loading.make_policy", make_policy)
    monkeypatch.setattr("stepcredit.policy.loading.load_pipeline", lambda section: tiny_sd())
    index = {"_class_name": "StableDiffusionPipeline"}
    monkeypatch.setattr("stepcredit.runs.model_defaults.read_model_index", lambda _: index)
    stepcredit("train", *TOY, "--run", "a")
    for source in ("a", "embedded", "some/model"):
        stepcredit("sample", source, "--prompt", "a lake", "--out", "plain")
        stepcredit("sample", source, "--prompt", "a lake", "--out", "asked", "--steps", "5", "--guidance", "2")
    assert seen == [(4, 1.0), (4, 1.0), (5, 2.0), (20, 3.0), (5, 2.0), (50, 5.0), (5, 2.0)]


def test_a_folder_that_is_missing_is_called_so(here: Path) -> None:
    (here / "runs").mkdir()
    assert "there is no folder runs/nope" in refused("sample", "runs/nope", "--prompt", "a cat")
    assert "there is no folder runs/nope" in refused("evaluate", "runs/nope")
