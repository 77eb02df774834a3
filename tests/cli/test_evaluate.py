"""`stepcredit evaluate` on the toy policy: prompts, rewards, output and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.command_line import TOY, only_line, refused, stepcredit, tree
from tests.toy_policy import ToyPolicy

from stepcredit.config import TrainConfig
from stepcredit.prompts import load_prompts
from stepcredit.rewards import REWARDS

MINE = """
def dark(images, prompts, metadata):
    return -images.mean((1, 2, 3))

def broken(images, prompts, metadata):
    if "a hill" in prompts:
        raise ValueError("no judge")
    return images.mean((1, 2, 3))
"""


@pytest.fixture(autouse=True)
def _working_directory(here: Path, toy: list[ToyPolicy], monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory has mine.py and mine.txt, and every model is a toy policy."""
    (here / "mine.py").write_text(MINE)
    (here / "mine.txt").write_text("a lake\na hill\na tree\n")

    def make_policy(_: object, config: TrainConfig, **__: bool) -> ToyPolicy:
        toy.append(ToyPolicy(config.sample.steps))
        return toy[-1]

    monkeypatch.setattr("stepcredit.policy.loading.load_pipeline", lambda section: section.path)
    monkeypatch.setattr("stepcredit.policy.loading.make_policy", make_policy)


def run(name: str, *overrides: str) -> str:
    said = stepcredit("train", *TOY, "train.epochs=1", *overrides, "--run", name)
    assert (said.code, said.err) == (0, "")
    return name


def evaluated(*arguments: str) -> dict[str, Any]:
    said = stepcredit("evaluate", *arguments, "--json")
    assert (said.code, said.err) == (0, "")
    result: dict[str, Any] = json.loads(said.out)
    return result


def sets(result: dict[str, Any], number: int = 0) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in result["evaluations"][number]["sets"]}


# Prompts


def test_a_run_is_evaluated_on_its_training_and_held_out_prompts() -> None:
    found = sets(evaluated(run("a"), "--images", "1"))
    assert list(found) == ["training", "held-out"]
    training, held_out = ([row["prompt"] for row in found[name]["by_prompt"]] for name in found)
    assert training == [prompt.text for prompt in load_prompts("shapes")[:2]]
    assert held_out == [prompt.text for prompt in load_prompts("shapes-held-out")]
    assert found["held-out"]["source"] == "shapes-held-out"


def test_training_prompts_in_random_order_are_the_whole_list() -> None:
    arguments = ("--prompts", "training", "--images", "1")
    drawn = evaluated(run("a", "prompts.source=animals", "prompts.order=random"), *arguments)
    assert sets(drawn)["training"]["prompts"] == 45
    whole = evaluated(run("b", "prompts.source=mine.txt", "sample.prompts_per_epoch=null"), *arguments)
    assert sets(whole)["training"]["prompts"] == 3


def test_a_prompt_file_has_no_held_out_prompts() -> None:
    name = run("a", "prompts.source=mine.txt")
    assert list(sets(evaluated(name))) == ["training"]
    assert refused("evaluate", name, "--prompts", "held-out").startswith(
        "a is trained on mine.txt, which has no held-out"
    )


def test_given_prompts_replace_the_default() -> None:
    name = run("a")
    assert list(sets(evaluated(name, "--prompts", "mine.txt"))) == ["mine.txt"]
    asked = ("--prompts", "training", "--prompts", "animals-held-out", "--prompts", "training")
    assert list(sets(evaluated(name, *asked))) == ["training", "animals-held-out"]


# Rewards


def test_the_rewards_of_the_run_come_first() -> None:
    arguments = ("--prompts", "mine.txt", "--reward", "jpeg_compressibility", "--reward", "mine.py:dark")
    (found,) = evaluated(run("a"), *arguments, "--reward", "warmth")["evaluations"]
    assert found["trained_on"] == "warmth"
    assert list(found["sets"][0]["rewards"]) == ["warmth", "jpeg_compressibility", "mine.py:dark"]


