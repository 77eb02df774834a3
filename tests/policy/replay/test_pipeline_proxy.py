"""The double of a pipeline runs its code, and whatever it does stays with the double."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_sd

from stepcredit.policy.replay.pipeline_proxy import pipeline_proxy

META = torch.device("meta")


def test_a_double_is_of_the_same_class_and_has_the_same_parts() -> None:
    pipeline = tiny_sd()
    double = pipeline_proxy(pipeline, META)
    assert isinstance(double, type(pipeline)) and type(double).__name__ == "StableDiffusionPipeline"
    assert all(getattr(double, name) is part for name, part in pipeline.components.items())
    assert double.vae_scale_factor == pipeline.vae_scale_factor


def test_doubles_of_one_class_share_theirs() -> None:
    assert type(pipeline_proxy(tiny_sd(), META)) is type(pipeline_proxy(tiny_sd(1), META))


def test_it_knows_its_device() -> None:
    pipeline = tiny_sd()
    assert pipeline_proxy(pipeline, META)._execution_device == META
    assert pipeline._execution_device == torch.device("cpu")


def test_replaced_attributes_are_those_of_the_double_alone() -> None:
    pipeline = tiny_sd()
    own = pipeline.scheduler
    double = pipeline_proxy(pipeline, META)
    double.scheduler, double.encode_prompt = "mine", lambda: "encoded"
    assert (double.scheduler, double.encode_prompt()) == ("mine", "encoded")
    assert pipeline.scheduler is own and "encode_prompt" not in pipeline.__dict__


def test_what_its_methods_assign_stays_with_it() -> None:
    pipeline = tiny_sd()
    double = pipeline_proxy(pipeline, META)
    double._guidance_scale = 7.0
    assert double.guidance_scale == 7.0 and not hasattr(pipeline, "_guidance_scale")


def test_it_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny_sd()
    pipeline.set_progress_bar_config(disable=False)
    double = pipeline_proxy(pipeline, META)
    with double.progress_bar(total=3) as bar:
        bar.update()
        bar.update(2)
    assert list(double.progress_bar([1, 2])) == [1, 2]
    assert list(double.progress_bar(iterable=iter("ab"))) == ["a", "b"]
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_its_bar_lets_errors_through() -> None:
    with pytest.raises(KeyError), pipeline_proxy(tiny_sd(), META).progress_bar(total=1):
        raise KeyError


def test_rollouts_and_replays_leave_the_pipeline_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny_sd()
    pipeline.set_progress_bar_config(disable=False)
    policy = tiny_policy(pipeline)
    before = dict(pipeline.__dict__)
    settings = dict(pipeline.scheduler.config), pipeline.scheduler.timesteps
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    policy.replay(trajectory, 1)
    policy.replay_mode = "full-loop"
    policy.replay(trajectory, 1)
    assert pipeline.__dict__.keys() == before.keys()
    assert all(pipeline.__dict__[name] is value for name, value in before.items())
    assert (dict(pipeline.scheduler.config), pipeline.scheduler.timesteps) == settings
    assert capfd.readouterr().err == ""


def test_a_users_own_attributes_are_kept_and_used() -> None:
    pipeline = tiny_sd()
    own, asked = pipeline.encode_prompt, []

    def backwards(prompt: list[str], *arguments: Any, **named: Any) -> Any:
        asked.append(prompt)
        return own([text[::-1] for text in prompt], *arguments, **named)

    pipeline.encode_prompt = backwards
    pipeline.note = "mine"
    assert pipeline_proxy(pipeline, META).note == "mine"
    images = tiny_policy(pipeline, steps=2).rollout(PROMPTS, SEEDS).images
    assert asked and pipeline.encode_prompt is backwards and pipeline.note == "mine"
    assert not torch.equal(images, tiny_policy(steps=2).rollout(PROMPTS, SEEDS).images)
