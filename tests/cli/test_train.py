"""`stepcredit train` on the toy policy: run directory, output, interruption and resuming."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.command_line import TOY, newest_checkpoint, only_line, refused, rows, stepcredit, tree
from tests.toy_policy import WEIGHTS, ToyPolicy

from stepcredit.config import TrainConfig
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.maths import Transition
from stepcredit.report import write_report
from stepcredit.runs import history, recipes
from stepcredit.runs.directory import RunDirectory
from stepcredit.utils.files import locked

pytestmark = pytest.mark.usefixtures("toy")


def reward_file(path: Path, body: str) -> str:
    """A reward module whose `reward` runs `body` before it scores warmth; returns the name to give."""
    lines = [
        "from pathlib import Path",
        "import torch",
        "def reward(images, prompts, metadata):",
        "    scores = images.mean((2, 3))[:, 0] - images.mean((2, 3))[:, 2]",
        *(f"    {line}" for line in body.splitlines()),
        "    return scores",
    ]
    path.write_text("\n".join(lines))
    return f"reward.name={path}:reward"


def at_call(number: int, action: str) -> str:
    """Body of a reward that does `action` at its call `number`, as long as a file named `broken` exists."""
    return "\n".join(
        [
            "reward.calls = getattr(reward, 'calls', 0) + 1",
            f"if reward.calls == {number} and Path('broken').exists():",
            f"    {action}",
        ]
    )


def test_a_run_prints_its_settings_and_its_files(here: Path) -> None:
    said = stepcredit("train", *TOY)
    assert (said.code, said.err) == (0, "")
    opening, prompts, check, *epochs, result, before, after, curve, weights, sample = said.out.splitlines()
    run = "runs/embedded_jpeg-001"
    assert opening == f"training: embedded, reward warmth, credit contribution, 8 images x 4 steps an epoch, in {run}"
    assert prompts.startswith("prompts: the first 2 of the 64 prompts of shapes")
    assert check == "self-check: 4 steps of 8 images replay exact (mixed-steps)"
    assert [line[:11] for line in epochs] == ["epoch   1/3", "epoch   2/3", "epoch   3/3"]
    assert result.startswith("reward ") and result.endswith("after 24 reward queries")
    assert before.split() == ["pictures", f"{run}/samples/epoch_0000.png", "(before)"]
    assert after.split() == [f"{run}/samples/epoch_0003.png", "(after)"]
    assert curve.split() == ["curve", f"{run}/report.html"]
    assert weights.split() == ["weights", f"{run}/lora/{WEIGHTS}"]
    assert sample.strip() == (
        f"sample    stepcredit sample {run} --prompt 'a blue circle on a green background' --out samples"
    )
    for line in (before, after, curve, weights):
        assert (here / line.split()[-1 if line in (curve, weights) else -2]).is_file()


def epochs_of(policies: Sequence[ToyPolicy]) -> list[list[str]]:
    """The prompts of every epoch that some commands trained, each once; sample grids have only two images."""
    rollouts = [prompts for policy in policies for prompts, _ in policy.rollouts if len(prompts) > 2]
    return [list(dict.fromkeys(prompts)) for prompts in rollouts]


def test_a_run_goes_through_a_whole_file_in_shuffled_order(here: Path, toy: list[ToyPolicy]) -> None:
    lines = [f"prompt {number}" for number in range(6)]
    (here / "mine.txt").write_text("\n".join(lines))
    said = stepcredit("train", *TOY, "prompts.source=mine.txt", "train.epochs=6", "--run", "a")
    assert "all of the 6 prompts of mine.txt" in said.out.splitlines()[1]
    assert RunDirectory(here / "a").config.prompts.order == "shuffled"
    drawn = [prompt for epoch in epochs_of(toy) for prompt in epoch]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == lines and drawn[:6] != drawn[6:]


def test_a_resumed_run_continues_the_shuffled_order(here: Path, toy: list[ToyPolicy]) -> None:
    (here / "mine.txt").write_text("\n".join(f"prompt {number}" for number in range(7)))
    stepcredit("train", *TOY, "prompts.source=mine.txt", "train.epochs=5", "--run", "whole")
    whole = epochs_of(toy)
    stepcredit("train", *TOY, "prompts.source=mine.txt", "train.epochs=2", "--run", "parts")
    stepcredit("train", "--resume", "--run", "parts", "train.epochs=5")
    assert epochs_of(toy[1:]) == whole and len(whole) == 5
    assert rows(here / "parts") == rows(here / "whole")


@pytest.mark.parametrize("recipe", ["embedded_jpeg", "embedded_flow_jpeg"])
def test_bundled_recipes_use_their_own_list_in_fixed_order_and_others_shuffled(recipe: str) -> None:
    assert recipes.load(recipe).prompts.order == "fixed"
    assert recipes.load(recipe, ["prompts.source=mine.txt"]).prompts.order == "shuffled"
    asked = ["prompts.order=fixed", "prompts.source=mine.txt"]
    assert recipes.load(recipe, asked).prompts.order == recipes.load(recipe, asked[::-1]).prompts.order == "fixed"
    assert recipes.load("sd15_aesthetic", ["prompts.source=mine.txt"]).prompts.order == "random"


def test_a_run_that_cannot_learn_is_refused_before_the_model_is_loaded(here: Path, toy: list[ToyPolicy]) -> None:
    line = refused("train", *TOY, "sample.images_per_prompt=1", "sample.prompts_per_epoch=8")
    assert "sample.images_per_prompt" in line and "train.advantage" in line and not toy


def test_long_lines_are_not_wrapped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = here / ("long " * 30) / "[bold]:smile:"
    said = stepcredit("train", *TOY, "train.epochs=1", "--run", path)
    assert said.code == 0
    assert len(said.out.splitlines()) == 10
    assert f"  curve     {path}/report.html\n" in said.out


def test_a_terminal_shows_a_progress_bar_as_well(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = stepcredit("train", *TOY)
    assert said.code == 0
    assert "epoch 3/3" in said.out, "the bar's last frame"
    assert "epoch   3/3  reward " in said.out and "runs/embedded_jpeg-001/report.html" in said.out


def test_runs_are_numbered_by_recipe(here: Path) -> None:
    (here / "mine.yaml").write_text(yaml.safe_dump({"train": {"epochs": 1}}))
    quick = [word for word in TOY if not word.startswith("train.epochs")]
    for recipe in ("mine.yaml", "mine.yaml", "embedded_warmth"):
        assert stepcredit("train", recipe, *quick, "train.epochs=0").code == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["embedded_warmth-001", "mine-001", "mine-002"]


def test_a_run_can_be_repeated_from_its_config(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "first")
    config = here / "first" / "config.yaml"
    assert set(yaml.safe_load(config.read_text())) == set(TrainConfig.model_fields)
    stepcredit("train", config, "--run", "second")
    assert rows(here / "second") == rows(here / "first")
    assert newest_checkpoint(here / "second") == newest_checkpoint(here / "first")
    assert (here / "second" / "config.yaml").read_bytes() == config.read_bytes()


def test_the_command_is_recorded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/stepcredit", "train", "--run", "a"])
    stepcredit("train", *TOY, "train.epochs=0", "--run", "a")
    assert '"command": [\n    "stepcredit",\n    "train",' in (here / "a" / "environment.json").read_text()


# Resuming


def test_a_finished_run_continues_if_epochs_is_raised(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "whole", "train.epochs=4")
    stepcredit("train", *TOY, "--run", "parts", "train.epochs=2")
    said = stepcredit("train", "--resume", "--run", "parts", "train.epochs=4")
    assert said.code == 0
    assert said.out.splitlines()[0].startswith("resuming after epoch 2: embedded")
    assert [line[:11] for line in said.out.splitlines()[3:5]] == ["epoch   3/4", "epoch   4/4"]
    assert rows(here / "parts") == rows(here / "whole")
    assert newest_checkpoint(here / "parts") == newest_checkpoint(here / "whole")
    assert RunDirectory.open(here / "parts").config.train.epochs == 4


def test_the_newest_run_is_resumed_by_default(here: Path) -> None:
    for name in ("embedded_jpeg", "embedded_warmth"):
        stepcredit("train", name, *TOY, "train.epochs=1")
    said = stepcredit("train", "--resume", "train.epochs=2")
    assert "in runs/embedded_warmth-001" in said.out.splitlines()[0]
    assert [len(rows(path)) for path in sorted((here / "runs").iterdir())] == [1, 2]


def test_a_running_run_cannot_be_resumed(here: Path) -> None:
    stepcredit("train", *TOY, "train.epochs=1", "--run", "a")
    with locked(here / "a"):
        line = refused("train", "--resume", "--run", "a", "train.epochs=2")
    assert line.startswith("a is in use: another command is training there")
    assert stepcredit("train", "--resume", "--run", "a", "train.epochs=2").code == 0


def test_all_ranks_make_the_same_exchanges_when_the_configuration_changes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepcredit("train", *TOY, "--run", "a")
    exchanged: list[list[Any]] = [[], []]
    exchange = ProcessGroup.all_gather
    for seen in exchanged:  # first as rank 0, then as a rank that reads the changed configuration
        monkeypatch.setattr(
            ProcessGroup, "all_gather", lambda self, value, seen=seen: seen.append(1) or exchange(self, value)
        )
        assert stepcredit("train", "--resume", "--run", "a", "run.keep_checkpoints=7").code == 0
    assert len(exchanged[0]) == len(exchanged[1]) > 0


def test_resuming_a_finished_run_changes_nothing(here: Path) -> None:
    def content() -> dict[str, bytes | None]:
        """Without the report and TensorBoard's files, which are written again."""
        return {name: data for name, data in tree(here / "a").items() if not name.startswith(("report", "tensorboard"))}

    stepcredit("train", *TOY, "--run", "a")
    before = content()
    said = stepcredit("train", "--resume", "--run", "a")
    assert said.code == 0 and "  curve     a/report.html\n" in said.out
    assert content() == before


