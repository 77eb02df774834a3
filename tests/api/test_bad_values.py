"""Values that used to break a run or end in a traceback are one-line errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_sd
from tests.toy_policy import ToyPolicy
from torch import Tensor

from stepcredit import InputError, RewardError, Trainer
from stepcredit.algorithms import build_algorithm
from stepcredit.config import CreditSection, TrainSection
from stepcredit.credit import CreditRule, WeightRule, as_credit, build_credit
from stepcredit.policy.loading import resolve_device
from stepcredit.rewards import checked
from stepcredit.shapes.pipeline import load_pipeline
from stepcredit.types import Plan, Prompt, Trajectory


async def _later(*arguments: Any) -> None:
    """Nobody would wait for it."""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": 2**63}, "seed"),
        ({"plugins": 1}, "plugins"),
        ({"plugins": [1]}, "plugins"),
        ({"plugins": torch.zeros(2)}, "plugins"),
        ({"callbacks": [_later]}, "callback _later is asynchronous"),
        ({"output_dir": 1}, "output_dir"),
        ({"callbacks": [lambda: None]}, "callback"),
        ({"prompts": ()}, "prompts"),
        ({"prompts": " "}, "prompts is ' '"),
        ({"model": ""}, "model is ''"),
        ({"sample": {"call": {"callback": print}}}, r"sample\.call = .* cannot be written"),
        ({"train": {"options": {"beta": object()}}}, r"train\.options = .* cannot be written"),
        ({"reward": {"components": [{"name": "warmth", "options": {"a": len}}]}}, "cannot be written"),
        ({"reward": {"name": lambda images: images, "options": {"a": 1}}}, r"reward\.options"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Trainer(**arguments)


@pytest.mark.parametrize("arguments", [{"images": 0}, {"images": 1.5}, {"images": True}, {"seed": -1}, {"seed": "x"}])
def test_sampling_refuses_wrong_numbers_before_a_model_is_loaded(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        Trainer().sample("a cat", **arguments)


def test_a_reward_that_exits_is_an_error_of_the_reward() -> None:
    with pytest.raises(RewardError, match="SystemExit"):
        checked(lambda *_: sys.exit(7), "mine")(torch.zeros(1, 3, 2, 2), ["a"], [{}])


def test_a_credit_function_that_raises_is_named() -> None:
    trajectory = ToyPolicy(4).rollout([Prompt("a")], [0], Plan(4, range(4)), keep_x0=True).trajectory
    rule = as_credit(lambda trajectory, advantage: 1 / 0, "mine", {})
    with pytest.raises(InputError, match="'mine' raised ZeroDivisionError"):
        rule(trajectory, torch.ones(1))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"credit": "uniform"}, "credit is 'uniform'"),
        ({"credit": None}, "credit is None"),
        ({"credit": ["uniform", len]}, "credit is"),
        ({"controls": "none"}, "controls is 'none'"),
        ({"seeds": 1.5}, "seeds is 1.5"),
        ({"tuning_seeds": -1}, "tuning_seeds is -1"),
        ({"jobs": "2"}, "jobs is '2'"),
    ],
    ids=str,
)
def test_wrong_arguments_of_compare_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Trainer(reward="warmth").compare(**{"credit": ["uniform", "linear"], **arguments})


@pytest.mark.parametrize("rewards", [3, None, {"warmth": 1}])
def test_wrong_rewards_to_evaluate_are_refused(rewards: Any) -> None:
    with pytest.raises(InputError, match="rewards is"):
        Trainer().evaluate(rewards=rewards)


@pytest.mark.parametrize(
    "settings",
    [
        torch.no_grad,
        torch.inference_mode,
        partial(torch.device, "meta"),
        lambda: double_precision(),
    ],
    ids=["no_grad", "inference_mode", "default device", "default dtype"],
)
def test_settings_of_the_program_do_not_matter(settings: Callable[[], Any], tmp_path: Path) -> None:
    expected = trainer_with("uniform", tmp_path / "a").train()
    trainer = trainer_with("uniform", tmp_path / "b")
    with settings():
        found = trainer.train()
        trainer.sample("a lake")
        trainer.evaluate(images=1)
    assert found.weights.read_bytes() == expected.weights.read_bytes()


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    assert torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("value", ["", "a\0b", "a" * 5000, 3])
def test_paths_that_cannot_exist_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="output_dir"):
        Trainer(output_dir=value)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), -1.0, "x"])
def test_sampling_refuses_a_guidance_that_is_not_a_number(guidance: Any) -> None:
    with pytest.raises(InputError, match=r"sample\.guidance"):
        Trainer().sample("a cat", guidance=guidance)


@pytest.fixture
def trained(tmp_path: Path) -> Trainer:
    trainer = Trainer(
        model=ToyPolicy(),
        reward=lambda images: images.mean((1, 2, 3)),
        prompts=["a lake"],
        output_dir=tmp_path / "run",
        sample={"steps": 4, "images_per_prompt": 2},
        train={"updates_per_epoch": 1},
        run={"grid_images": 1},
    )
    trainer.train(epochs=0)
    return trainer


def test_weights_are_not_written_where_they_cannot_be(trained: Trainer, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for target in (file, file / "below", tmp_path / "lora.safetensors", 3, "a\0b"):
        for write in (trained.save, lambda path: trained.export("lora", path)):
            with pytest.raises(InputError):
                write(target)  # type: ignore[arg-type]
    assert file.read_text() == "mine"


def test_weights_do_not_replace_what_a_folder_holds(trained: Trainer, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for write in (trained.save, lambda path: trained.export("lora", path)):
        with pytest.raises(InputError, match="not an empty folder"):
            write(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


@pytest.mark.parametrize("format", ["LORA", "lor", 3])
def test_the_nearest_export_format_is_suggested(trained: Trainer, format: Any) -> None:
    with pytest.raises(InputError, match=r"unknown export format.*lora"):
        trained.export(format)


@pytest.mark.parametrize("scores", [torch.ones(2, dtype=torch.complex64), [1j, 2j]])
def test_complex_scores_are_an_error_of_the_reward(scores: Any) -> None:
    with pytest.raises(RewardError, match="'mine'"):
        checked(lambda *_: scores, "mine")(torch.zeros(2, 3, 2, 2), ["a", "b"], [{}, {}])


def test_sparse_scores_are_read() -> None:
    reward = checked(lambda *_: torch.tensor([1.0, 0.0]).to_sparse(), "mine")
    assert reward(torch.zeros(2, 3, 2, 2), ["a", "b"], [{}, {}]).tolist() == [1, 0]


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nothing"])
def test_devices_that_cannot_compute_are_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"'{device}'"):
        resolve_device(device)


class Spread(CreditRule):
    """The advantage at every step; the rules below differ from it in one way."""

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        return advantage[:, None].expand(-1, trajectory.steps)


class Halves(Spread):
    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        return advantage[:, None].expand(-1, trajectory.steps // 2)


class Infinite(Spread):
    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        return super().__call__(trajectory, advantage) / 0


class Complex(Spread):
    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        return super().__call__(trajectory, advantage) * 1j


class Undeclared(Spread):
    """Reads the predicted clean latents, but does not say so."""

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        assert trajectory.x0 is not None, "no x0"
        return trajectory.x0


class Normalizing(Spread):
    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        trajectory.latents.sub_(trajectory.latents.mean())
        return super().__call__(trajectory, advantage)


class Exits(Spread):
    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        sys.exit(3)


class NameOfTheRun(Spread):
    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {"epoch": 99}


class NotANumber(Spread):
    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {"credit_mean": trajectory.latents}  # type: ignore[dict-item]


class Lacking(WeightRule):
    """Has no alpha."""

    def weights(self, trajectory: Trajectory) -> Tensor:
        return torch.full((len(trajectory), trajectory.steps), 1 / trajectory.steps)


def trainer_with(credit: Any, tmp_path: Path, **train: Any) -> Trainer:
    return Trainer(
        model=ToyPolicy(),
        reward=lambda images: images.mean((1, 2, 3)) + images[:, 0, 0, 0],
        prompts=["a lake"],
        credit=credit,
        output_dir=tmp_path / "run",
        sample={"steps": 4, "images_per_prompt": 2},
        train={"epochs": 1, "updates_per_epoch": 1, "learning_rate": 0.1, **train},
        run={"grid_images": 1},
    )


@pytest.mark.parametrize(
    "rule",
    [
        Halves(),
        Infinite(),
        Complex(),
        Undeclared(),
        Normalizing(),
        Exits(),
        NameOfTheRun(),
        NotANumber(),
        Lacking(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_what_a_rule_does_wrong_is_an_error_that_names_it(rule: CreditRule, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"credit rule '{type(rule).__name__}'"):
        trainer_with(rule, tmp_path).train()


def test_a_rule_changes_neither_settings_nor_advantages(tmp_path: Path) -> None:
    """The update would end in an error of torch, or train on something else."""

    def careless(trajectory: Trajectory, advantage: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return advantage.mul_(0)[:, None].expand(-1, trajectory.steps)

    def tidy(trajectory: Trajectory, advantage: Tensor) -> Tensor:
        return torch.zeros(len(trajectory), trajectory.steps)

    results = [trainer_with(rule, tmp_path / rule.__name__, algorithm="matching").train() for rule in (careless, tidy)]
    profiles, weights = zip(
        *((result.history[0]["credit_profile"], result.weights.read_bytes()) for result in results), strict=True
    )
    assert profiles[0] == profiles[1] and weights[0] == weights[1]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_algorithm(TrainSection(options={"clip": 1})),
        lambda: build_credit(CreditSection(options={"windows": 1})),
    ],
    ids=["algorithm", "credit"],
)
def test_keys_of_the_section_are_not_suggested_as_options(build: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        build()
    known = str(caught.value).partition("known:")[2]
    assert "clip_range" not in known and "window" not in known and "did you mean" not in str(caught.value)


def test_a_pipeline_whose_weights_another_trainer_has_is_refused(tmp_path: Path) -> None:
    pipeline = load_pipeline()
    first = Trainer(model={"path": pipeline, "adapter": "full"}, sample={"steps": 1})
    first.sample("a red circle")
    with pytest.raises(InputError, match="another Trainer"):
        Trainer(model={"path": pipeline, "adapter": "full"}, sample={"steps": 1}).sample("a red circle")


def wrapped() -> Any:
    pipeline = tiny_sd()
    pipeline.unet = torch.nn.DataParallel(pipeline.unet)
    return pipeline


def offloaded() -> Any:
    pipeline = tiny_sd()
    pipeline.unet.to("meta")
    return pipeline


class NotAPipeline:
    components: dict[str, Any] = {}  # noqa: RUF012
    scheduler = None


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"path": wrapped}, "unet .* is a DataParallel"),
        ({"path": offloaded}, "weights of the unet .* not in memory"),
        ({"path": NotAPipeline}, "NotAPipeline"),
        ({"path": tiny_sd, "device": "cuda"}, "model.device is cuda, .* on cpu"),
        ({"path": tiny_sd, "dtype": "bfloat16"}, "model.dtype is bfloat16"),
    ],
    ids=["wrapped", "offloaded", "not a pipeline", "device", "dtype"],
)
def test_pipelines_that_cannot_be_trained_are_refused(model: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Trainer(model={**model, "path": model["path"]()}).sample("a cat")
