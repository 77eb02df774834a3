"""`stepcredit.Trainer` on the toy policy and on the bundled pipeline."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from tests.cli.command_line import TINY, newest_checkpoint, rows, stepcredit, tree
from tests.families import FAMILIES
from tests.policy.adapted import images
from tests.toy_policy import WEIGHTS, ToyPolicy
from torch import Tensor

from stepcredit import EpochImages, InputError, Interrupted, Prompt, StopTraining, TrainConfig, Trainer
from stepcredit.config import ModelSection, RewardSection, TrainSection
from stepcredit.credit.uniform import Uniform
from stepcredit.shapes.pipeline import load_pipeline

PROMPTS = ["a lake", "a hill"]
SECTIONS: dict[str, dict[str, Any]] = {
    "sample": {"steps": 4, "images_per_prompt": 4},
    "train": {"epochs": 2, "updates_per_epoch": 2, "learning_rate": 0.05},
    "run": {"grid_images": 2},
}
"""8 images of 4 steps per epoch."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def redness(images: Tensor, prompts: Any = (), metadata: Any = ()) -> Tensor:
    return images[:, 0].mean((1, 2))


def toy_trainer(output_dir: str | None = "run", **changes: Any) -> Trainer:
    arguments: dict[str, Any] = {"model": ToyPolicy(), "reward": redness, "prompts": PROMPTS, **SECTIONS, **changes}
    return Trainer(credit={"name": "contribution", "window": 2}, output_dir=output_dir, **arguments)


def recorded(run: str = "run") -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(Path(run, "config.yaml").read_text())
    return config


def weights(run: str) -> bytes | None:
    """Weights and optimizer of the newest checkpoint."""
    return newest_checkpoint(Path(run))["tensors.safetensors"]


# Training


def test_training_returns_the_history_and_what_was_written(here: Path) -> None:
    result = toy_trainer().train()
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert result.output_dir == Path("run")
    assert result.weights == Path("run/lora") / WEIGHTS and result.weights.is_file()
    assert result.before == Path("run/samples/epoch_0000.png") and result.before.is_file()
    assert result.after == Path("run/samples/epoch_0002.png") and result.after.is_file()
    assert not result.stopped_early


@pytest.mark.parametrize(
    "config", [None, "embedded_jpeg", TrainConfig(), TrainConfig(train={"epochs": 3})], ids=lambda config: type(config)
)
def test_a_list_of_prompts_is_used_up_in_shuffled_order(config: Any) -> None:
    policy = ToyPolicy()
    trainer = toy_trainer(
        model=policy,
        prompts=[f"prompt {number}" for number in range(8)],
        sample={**SECTIONS["sample"], "prompts_per_epoch": 4},
        config=config,
    )
    assert trainer.config.prompts.order == "shuffled"
    trainer.train()
    drawn = [prompt for prompts, _ in policy.rollouts if len(prompts) == 16 for prompt in dict.fromkeys(prompts)]
    assert len(drawn) == 8 == len(set(drawn))
    trainer = toy_trainer("again", prompts={"source": ["a", "b"], "order": "fixed"}, config=config)
    assert trainer.config.prompts.order == "fixed"


def test_training_changes_the_samples() -> None:
    trainer = toy_trainer()
    before = trainer.sample("a lake")
    trainer.train()
    after = trainer.sample(PROMPTS, images=2)
    assert len(after) == 4 and all(isinstance(image, Image.Image) for image in after)
    assert before[0].tobytes() != after[0].tobytes()
    assert after[0].tobytes() == trainer.sample("a lake")[0].tobytes(), "the noise depends on the seed and position"


def test_a_second_call_of_train_continues_the_run() -> None:
    toy_trainer("whole", train={**SECTIONS["train"], "epochs": 3}).train()
    parts = toy_trainer("parts")
    parts.train()
    assert parts.train().history[-1]["epoch"] == 2, "nothing left to do"
    assert len(parts.train(epochs=3).history) == 3
    assert rows(Path("parts")) == rows(Path("whole"))
    assert weights("parts") == weights("whole")


def test_without_an_output_directory_runs_are_numbered() -> None:
    for number in (1, 2):
        trainer = toy_trainer(None)
        trainer.train(epochs=0)
        assert trainer.output_dir == Path(f"runs/python-00{number}")


