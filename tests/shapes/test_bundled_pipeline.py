"""The bundled DDIM pipeline and the checker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from tests.tiny import experienced, tiny_policy

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.minibatch import UpdatePart, image_groups, microbatch
from stepcredit.algorithms.sampling_plan import training_plan
from stepcredit.config import TrainConfig
from stepcredit.maths import gaussian
from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.policy.loading import load_policy, require_text_to_image
from stepcredit.prompts import load_prompts
from stepcredit.runs.recipes import validate
from stepcredit.shapes.build.evaluation import evaluate_checker, evaluate_pipeline
from stepcredit.shapes.pipeline import WEIGHTS, load_checker, load_pipeline
from stepcredit.shapes.render import render
from stepcredit.shapes.tokenizer import build_tokenizer
from stepcredit.shapes.world import ATTRIBUTES, held_out_captions, sample_scene
from stepcredit.types import Prompt


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


def test_weights_are_small() -> None:
    own = [WEIGHTS / "checker.safetensors", *(WEIGHTS / "pipeline").rglob("*")]
    assert 1e6 < sum(path.stat().st_size for path in own if path.is_file()) <= 8e6


def test_diffusers_loads_the_folder(pipeline: StableDiffusionPipeline) -> None:
    stock = DiffusionPipeline.from_pretrained(WEIGHTS / "pipeline")
    assert type(stock) is type(pipeline) is StableDiffusionPipeline
    assert type(pipeline.scheduler) is DDIMScheduler
    require_text_to_image(pipeline)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float32}
    assert not any(part.training for part in parts)


def test_each_load_returns_a_new_copy(pipeline: StableDiffusionPipeline) -> None:
    assert load_pipeline().unet.conv_in.weight.data_ptr() != pipeline.unet.conv_in.weight.data_ptr()


def test_tokenizer_matches_its_builder(pipeline: StableDiffusionPipeline) -> None:
    texts = [*held_out_captions(64, seed=0), "a cat"]
    assert pipeline.tokenizer(texts).input_ids == build_tokenizer()(texts).input_ids


def test_checker_is_accurate_on_renders() -> None:
    accuracy = evaluate_checker(load_checker(), count=500, seed=77)
    assert accuracy.keys() == {*ATTRIBUTES, "all"}
    assert min(accuracy.values()) >= 0.99


def test_checker_is_frozen() -> None:
    checker = load_checker()
    assert load_checker() is checker
    assert not checker.training and not any(weight.requires_grad for weight in checker.parameters())


def test_checker_is_accurate_on_decoded_renders(pipeline: StableDiffusionPipeline) -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in range(128)]
    images = render(scenes, rng)
    with torch.no_grad():
        decoded = pipeline.vae.decode(pipeline.vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5
        logits = load_checker()(decoded.clamp(0, 1))
    labels = [scene.labels() for scene in scenes]
    for name, value in logits.items():
        assert (value.argmax(-1) == torch.tensor([row[name] for row in labels])).float().mean() >= 0.97, name


def test_samples_match_held_out_captions(pipeline: StableDiffusionPipeline) -> None:
    accuracy = evaluate_pipeline(pipeline, load_checker(), count=24, steps=10, eta=1.0)
    assert min(accuracy["foreground"], accuracy["background"], accuracy["shape"]) >= 0.9
    assert accuracy["all"] >= 0.6


def test_replay_check_passes() -> None:
    policy = tiny_policy(load_pipeline(), guidance=3.0)
    prompts = [Prompt(text) for text in held_out_captions(4, seed=0)]
    trajectory = policy.rollout(prompts, range(4)).trajectory
    assert trajectory.latents.shape == (4, 5, 4, 8, 8)
    assert replay_check(policy, trajectory).max_deviation == 0.0


def test_default_recipe_replays_at_other_batch_sizes() -> None:
    policy = load_policy(TrainConfig())
    prompts = load_prompts("shapes")[:7]
    trajectory = policy.rollout(prompts, range(7)).trajectory
    assert replay_check(policy, trajectory).max_deviation == 0
    with torch.no_grad():
        for step in range(trajectory.steps):
            for rows in torch.arange(7).split(3):
                replayed = policy.replay(trajectory, step, rows)
                log_prob = gaussian.log_prob(trajectory.latents[rows, step + 1], replayed.mean, replayed.std)
                torch.testing.assert_close(log_prob, trajectory.log_probs[rows, step], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"sample": {"guidance": 5.0, "steps": 10}, "train": {"microbatch": 3}},
        pytest.param(
            {"sample": {"guidance": 3.0, "steps": 10, "eta": 0.3}, "train": {"updates_per_epoch": 4}},
            marks=pytest.mark.slow,
        ),
        {"model": {"path": "embedded-flow"}, "sample": {"guidance": 5.0, "steps": 10}, "train": {"microbatch": 4}},
    ],
    ids=["guidance 5", "eta 0.3", "flow"],
)
def test_first_ratios_are_exactly_one(settings: dict[str, Any]) -> None:
    """With these settings, replays at another batch size than the rollout's differ by more than 1e-6."""
    config = validate(settings, "odd")
    policy = load_policy(config)
    prompts = load_prompts("shapes")[:10]
    algorithm = build_algorithm(config.train)
    trajectory = policy.rollout(prompts, range(10), training_plan(config, algorithm.needs, images=10)).trajectory
    rng, experience = np.random.default_rng(0), experienced(trajectory, torch.ones(10, 10))
    for group in image_groups(10, config.train.updates_per_epoch, rng):
        scaler = torch.amp.GradScaler(enabled=False)
        size = microbatch(config.train, 10)
        part = UpdatePart(group, len(group), first=True)
        statistics = accumulate_gradient(algorithm, policy, scaler, experience, part, size)
        assert all(float(value) == 0.0 for value in statistics.maxima["ratio_max_deviation"])