# Stopping


@pytest.mark.parametrize("call", [1, 2, 4, 5])
def test_ctrl_c_saves_the_run_and_prints_the_command_that_resumes_it(here: Path, call: int) -> None:
    """Calls of the reward: the first grid, three epochs, the last grid."""
    (here / "broken").touch()
    name = reward_file(here / "stops.py", at_call(call, "raise KeyboardInterrupt"))
    said = stepcredit("train", *TOY, name, "--run", "my run")
    kept = f"my run/checkpoints/epoch_{max(call - 2, 0):04d}"
    assert said.code == 130
    assert kept in only_line(said) and only_line(said).endswith("stepcredit train --resume --run 'my run'")
    assert (here / "my run" / "report.html").exists()
    (here / "broken").unlink()
    assert stepcredit("train", "--resume", "--run", "my run").code == 0
    assert stepcredit("train", *TOY, name, "--run", "whole").code == 0
    assert rows(here / "my run") == rows(here / "whole")
    assert newest_checkpoint(here / "my run") == newest_checkpoint(here / "whole")
    assert set(tree(here / "my run" / "samples")) == {"epoch_0000.png", "epoch_0003.png"}


def test_sigterm_acts_as_ctrl_c_during_training(here: Path) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    (here / "broken").touch()
    name = reward_file(here / "stops.py", at_call(2, "import signal; signal.raise_signal(signal.SIGTERM)"))
    said = stepcredit("train", *TOY, name, "--run", "a")
    assert said.code == 130
    assert "stepcredit train --resume --run a" in only_line(said)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("moment", ["stepcredit.policy.loading.load_policy", "stepcredit.runs.checkpoint.save"])