def test_nothing_is_printed_and_messages_are_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stepcredit")
    trainer = Trainer(
        model="embedded",
        reward=redness,
        prompts=["a red circle"],
        output_dir="run",
        sample={"steps": 3, "images_per_prompt": 2},
        train={"epochs": 1, "updates_per_epoch": 1},
        run={"grid_images": 1},
    )
    trainer.train()
    trainer.sample("a red circle")
    assert capfd.readouterr() == ("", "")
    messages = [record.message for record in caplog.records]
    assert any("self-check" in message for message in messages)
    assert any(message.startswith("epoch   1/1  reward ") for message in messages)


def test_progress_is_printed_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    toy_trainer(progress=True).train()
    assert "epoch   2/2" in capsys.readouterr().out


# Callbacks


def test_callbacks_get_metrics_and_images_after_every_epoch() -> None:
    seen: list[tuple[Mapping[str, Any], EpochImages]] = []
    result = toy_trainer(callbacks=[lambda metrics, images: seen.append((metrics, images))]).train()
    assert [metrics["epoch"] for metrics, _ in seen] == [1, 2]
    metrics, images = seen[-1]
    assert metrics["reward_mean"] == pytest.approx(result.history[-1]["reward_mean"])
    assert len(images) == 8 and list(images.prompts) == ["a lake"] * 4 + ["a hill"] * 4
    assert images.pixels.shape == (8, 3, 8, 8) and images[3].size == (8, 8)
    assert torch.allclose(images.scores, redness(images.pixels))


def test_a_callback_stops_the_run_and_train_continues_it() -> None:
    def stop(metrics: Mapping[str, Any], images: EpochImages) -> None:
        if metrics["epoch"] == 1 and not stopped:
            stopped.append(1)
            raise StopTraining

    stopped: list[int] = []
    trainer = toy_trainer("a", callbacks=[stop])
    result = trainer.train()
    assert result.stopped_early and len(result.history) == 1
    assert result.after == Path("a/samples/epoch_0001.png") and result.weights.is_file()
    result = trainer.train()
    assert not result.stopped_early and len(result.history) == 2
    toy_trainer("b").train()
    assert rows(Path("a")) == rows(Path("b"))


def test_a_callback_changes_nothing_outside(here: Path) -> None:
    def careless(metrics: Mapping[str, Any], images: EpochImages) -> None:
        seen.append(dict(metrics))
        metrics.clear()  # type: ignore[attr-defined]
        torch.set_grad_enabled(False)
        os.chdir("/")

    seen: list[dict[str, Any]] = []
    result = toy_trainer(callbacks=[careless, careless]).train()
    assert [metrics["epoch"] for metrics in seen] == [1, 1, 2, 2]
    assert Path.cwd() == here and torch.is_grad_enabled() and len(result.history) == 2


def test_images_of_an_epoch_are_a_sequence() -> None:
    def look(metrics: Mapping[str, Any], images: EpochImages) -> None:
        sizes.append(([image.size for image in images[2:4]], len(list(images)), images[-1].size))

    sizes: list[Any] = []
    toy_trainer(callbacks=[look]).train(epochs=1)
    assert sizes == [([(8, 8)] * 2, 8, (8, 8))]


def test_a_callback_that_raises_leaves_a_checkpoint() -> None:
    def fail(metrics: Mapping[str, Any], images: EpochImages) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        toy_trainer(callbacks=[fail]).train()
    assert len(toy_trainer().resume().history) == 2


def test_sigterm_stops_the_run_with_a_checkpoint() -> None:
    def stop(metrics: Mapping[str, Any], images: EpochImages) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"Trainer\(\.\.\., output_dir='run'\)\.resume\(\)"):
        toy_trainer(callbacks=[stop]).train()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert len(toy_trainer().resume().history) == 2


def test_other_libraries_log_as_before_after_a_run() -> None:
    diffusers.logging.set_verbosity_info()
    diffusers.logging.enable_progress_bar()
    try:
        Trainer(**{**TINY_SECTIONS, "sample": {"steps": 1}}).sample("a red circle")
        assert diffusers.logging.get_verbosity() == logging.INFO
        assert diffusers.logging.is_progress_bar_enabled()
    finally:
        diffusers.logging.set_verbosity_error()
        diffusers.logging.disable_progress_bar()


# What is recorded, and resuming