def test_a_mixture_is_shown_with_its_components() -> None:
    parts = "reward={components: [{name: warmth}, {name: jpeg_compressibility, weight: 0}]}"
    said = stepcredit("train", *TOY[:-2], "train.epochs=1", parts, "run.grid_images=2", "--run", "a")
    assert said.code == 0
    found = sets(evaluated("a", "--prompts", "mine.txt", "--reward", "warmth"))["mine.txt"]
    assert list(found["rewards"]) == ["mixture", "mixture.warmth", "mixture.jpeg_compressibility", "warmth"]
    assert found["rewards"]["mixture.warmth"] == found["rewards"]["warmth"]


def test_rewards_are_built_once_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("a"), run("b", "run.seed=1")
    built = []
    warmth = REWARDS.get("warmth")
    counted = type("Counted", (warmth,), {"__init__": lambda self: built.append(1)})
    monkeypatch.setitem(REWARDS._parts, "warmth", counted)
    assert evaluated(*names, "--prompts", "mine.txt")["cross"][0]["rewards"] == ["warmth"]
    assert len(built) == 1


def test_a_reward_server_is_given_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remote(name: str, address: str, options: dict[str, Any]) -> Any:
        asked.append((name, address))
        return REWARDS.get("warmth")()

    monkeypatch.setattr("stepcredit.rewards.remote_reward", remote)
    found = evaluated("embedded", "--prompts", "mine.txt", "--reward", "nice@http://127.0.0.1:1")
    assert asked == [("nice", "http://127.0.0.1:1")]
    assert list(sets(found)["mine.txt"]["rewards"]) == ["nice@http://127.0.0.1:1"]


# Figures


def test_base_scores_are_those_of_the_model() -> None:
    result = evaluated(run("a", "train.epochs=3"), "--prompts", "mine.txt", "--images", "3")
    figure = sets(result)["mine.txt"]["rewards"]["warmth"]
    assert figure["difference"]["mean"] == pytest.approx(figure["tuned"]["mean"] - figure["base"]["mean"])
    assert figure["difference"]["interval"][0] > 0
    rows = sets(result)["mine.txt"]["by_prompt"]
    assert [len(row["base"]["scores"]["warmth"]) for row in rows] == [3, 3, 3]
    model = evaluated("embedded", "--prompts", "mine.txt", "--images", "3", "--reward", "warmth", "--steps", "4")
    untrained = sets(model)["mine.txt"]["by_prompt"]
    assert [row["base"] for row in untrained] == [row["base"] for row in rows]


def test_the_seed_determines_the_output() -> None:
    arguments = ("evaluate", run("a"), "--prompts", "mine.txt", "--json")
    first, again, other = stepcredit(*arguments), stepcredit(*arguments), stepcredit(*arguments, "--seed", "1")
    assert first == again and first.out != other.out


def test_one_prompt_has_no_interval_and_one_image_no_diversity(here: Path) -> None:
    (here / "one.txt").write_text("a lake\n")
    arguments = ("embedded", "--prompts", "one.txt", "--reward", "warmth", "--images", "1")
    found = sets(evaluated(*arguments))["one.txt"]
    assert found["rewards"]["warmth"]["base"]["interval"] is None and found["diversity"]["base"]["mean"] is None
    text = stepcredit("evaluate", *arguments).out
    assert "one prompt" in text and "--images 2" in text


def test_steps_and_guidance_default_to_those_of_the_source() -> None:
    name = run("a", "sample.evaluation_steps=3", "sample.guidance=1.5")
    asked = ("--steps", "5", "--guidance", "2")
    more = ("--prompts", "mine.txt", "--reward", "warmth", "--images", "1")
    found = [
        (evaluation["steps"], evaluation["guidance"])
        for source in (name, "embedded")
        for given in ((), asked)
        for evaluation in evaluated(source, *more, *given)["evaluations"]
    ]
    assert found == [(3, 1.5), (5, 2), (20, 3), (5, 2)]