def test_a_run_interrupted_before_its_first_checkpoint_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, interrupt)
    said = stepcredit("train", *TOY, "--run", "a")
    assert said.code == 130
    assert only_line(said).startswith("interrupted before")
    assert tree(here) == {}


# Failing


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ("raise ValueError('no judge')", "raised ValueError (no judge) on 8 images, first prompt 'a blue circle on a"),
        ("scores[5] = float('nan')", "returned nan for 1 of 8 images, first for prompt 'a "),
        ("scores = scores[:3]", "returned scores of shape (3,), expected (8,)"),
        ("scores = None", "returned a NoneType that does not convert to numbers"),
    ],
    ids=["raises", "nan", "shape", "none"],
)
def test_a_failing_reward_is_a_one_line_error_and_loses_nothing(here: Path, action: str, what: str) -> None:
    (here / "broken").touch()
    name = reward_file(here / "judge.py", at_call(3, action))
    said = stepcredit("train", *TOY, name, "--run", "a", "run.checkpoint_every=3")
    assert said.code == 2
    line = only_line(said)
    assert line.startswith(f"epoch 2: reward 'judge.py:reward' {what}".replace("judge.py", str(here / "judge.py")))
    log = Path("a", "stepcredit.log")
    assert line.endswith("stepcredit train --resume --run a" + (f" (traceback: {log})" if log.exists() else ""))
    assert log.exists() == action.startswith("raise")
    if log.exists():
        assert "Traceback" in log.read_text() and "ValueError: no judge" in log.read_text()
    (here / "broken").unlink()
    assert stepcredit("train", "--resume", "--run", "a").code == 0
    assert stepcredit("train", *TOY, name, "--run", "whole", "run.checkpoint_every=3").code == 0
    assert rows(here / "a") == rows(here / "whole")
    assert newest_checkpoint(here / "a") == newest_checkpoint(here / "whole")