def test_objects_are_recorded_as_what_they_are() -> None:
    toy_trainer(reward=lambda images, prompts, metadata: redness(images)).train(epochs=0)
    config = recorded()
    assert config["model"]["path"] == "python:ToyPolicy"
    assert config["reward"]["name"].startswith("python:") and "<lambda>" in config["reward"]["name"]


def test_prompts_are_written_into_the_run_directory() -> None:
    prompts = [{"prompt": "a lake", "count": 3}, {"prompt": "a hill", "count": 4}]
    toy_trainer(prompts=prompts).train(epochs=0)
    assert recorded()["prompts"]["source"] == "run/prompts.jsonl"
    toy_trainer(prompts=[Prompt("a lake", {"count": 3}), Prompt("a hill", {"count": 4})]).resume()
    with pytest.raises(InputError, match=r"other prompts.*run/prompts\.jsonl"):
        toy_trainer(prompts=["a lake", "a road"]).resume()


def test_the_command_line_says_what_a_run_with_objects_needs() -> None:
    toy_trainer().train(epochs=1)
    said = stepcredit("train", "--resume", "--run", "run", "train.epochs=2")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "model.path is python:ToyPolicy" in said.err
    assert "Trainer(model=..., output_dir='run').resume()" in said.err


def test_what_changes_the_results_needs_permission() -> None:
    toy_trainer().train()
    slower = toy_trainer(train={**SECTIONS["train"], "epochs": 3, "learning_rate": 0.01})
    with pytest.raises(InputError, match="allow_change"):
        slower.resume()
    assert len(slower.resume(allow_change=True).history) == 3
    assert len(toy_trainer(train={**SECTIONS["train"], "learning_rate": 0.01}).resume(4).history) == 4


def test_a_trainer_starts_from_the_weights_of_a_run() -> None:
    policy, second = ToyPolicy(), ToyPolicy()
    toy_trainer("a", model=policy).train()
    arguments = {"model": second, "reward": redness, "prompts": PROMPTS, "output_dir": "b", "start_from": "a"}
    trainer = Trainer(**arguments)
    assert trainer.config.sample.steps == 4 and trainer.config.train.learning_rate == 0.05
    trainer.train(epochs=0)
    assert torch.equal(second.target, policy.target) and policy.target.any()
    assert len(trainer.train(epochs=1).history) == 1
    with pytest.raises(InputError, match="gone"):
        Trainer(start_from="gone")


def test_another_trainer_resumes_the_run_if_it_gets_the_objects_again() -> None:
    toy_trainer("parts").train(epochs=1)
    again = Trainer(model=ToyPolicy(), reward=redness, output_dir="parts", train={"epochs": 2})
    again.resume()
    toy_trainer("whole").train()
    assert rows(Path("parts")) == rows(Path("whole"))
    with pytest.raises(InputError, match="reward"):
        Trainer(model=ToyPolicy(), output_dir="parts", reward="warmth").resume(epochs=3)


TINY_SECTIONS: dict[str, dict[str, Any]] = {
    "sample": {"steps": 3, "prompts_per_epoch": 2, "images_per_prompt": 2},
    "train": {"epochs": 2, "updates_per_epoch": 2},
    "run": {"grid_images": 2},
}


def test_a_run_is_resumed_on_the_command_line_and_in_python() -> None:
    """The same numbers, wherever each epoch was started."""
    assert stepcredit("train", *TINY, "--run", "whole").code == 0
    Trainer(output_dir="a", **TINY_SECTIONS).train(epochs=1)
    assert stepcredit("train", "--resume", "--run", "a", "train.epochs=2").code == 0
    assert stepcredit("train", *TINY, "train.epochs=1", "--run", "b").code == 0
    trainer = Trainer(output_dir="b")
    trainer.resume(epochs=2)
    for name in "ab":
        assert rows(Path(name)) == rows(Path("whole"))
        assert newest_checkpoint(Path(name)) == newest_checkpoint(Path("whole"))
    assert Trainer(output_dir="a").sample("a red circle")[0].tobytes() == trainer.sample("a red circle")[0].tobytes()