def test_the_newest_checkpoint_is_evaluated(toy: list[ToyPolicy]) -> None:
    (found,) = evaluated(run("a", "train.epochs=2"), "--prompts", "mine.txt")["evaluations"]
    assert found["checkpoint"] == "epoch_0002"
    trained, loaded = toy
    assert trained.target.any() and trained.target.equal(loaded.target)


# Several runs


def test_several_runs_make_a_cross_table() -> None:
    names = run("a"), run("b", "reward.name=mine.py:dark", "model.path=other/model")
    code = ["--reward", "mine.py:dark"]
    result = evaluated(*names, "--prompts", "mine.txt", "--prompts", "training", *code)
    assert [table["set"] for table in result["cross"]] == ["mine.txt", "training"]
    table = result["cross"][0]
    assert table["rewards"] == ["warmth", "mine.py:dark"]
    assert [(row["run"], row["trained_on"], row["model"]) for row in table["rows"]] == [
        ("a", "warmth", "embedded"),
        ("b", "mine.py:dark", "other/model"),
    ]
    own = sets(result, 1)["mine.txt"]["rewards"]["warmth"]["difference"]
    assert table["rows"][1]["entries"]["warmth"] == own
    text = stepcredit("evaluate", *names, "--prompts", "mine.txt", *code).out
    assert "embedded, other/model" in text and "mine.txt" in text


def test_user_code_of_a_run_must_be_named() -> None:
    name = run("a", "reward.name=mine.py:dark")
    assert refused("evaluate", name, "--prompts", "mine.txt").endswith("add --reward mine.py:dark")


def test_user_code_of_a_run_is_measured_once_with_the_options_of_the_run(here: Path) -> None:
    (here / "own.py").write_text("def flat(images, prompts, metadata, level=0.0):\n    return [level] * len(prompts)\n")
    arguments = ("--prompts", "mine.txt", "--images", "1", "--reward", "own.py:flat")
    found = evaluated(run("a", "reward.name=own.py:flat", "reward.options.level=2.0"), *arguments)
    assert {name: figure["base"]["mean"] for name, figure in sets(found)["mine.txt"]["rewards"].items()} == {
        "own.py:flat": 2
    }
    part = "{name: own.py:flat, options: {level: 3.0}, standardize: none}"
    mixture = f"reward={{components: [{part}, {{name: warmth, weight: 0}}]}}"
    said = stepcredit("train", *TOY[:-2], "train.epochs=1", mixture, "run.grid_images=2", "--run", "b")
    assert said.code == 0, said
    names = ["mixture", "mixture.flat", "mixture.warmth"]
    assert list(sets(evaluated("b", *arguments))["mine.txt"]["rewards"]) == names


def test_a_run_whose_reward_was_made_in_python_needs_another_reward() -> None:
    name = run("a")
    config = Path(name, "config.yaml")
    config.write_text(config.read_text().replace("name: warmth", "name: python:mine.<lambda>"))
    assert "python:mine.<lambda>" in refused("evaluate", name, "--prompts", "mine.txt")
    (found,) = evaluated(name, "--prompts", "mine.txt", "--reward", "warmth")["evaluations"]
    assert found["trained_on"] == "python:mine.<lambda>" and list(found["sets"][0]["rewards"]) == ["warmth"]


def test_a_run_whose_model_was_made_in_python_is_refused() -> None:
    config = Path(run("a"), "config.yaml")
    config.write_text(config.read_text().replace("path: embedded", "path: python:mine.Pipeline"))
    for command in (["evaluate", "a"], ["sample", "a", "--prompt", "x"], ["export", "a", "--out", "out"]):
        assert "Trainer(model=..., output_dir='a')" in refused(*command)


def test_rewards_with_other_options_get_unique_names() -> None:
    names = (
        run("a", "reward.name=jpeg_compressibility"),
        run("b", "reward.name=jpeg_compressibility", "reward.options.quality=50"),
        run("c", "reward.name=jpeg_compressibility", "reward.overlap=false"),
    )
    result = evaluated(*names, "--prompts", "mine.txt", "--images", "1")
    assert result["cross"][0]["rewards"] == ["jpeg_compressibility of a", "jpeg_compressibility of b"]
    assert [row["trained_on"][-1] for row in result["cross"][0]["rows"]] == ["a", "b", "a"]