def test_a_run_whose_reward_fails_at_once_can_be_resumed(here: Path) -> None:
    (here / "broken").touch()
    said = stepcredit("train", *TOY, reward_file(here / "judge.py", at_call(1, "raise OSError('down')")), "--run", "a")
    assert said.code == 2 and only_line(said).startswith("first sample grid: reward ")
    (here / "broken").unlink()
    assert stepcredit("train", "--resume", "--run", "a").code == 0
    assert len(rows(here / "a")) == 3


class Drifting(ToyPolicy):
    """Its replay differs from its rollout."""

    def replay(self, *arguments: object, **named: object) -> Transition:
        transition = super().replay(*arguments, **named)  # type: ignore[arg-type]
        return replace(transition, mean=transition.mean + 0.01)


def test_a_model_refused_by_the_self_check_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.policy.loading.load_policy", lambda config: Drifting())
    said = stepcredit("train", *TOY)
    assert said.code == 2
    assert "this pipeline does not replay" in only_line(said)
    assert set(tree(here)) <= {"runs"}


def test_a_failed_self_check_keeps_a_resumed_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepcredit("train", *TOY, "--run", "a", "train.epochs=1")
    monkeypatch.setattr("stepcredit.policy.loading.load_policy", lambda config: Drifting())
    said = stepcredit("train", "--resume", "--run", "a", "train.epochs=2")
    assert said.code == 2
    assert len(rows(here / "a")) == 1 and (here / "a" / "checkpoints" / "epoch_0001").is_dir()


def test_a_failing_report_does_not_hide_the_error_of_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr("stepcredit.training.run.write_report", broken)
    (here / "broken").touch()
    said = stepcredit("train", *TOY, reward_file(here / "judge.py", at_call(2, "raise OSError('down')")), "--run", "a")
    assert said.code == 2
    assert "raised OSError (down)" in only_line(said) and "no ink" not in said.err
    with pytest.raises(RuntimeError, match="no ink"):
        stepcredit("train", *TOY, "--run", "b")


def test_an_unexpected_error_is_a_traceback_and_keeps_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyPolicy, "export", lambda self, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stepcredit("train", *TOY, "--run", "a")
    assert (here / "a" / "report.html").exists() and len(rows(here / "a")) == 3


# Bad input. `refused` checks the exit code, the one-line error and that the working directory is unchanged


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sampel.steps=3"], "unknown key 'sampel'; did you mean 'sample'?"),
        (["train.learing_rate=1"], "unknown key 'train.learing_rate'; did you mean"),
        (["train.learning_rate=fast"], "train.learning_rate = 'fast': input should be a valid number"),
        (["sample.steps=0"], "sample.steps = 0: input should be greater than or equal to 1"),
        (["credit.window=0"], "credit.window = 0: input should be greater than or equal to 1"),
        (["credit.window=-2"], "credit.window = -2"),
        (["train.updates_per_epoch=9"], "the defaults: train.updates_per_epoch is 9 but an epoch has only 8 images"),
        (["=3"], "'=3' is not an override"),
        (["embeded_jpeg"], "unknown recipe 'embeded_jpeg' (did you mean 'embedded_jpeg'?)"),
        (["missing.yaml"], "no recipe file missing.yaml"),
        (["embedded_jpeg", "embedded_warmth"], "give one recipe, not 2: embedded_jpeg embedded_warmth"),
        (["credit.name=contribtion"], "unknown credit rule 'contribtion' (did you mean 'contribution'?)"),
        (["credit.options={windw: 3}"], "unknown contribution option 'windw'; known: none"),
        (["reward.name=warmht"], "unknown reward 'warmht' (did you mean 'warmth'?)"),
        (["reward.name=gone.py:f"], "no file gone.py"),
        (["prompts.source=shape"], "unknown prompt list 'shape' (did you mean 'shapes'?)"),
        (["prompts.source=gone.txt"], "no prompt file gone.txt"),
        (["sample.prompts_per_epoch=65"], "sample.prompts_per_epoch is 65 but the prompt source has only 64"),
        (
            ["sample.prompts_per_epoch=null", "train.updates_per_epoch=257"],
            "train.updates_per_epoch is 257 but an epoch has only 256 images",
        ),
        (["--resume"], "no run under runs/ to resume; name one with --run"),
        (["--resume", "--run", "gone"], "gone "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(arguments: list[str], line: str) -> None:
    assert refused("train", *TOY, *arguments).startswith(line)


def test_a_mistake_in_a_recipe_names_the_file(here: Path) -> None:
    (here / "mine.yaml").write_text("train:\n  epoch: 3\n")
    assert refused("train", "mine.yaml") == "unknown key 'train.epoch' in mine.yaml; did you mean 'train.epochs'?"
    (here / "mine.yaml").write_text("train: [3\n")
    assert refused("train", "mine.yaml").startswith("mine.yaml is not valid YAML: ")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("p.txt", "\n  \n", "p.txt holds no prompts"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n', "p.jsonl line 2 is not JSON"),
        ("p.jsonl", '{"text": "a"}\n', "p.jsonl line 1"),
    ],
    ids=["empty", "malformed", "keys"],
)
def test_prompt_files_are_read_before_anything_is_written(here: Path, name: str, content: str, line: str) -> None:
    (here / name).write_text(content)
    assert refused("train", *TOY, f"prompts.source={name}").startswith(line)


