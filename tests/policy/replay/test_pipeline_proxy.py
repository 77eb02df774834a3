"""A proxy runs the code of its pipeline, and everything it sets stays on the proxy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_sd

from stepcredit.policy.replay.pipeline_proxy import pipeline_proxy

META = torch.device("meta")


def test_a_proxy_has_the_same_class_name_and_components() -> None:
    pipeline = tiny_sd()
    proxy = pipeline_proxy(pipeline, META)
    assert isinstance(proxy, type(pipeline)) and type(proxy).__name__ == "StableDiffusionPipeline"
    assert all(getattr(proxy, name) is part for name, part in pipeline.components.items())
    assert proxy.vae_scale_factor == pipeline.vae_scale_factor


def test_proxies_of_one_class_share_their_class() -> None:
    assert type(pipeline_proxy(tiny_sd(), META)) is type(pipeline_proxy(tiny_sd(1), META))


def test_it_knows_its_device() -> None:
    pipeline = tiny_sd()
    assert pipeline_proxy(pipeline, META)._execution_device == META
    assert pipeline._execution_device == torch.device("cpu")


def test_attributes_set_on_the_proxy_stay_there() -> None:
    pipeline = tiny_sd()
    own = pipeline.scheduler
    proxy = pipeline_proxy(pipeline, META)
    proxy.scheduler, proxy.encode_prompt = "mine", lambda: "encoded"
    assert (proxy.scheduler, proxy.encode_prompt()) == ("mine", "encoded")
    assert pipeline.scheduler is own and "encode_prompt" not in pipeline.__dict__


def test_attributes_set_by_its_methods_stay_on_the_proxy() -> None:
    pipeline = tiny_sd()
    proxy = pipeline_proxy(pipeline, META)
    proxy._guidance_scale = 7.0
    assert proxy.guidance_scale == 7.0 and not hasattr(pipeline, "_guidance_scale")


def test_it_shows_no_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny_sd()
    pipeline.set_progress_bar_config(disable=False)
    proxy = pipeline_proxy(pipeline, META)
    with proxy.progress_bar(total=3) as bar:
        bar.update()
        bar.update(2)
    assert list(proxy.progress_bar([1, 2])) == [1, 2]
    assert list(proxy.progress_bar(iterable=iter("ab"))) == ["a", "b"]
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_its_progress_bar_does_not_catch_exceptions() -> None:
    with pytest.raises(KeyError), pipeline_proxy(tiny_sd(), META).progress_bar(total=1):
        raise KeyError


def test_rollouts_and_replays_do_not_change_the_pipeline(capfd: pytest.CaptureFixture[str]) -> None:
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


def test_custom_attributes_of_the_pipeline_are_used_and_kept() -> None:
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