def test_one_run_gets_a_cross_table_with_the_option() -> None:
    name = run("a")
    assert evaluated(name, "--prompts", "mine.txt")["cross"] == []
    assert len(evaluated(name, "--prompts", "mine.txt", "--cross")["cross"][0]["rows"]) == 1


# Output


def test_text_json_and_file_agree(here: Path) -> None:
    arguments = ("evaluate", run("a"), "--prompts", "mine.txt", "--out", "deep/a.json")
    text, as_json = stepcredit(*arguments), stepcredit(*arguments, "--json")
    assert json.loads((here / "deep/a.json").read_text()) == json.loads(as_json.out)
    assert set(tree(here / "deep")) == {"a.json"}
    lines = text.out.splitlines()
    assert "epoch_0001" in lines[0] and "3 prompts, 12 images" in lines[2]
    assert [line.split()[0] for line in lines[4:6]] == ["warmth", "diversity"]


def test_results_are_printed_even_if_the_file_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    name = run("a")
    monkeypatch.setattr("stepcredit.cli.evaluate.write_atomically", full)
    said = stepcredit("evaluate", name, "--prompts", "mine.txt", "--out", "a.json")
    assert said.code == 2 and only_line(said).startswith("cannot write to a.json: No space left on device")
    assert "warmth" in said.out


# Bad input


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--reward", "warmth"], "embedded is a model, which has no prompts of its own: give --prompts NAME or FILE"),
        (["--prompts", "training"], "embedded is a model, which has no training prompts: give --prompts NAME or FILE"),
        (["--prompts", "mine.txt"], "embedded is a model, which has no reward of its own: give --reward NAME"),
        (["--prompts", "gone.txt"], "no prompt file gone.txt"),
        (["--prompts", "empty.txt"], "empty.txt holds no prompts"),
        (["--prompts", "shape"], "unknown prompt list 'shape' (did you mean 'shapes'?)"),
        (["--prompts", "mine.txt", "--reward", "warmt"], "unknown reward 'warmt' (did you mean 'warmth'?)"),
        (["--prompts", "mine.txt", "--reward", "mine.py:drak"], "unknown function or class of mine.py 'drak' (did"),
        (["--prompts", "mine.txt", "--cross"], "embedded is a model: a cross table compares runs"),
        (["other/model", "--prompts", "mine.txt"], "embedded is a model: a cross table compares runs"),
        (["--prompts", "mine.txt", "--out", "mine.txt/a.json"], "cannot write to mine.txt/a.json: "),
        (["--prompts", "mine.txt", "--out", "folder"], "cannot write to folder: it is a folder; choose another --out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(here: Path, toy: list[ToyPolicy], arguments: list[str], line: str) -> None:
    (here / "folder").mkdir()
    (here / "empty.txt").write_text("\n")
    assert refused("evaluate", "embedded", *arguments).startswith(line)
    assert toy == []


def test_a_run_without_checkpoint_and_an_unknown_folder_are_refused(here: Path) -> None:
    (here / run("a") / "checkpoints").rename(here / "elsewhere")
    assert refused("evaluate", "a") == "a holds no checkpoint to evaluate"
    assert refused("evaluate", "elsewhere").startswith("elsewhere is neither a run (no config.yaml) nor a diffusers")


def test_a_failing_reward_names_the_run_and_the_prompt() -> None:
    line = refused("evaluate", run("a"), "--prompts", "mine.txt", "--reward", "mine.py:broken")
    assert line.startswith("a, mine.txt prompts, image 1 of prompt 'a hill': reward 'mine.py:broken' raised ValueError")


def test_results_carry_the_versions_that_they_were_made_with() -> None:
    arguments = ["evaluate", run("a"), "--prompts", "mine.txt", "--images", "1"]
    found = evaluated(*arguments[1:])["versions"]
    assert found["packages"]["torch"] == torch.__version__ and found["packages"]["stepcredit"] and found["python"]
    assert f"torch {torch.__version__}" in stepcredit(*arguments).out