def test_mistakes_are_reported_before_the_model_is_loaded(toy: list[ToyPolicy]) -> None:
    for mistake in ("reward.name=warmht", "credit.name=linaer", "prompts.source=gone.txt"):
        refused("train", *TOY, mistake)
    assert toy == []


def test_a_directory_that_is_not_empty_is_not_overwritten(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    line = refused("train", *TOY, "--run", "a", "train.epochs=9", "credit.name=uniform")
    assert line.startswith("a already holds a run with another configuration (train.epochs: 3 there, 9 here; credit.")
    assert "--resume" in line and "--run" in line
    assert refused("train", *TOY, "--run", "a").startswith("a already holds a run")
    (here / "thesis").mkdir()
    (here / "thesis" / "notes.txt").write_text("years of work")
    assert refused("train", *TOY, "--run", "thesis").startswith("thesis is not empty")
    assert "is a file" in refused("train", *TOY, "--run", "thesis/notes.txt")
    assert "cannot write the run directory" in refused("train", *TOY, "--run", "thesis/notes.txt/a")


def test_resume_refuses_another_configuration(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    changes = ["train.learning_rate=1", "credit.name=uniform", "run.seed=7", "sample.eta=0.5"]
    line = refused("train", "--resume", "--run", "a", "train.epochs=4", *changes)
    assert line.startswith("a holds a different run (sample.eta: 1.0 there, 0.5 here; train.learning_rate: 0.05 there")
    assert "train.epochs" in line and "may change on resume" in line
    assert refused("train", "embedded_alignment", "--resume", "--run", "a").startswith("a holds a different run (")


def test_resume_may_change_what_changes_no_number(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    changes = ["run.trackers=[]", "run.grid_every=1", "run.self_check=false", "run.profile=false"]
    assert stepcredit("train", "--resume", "--run", "a", "train.epochs=4", *changes).code == 0


def test_places_may_change_on_resume(here: Path) -> None:
    name = reward_file(here / "mine.py", "pass")
    (here / "mine.txt").write_text("a cat\na dog\na fox\n")
    stepcredit("train", *TOY, name, "prompts.source=mine.txt", "--run", "whole", "train.epochs=4")
    stepcredit("train", *TOY, name, "prompts.source=mine.txt", "--run", "a")
    (here / "moved").mkdir()
    for file in ("mine.py", "mine.txt"):
        (here / file).rename(here / "moved" / file)
    (here / "a").rename(here / "moved" / "a")
    changes = [
        "train.epochs=4",
        "prompts.source=moved/mine.txt",
        "reward.name=moved/mine.py:reward",
        "model.path=another/folder",
        "model.device=cpu",
        "run.grid_images=3",
        "sample.evaluation_steps=2",
        "reward.overlap=false",
    ]
    said = stepcredit("train", "--resume", "--run", "moved/a", *changes)
    assert said.code == 0, said.err
    assert rows(here / "moved" / "a") == rows(here / "whole")
    assert RunDirectory(here / "moved" / "a").config.prompts.order == "shuffled"
    (event,) = history.events(here / "moved" / "a")
    assert {change["key"] for change in event["changes"]} == {change.partition("=")[0] for change in changes}
    assert not any(change["affects_results"] for change in event["changes"])


def test_other_prompts_at_the_place_of_the_old_ones_are_refused(here: Path) -> None:
    (here / "mine.txt").write_text("a cat\na dog\na fox\n")
    stepcredit("train", *TOY, "prompts.source=mine.txt", "--run", "a")
    (here / "mine.txt").write_text("a cat\na dog\nan owl\n")
    again = ["train", "--resume", "--run", "a", "train.epochs=4"]
    line = refused(*again)
    assert "prompts.source" in line and "--allow-change" in line
    assert stepcredit(*again, "--allow-change").code == 0
    assert stepcredit("train", "--resume", "--run", "a", "train.epochs=5").code == 0
    assert "other prompts" in (here / "a" / "report.html").read_text()


def test_what_changes_the_results_may_change_if_allowed(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    changes = ["train.learning_rate=0.01", "credit.name=uniform", "train.epochs=5"]
    assert "--allow-change" in refused("train", "--resume", "--run", "a", *changes)
    said = stepcredit("train", "--resume", "--run", "a", "--allow-change", *changes)
    assert said.code == 0 and "train.learning_rate 0.05 -> 0.01" in said.out
    (event,) = history.events(here / "a")
    affecting = {change["key"]: change["affects_results"] for change in event["changes"]}
    assert event["epoch"] == 3
    assert affecting == {"train.learning_rate": True, "credit.name": True, "train.epochs": False}
    report = (here / "a" / "report.html").read_text()
    assert "train.learning_rate 0.05 → 0.01 (changes the results)" in report and "after epoch 3" in report
    assert RunDirectory(here / "a").config.train.learning_rate == 0.01
    assert [row["epoch"] for row in rows(here / "a")] == [1, 2, 3, 4, 5]


def test_a_reward_of_another_name_is_not_a_place(here: Path) -> None:
    reward_file(here / "mine.py", "pass")
    stepcredit("train", *TOY, "reward.name=mine.py:reward", "--run", "a")
    again = ["train", "--resume", "--run", "a", "train.epochs=4"]
    assert "reward.name" in refused(*again, "reward.name=mine.py:other")
    assert "reward.name" in refused(*again, "reward.name=jpeg_compressibility")


def test_a_new_run_starts_from_the_weights_of_another(here: Path, toy: list[ToyPolicy]) -> None:
    stepcredit("train", *TOY, "--run", "a")
    said = stepcredit("train", "--from", "a", "--run", "b", "train.epochs=0", "train.learning_rate=0.01")
    assert said.code == 0, said.err
    first, second = toy
    assert first.target.any() and first.target.equal(second.target)
    config = RunDirectory(here / "b").config
    assert (config.sample.steps, config.train.learning_rate, config.train.epochs) == (4, 0.01, 0)
    assert "weights of a, epoch 3" in (here / "b" / "report.html").read_text()
    assert stepcredit("train", "--resume", "--run", "b", "train.epochs=1").code == 0
    assert not toy[-1].target.equal(first.target) and rows(here / "b")[0]["reward_queries"] == 8
    said = stepcredit("train", "embedded_warmth", "--from", "a", *TOY, "train.epochs=0")
    assert said.code == 0 and toy[-1].target.equal(first.target)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--from", "gone"], "gone"),
        (["--from", "a", "--resume"], "--resume"),
        (["--allow-change"], "--resume"),
    ],
)
def test_options_that_do_not_fit_together(here: Path, arguments: list[str], part: str) -> None:
    assert part in refused("train", *TOY, *arguments)


def test_resume_needs_a_valid_checkpoint(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    for folder in (here / "a" / "checkpoints").iterdir():
        (folder / "tensors.safetensors").write_bytes(b"torn")
    line = refused("train", "--resume", "--run", "a")
    assert line.startswith("checkpoint a/checkpoints/epoch_0003 is damaged")
    for path in (here / "a" / "checkpoints").rglob("*"):
        path.rename(here / path.name) if path.is_dir() else None
    assert refused("train", "--resume", "--run", "a", "train.epochs=5") == "a holds no checkpoint to resume from"


def test_fewer_epochs_than_are_finished_is_an_error(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    line = refused("train", "--resume", "--run", "a", "train.epochs=2")
    assert "3 epochs" in line and "train.epochs" in line
    assert RunDirectory.open(here / "a").config.train.epochs == 3


def test_the_default_configuration_is_that_of_the_default_recipe(here: Path) -> None:
    stepcredit("train", *TOY, "--run", "a")
    stepcredit("train", recipes.DEFAULT, *TOY, "--run", "b")
    assert (here / "a" / "config.yaml").read_bytes() == (here / "b" / "config.yaml").read_bytes()
    assert write_report(here / "a").exists()
