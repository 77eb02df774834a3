"""Distillation of the flow pipeline to few steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from tests.shapes.build.helpers import same, silent

from stepcredit.shapes.build import distillation, flow_networks
from stepcredit.shapes.build.distillation import DistillationRecipe, distill, solve
from stepcredit.shapes.pipeline import load_pipeline
from stepcredit.shapes.tokenizer import build_composition_tokenizer

RECIPE = DistillationRecipe(student_steps=3, teacher_steps=2, trajectories=12, steps=4, batch=4)


@pytest.fixture(scope="module")
def teacher() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    tokenizer = build_composition_tokenizer()
    encoders = [flow_networks.build_text_encoder(tokenizer) for _ in range(2)]
    transformer = flow_networks.build_transformer()
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.05)
    return flow_networks.assemble(load_pipeline().vae, transformer, *encoders, tokenizer)


def test_the_student_is_a_reproducible_average(teacher: StableDiffusion3Pipeline) -> None:
    first, again, other = (distill(RECIPE, seed, teacher, silent) for seed in (0, 0, 1))
    last = distill(replace(RECIPE, ema=0.0), 0, teacher, silent)
    assert same(first, again) and not same(first, other) and not same(first, last)
    assert not first.training and not any(weight.requires_grad for weight in first.parameters())


def test_the_teacher_is_unchanged(teacher: StableDiffusion3Pipeline) -> None:
    before = {name: value.clone() for name, value in teacher.transformer.state_dict().items()}
    distill(RECIPE, 0, teacher, silent)
    assert all(torch.equal(before[name], value) for name, value in teacher.transformer.state_dict().items())


def test_trajectories_are_those_of_the_pipeline(
    teacher: StableDiffusion3Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one teacher step per student step, the trajectories are those of the stock pipeline."""
    recipe = replace(RECIPE, teacher_steps=1)
    captions: list[list[str]] = []
    own = teacher.encode_prompt

    def recording(texts: list[str], *rest: Any, **named: Any) -> Any:
        captions.append(texts)
        return own(texts, *rest, **named)

    monkeypatch.setattr(teacher, "encode_prompt", recording)
    torch.manual_seed(0)
    data = solve(recipe, teacher, np.random.default_rng(0), silent)
    monkeypatch.undo()
    expected = teacher(
        captions[0],
        num_inference_steps=3,
        guidance_scale=1.0,
        latents=data.latents[0],
        max_sequence_length=1,
        output_type="latent",
    ).images
    assert data.levels[0] == 1 and data.levels[-1] == 0 and data.latents.shape == (4, 12, 4, 8, 8)
    torch.testing.assert_close(data.latents[-1], expected, rtol=1e-5, atol=1e-5)


def test_a_student_of_constant_velocity_has_no_loss(
    teacher: StableDiffusion3Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    monkeypatch.setattr(distillation, "_velocity", lambda model, latents, *rest: torch.ones_like(latents))
    monkeypatch.setattr(distillation.loop, "optimizer_step", lambda loss, *rest: losses.append(float(loss)))
    distill(RECIPE, 0, teacher, silent)
    assert losses == pytest.approx([0.0] * RECIPE.steps, abs=1e-8)