def test_a_pipeline_object_is_trained_on_a_lambda() -> None:
    pipeline = load_pipeline()
    trainer = Trainer(
        model={"path": pipeline, "lora_rank": 2},
        reward=lambda images, prompts, metadata: images[:, 0].mean((1, 2)),
        prompts=["a red circle", "a blue square"],
        output_dir="run",
        **{**TINY_SECTIONS, "train": {"epochs": 1, "updates_per_epoch": 2}},
    )
    trainer.train()
    config = recorded()
    assert config["model"]["path"] == "python:StableDiffusionPipeline" and config["model"]["lora_rank"] == 2
    trained = trainer.sample("a red circle")[0].tobytes()
    assert trainer.export("lora").name == "pytorch_lora_weights.safetensors"
    assert (trainer.export("merged", "merged") / "model_index.json").is_file()
    assert trainer.sample("a red circle")[0].tobytes() == trained, "exports leave the policy as it is"
    assert trainer.save().is_file() and trainer.save("elsewhere").is_file()
    assert trainer.train(epochs=2).history[-1]["ratio_max_deviation"] == 0
    with pytest.raises(InputError, match=r"unload_lora_weights"):
        Trainer(model=pipeline, output_dir="again").sample("a red circle")
    with pytest.raises(InputError, match="not an empty folder"):
        trainer.export("lora")


def test_a_lora_that_diffusers_cannot_load_is_exported_for_peft() -> None:
    tiny = FAMILIES["pixart_sigma"]
    pipeline, stock = tiny.build(0), tiny.build(0)
    trainer = Trainer(
        model=pipeline,
        reward="warmth",
        prompts=["a cat"],
        output_dir="run",
        sample={"steps": 2, "images_per_prompt": 2, "call": tiny.call},
        train={"epochs": 1, "updates_per_epoch": 1, "learning_rate": 0.1},
    )
    assert trainer.train().weights == Path("run/lora")
    trained = images(pipeline, tiny)
    assert not torch.equal(trained, images(stock, tiny))
    assert trainer.export("merged").is_dir()
    PeftModel.from_pretrained(stock.transformer, trainer.export("lora"))
    assert torch.equal(images(stock, tiny), trained)
    with pytest.raises(InputError, match="already has a LoRA: load the pipeline again"):
        Trainer(model=pipeline, output_dir="again").sample("a cat")


# Evaluating


def test_evaluation_compares_base_and_tuned_weights() -> None:
    trainer = toy_trainer()
    trainer.train()
    found = trainer.evaluate(rewards=["warmth"], images=3)
    (training,) = found["sets"]
    assert (training["name"], training["prompts"], training["images"]) == ("training", 2, 6)
    assert set(training["rewards"]) == {"redness", "warmth"}
    assert training["rewards"]["redness"]["difference"]["mean"] > 0
    other = trainer.evaluate(["a road"], images=2, steps=4)["sets"][0]
    assert (other["name"], other["images"]) == ("prompts", 2)


def test_evaluation_before_training_scores_the_base_model() -> None:
    for output_dir in ("new", None):
        (training,) = toy_trainer(output_dir).evaluate(images=np.int64(2))["sets"]
        assert training["images"] == 4 and set(training["rewards"]["redness"]) == {"base"}


def test_evaluation_gives_the_numbers_of_the_command() -> None:
    Trainer(reward="warmth", output_dir="run", **TINY_SECTIONS).train(epochs=1)
    Path("two.txt").write_text("a red circle\na blue square\n")
    said = stepcredit("evaluate", "run", "--prompts", "two.txt", "--images", "2", "--json")
    assert said.code == 0, said.err
    assert (
        Trainer(output_dir="run").evaluate("two.txt", images=2)["sets"]
        == json.loads(said.out)["evaluations"][0]["sets"]
    )


def test_comparison_needs_names() -> None:
    with pytest.raises(InputError, match=r"reward\.name is python:"):
        Trainer(reward=lambda images, prompts, metadata: redness(images)).compare(["uniform", "linear"])
    with pytest.raises(InputError, match="unknown credit rule 'linaer'"):
        Trainer(reward="warmth").compare(["uniform", "linaer"])


@pytest.mark.slow
def test_comparison_returns_the_results() -> None:
    trainer = Trainer(reward="warmth", **{**TINY_SECTIONS, "train": {"epochs": 3, "updates_per_epoch": 2}})
    results = trainer.compare(["uniform", "linear"], folder="compared", seeds=1, tuning_seeds=0, controls=[], jobs=2)
    assert results["protocol"]["fresh_seeds"] == [101]
    assert json.loads(Path("compared/results.json").read_text()) == results


# Configuration


def test_every_argument_sets_a_key() -> None:
    trainer = Trainer(
        model={"path": "embedded-flow", "lora_rank": 2},
        reward={"name": "warmth", "timeout": 60},
        prompts="shapes-held-out",
        credit={"name": "discount", "options": {"gamma": 0.9}},
        seed=7,
        sample={"steps": 5},
        train={"epochs": 3},
        run={"grid_every": 2},
    )
    expected = TrainConfig.model_validate(
        {
            "model": {"path": "embedded-flow", "lora_rank": 2},
            "reward": {"name": "warmth", "timeout": 60},
            "prompts": {"source": "shapes-held-out"},
            "credit": {"name": "discount", "options": {"gamma": 0.9}},
            "sample": {"steps": 5},
            "train": {"epochs": 3},
            "run": {"grid_every": 2, "seed": 7},
        }
    )
    assert trainer.config == expected
    assert tree(Path()) == {}, "nothing is written before train"


def test_a_section_sets_the_keys_that_were_set_of_it() -> None:
    trainer = Trainer(
        config=TrainConfig(train={"learning_rate": 0.5}),
        model=ModelSection(lora_rank=2),
        reward=RewardSection(name="jpeg_compressibility", options={"quality": 50}),
        train=TrainSection(epochs=3),
    )
    config = trainer.config
    assert (config.model.path, config.model.lora_rank) == ("embedded", 2)
    assert (config.reward.name, config.reward.options) == ("jpeg_compressibility", {"quality": 50})
    assert (config.train.epochs, config.train.learning_rate) == (3, 0.5)


def test_a_recipe_is_the_base_and_a_new_rule_or_reward_drops_the_options_of_the_old() -> None:
    base = TrainConfig.model_validate(
        {"credit": {"name": "discount", "options": {"gamma": 0.9}}, "reward": {"components": [{"name": "warmth"}]}}
    )
    changed = Trainer(config=base, credit="uniform", reward="jpeg_compressibility").config
    assert (changed.credit.options, changed.reward.components) == ({}, [])
    assert Trainer(config="embedded_warmth").config.reward.name == "warmth"
    assert Trainer(credit=Uniform()).config.credit.name == "python:stepcredit.credit.uniform.Uniform"


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"trian": {}}, ["trian", "did you mean 'train'"]),
        ({"epochs": 3}, ["epochs", "train={'epochs': ...}"]),
        ({"device": "cpu"}, ["device", "model={'device': ...}"]),
        ({"start_form": "x"}, ["did you mean 'start_from'"]),
        ({"train": 3}, ["train is 3 of type int", "mapping"]),
        ({"train": {"epoch": 3}}, ["train.epoch", "train.epochs"]),
        ({"train": {"epochs": "many"}}, ["train.epochs", "many"]),
        ({"seed": 1, "run": {"seed": 2}}, ["seed", "run.seed"]),
        ({"model": 3}, ["model is 3 of type int", "pipeline"]),
        ({"model": ToyPolicy}, ["model is", "type"]),
        ({"reward": 3}, ["reward is 3 of type int"]),
        ({"prompts": 3}, ["prompts is of type int"]),
        ({"credit": 3}, ["credit is 3"]),
        ({"config": 3}, ["config is 3"]),
        ({"config": "embeded_jpeg"}, ["embedded_jpeg"]),
        ({"callbacks": [3]}, ["callbacks is [3]"]),
        ({"algorithm": 3}, ["algorithm"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], facts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Trainer(**arguments)
    assert all(fact in str(caught.value) for fact in facts), caught.value
    assert "\n" not in str(caught.value)


def test_a_directory_that_holds_a_run_is_not_overwritten() -> None:
    toy_trainer().train(epochs=0)
    with pytest.raises(InputError, match=r"run already holds a run: call resume\(\)"):
        toy_trainer().train()


@pytest.mark.parametrize("method", ["resume", "export", "save"])
def test_what_needs_a_run_says_so(method: str) -> None:
    with pytest.raises(InputError, match="output_dir"):
        getattr(toy_trainer(None), method)()
    with pytest.raises(InputError, match="missing"):
        getattr(toy_trainer("missing"), method)()
