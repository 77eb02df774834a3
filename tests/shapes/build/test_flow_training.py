"""A few steps of the flow pipeline's training, and its build command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from tests.shapes.build.helpers import same, silent

from stepcredit.shapes import pipeline
from stepcredit.shapes.build import build, evaluation, flow_networks, flow_training, loop, packaging
from stepcredit.shapes.build.flow_training import FlowRecipe
from stepcredit.shapes.tokenizer import build_flow_tokenizer
from stepcredit.shapes.world import held_out_captions, is_held_out, parse

RECIPE = FlowRecipe(steps=3, batch=4, scenes=16)
PARTS = ("transformer", "text_encoder", "text_encoder_2")


def train(recipe: FlowRecipe, base: DiffusionPipeline, seed: int = 0) -> StableDiffusion3Pipeline:
    def data(rng: np.random.Generator) -> loop.Draw:
        return loop.shapes_data(base.vae, rng, recipe.scenes, recipe.caption_dropout)

    return flow_training.train_flow(recipe, seed, base, data, build_flow_tokenizer(), silent)


@pytest.fixture(scope="module")
def base() -> DiffusionPipeline:
    return pipeline.load_pipeline()


@pytest.fixture(scope="module")
def trained(base: DiffusionPipeline) -> StableDiffusion3Pipeline:
    return train(RECIPE, base)


def test_training_returns_a_reproducible_average(base: DiffusionPipeline, trained: StableDiffusion3Pipeline) -> None:
    again = train(RECIPE, base)
    last = train(replace(RECIPE, ema=0.0), base)
    other = train(RECIPE, base, seed=1)
    for name in PARTS:
        part = getattr(trained, name)
        assert same(part, getattr(again, name)), name
        assert not same(part, getattr(last, name)) and not same(part, getattr(other, name)), name
        assert not part.training and not any(weight.requires_grad for weight in part.parameters())


def test_base_pipeline_is_unchanged(base: DiffusionPipeline, trained: StableDiffusion3Pipeline) -> None:
    untouched = pipeline.load_pipeline()
    assert same(base.text_encoder, untouched.text_encoder) and same(base.vae, trained.vae)
    assert (base.vae.config.shift_factor, trained.vae.config.shift_factor) == (None, 0.0)


def test_first_text_encoder_starts_from_the_base(base: DiffusionPipeline) -> None:
    start = train(replace(RECIPE, learning_rate=0.0), base)
    assert same(start.text_encoder.text_model, base.text_encoder)
    assert not same(start.text_encoder_2.text_model, base.text_encoder)


def test_untrained_transformer_predicts_zero() -> None:
    torch.manual_seed(0)
    transformer = flow_networks.build_transformer()
    velocity = transformer(
        torch.randn(2, 4, 8, 8), torch.randn(2, 17, 128), torch.randn(2, 128), torch.tensor([500.0, 900.0])
    ).sample
    assert torch.equal(velocity, torch.zeros(2, 4, 8, 8))


def test_loss_conditions_like_the_pipeline(trained: StableDiffusion3Pipeline) -> None:
    """In training, the transformer gets the same inputs for a caption as in the pipeline's first step."""
    given: list[dict[str, Any]] = []
    captions = held_out_captions(2, seed=0)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hook = trained.transformer.register_forward_pre_hook(
        lambda _, arguments, named: given.append(dict(named)), with_kwargs=True
    )
    call = dict(pipeline.CALL[pipeline.FLOW])
    trained(captions, latents=noise, num_inference_steps=1, guidance_scale=1.0, output_type="latent", **call)
    flow_training.flow_loss(trained, torch.randn(2, 4, 8, 8), captions, torch.ones(2), noise)
    hook.remove()
    sampled, learned = given
    assert learned["encoder_hidden_states"].shape == (2, 17, 128)
    for name in ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"):
        torch.testing.assert_close(learned[name], sampled[name], rtol=0, atol=0)


def test_loss_is_the_velocity_error(trained: StableDiffusion3Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, noise, levels = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0.0, 0.25, 1.0])
    seen: dict[str, torch.Tensor] = {}

    def perfect(**named: Any) -> Any:
        seen.update(named)
        return type("Output", (), {"sample": noise - clean + 0.5})

    monkeypatch.setattr(trained.transformer, "forward", perfect)
    loss = flow_training.flow_loss(trained, clean, [""] * 3, levels, noise)
    assert float(loss) == pytest.approx(0.25, rel=1e-5)
    assert seen["timestep"].tolist() == [0, 250, 1000]
    torch.testing.assert_close(
        seen["hidden_states"], torch.stack([clean[0], 0.75 * clean[1] + 0.25 * noise[1], noise[2]])
    )


def test_every_weight_gets_a_gradient(base: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero-initialized modulations open one after another. The last block's text queries affect nothing."""
    gradients: dict[str, float] = {}
    own = loop.optimizer_step

    def recording(loss: Any, model: Any, *rest: Any) -> None:
        hooks = [
            weight.register_post_accumulate_grad_hook(
                lambda weight, name=name: gradients.update({name: float(weight.grad.abs().max())})
            )
            for name, weight in model.named_parameters()
        ]
        own(loss, model, *rest)
        for hook in hooks:
            hook.remove()
        names.update(name for name, _ in model.named_parameters())

    names: set[str] = set()
    monkeypatch.setattr(loop, "optimizer_step", recording)
    train(replace(RECIPE, steps=6), base)
    unused = {f"transformer.transformer_blocks.4.attn.{name}" for name in ("add_q_proj.weight", "add_q_proj.bias")}
    unused |= {"transformer.transformer_blocks.4.attn.norm_added_q.weight"}
    assert names - {name for name, size in gradients.items() if size > 0} == unused


def test_training_lowers_the_loss(base: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    own = flow_training.flow_loss

    def recording(*arguments: Any) -> torch.Tensor:
        loss = own(*arguments)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(flow_training, "flow_loss", recording)
    train(FlowRecipe(steps=30, batch=8, scenes=16), base)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_training_uses_no_held_out_caption(base: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def recording(pipe: Any, clean: torch.Tensor, captions: list[str], *rest: Any) -> torch.Tensor:
        read.extend(captions)
        return next(pipe.transformer.parameters()).sum()

    monkeypatch.setattr(flow_training, "flow_loss", recording)
    train(FlowRecipe(steps=2, batch=128, scenes=256), base)
    assert len(read) == 256
    captions = [text for text in read if text]
    assert all(map(parse, captions)) and not any(map(is_held_out, captions))
    assert read.count("") / len(read) == pytest.approx(RECIPE.caption_dropout, abs=0.06)


def test_learning_rate_schedule() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    rates: dict[float, list[float]] = {}
    for hold in (0.0, 0.5):
        adam, schedule = loop.build_optimizer(iter([weight]), 1.0, 40, warmup=4, hold=hold)
        rates[hold] = []
        for _ in range(40):
            rates[hold].append(adam.param_groups[0]["lr"])
            adam.step()
            schedule.step()
    held, falling = np.array(rates[0.5]), np.array(rates[0.0])
    np.testing.assert_allclose(held[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(held[4:21], 1.0)
    np.testing.assert_allclose(held[20:], 0.5 * (1 + np.cos(np.pi * np.arange(20) / 20)))
    np.testing.assert_allclose(falling[4:], 0.5 * (1 + np.cos(np.pi * np.arange(4, 40) / 40)))


def test_flow_build_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flow_training, "FlowRecipe", lambda: RECIPE)
    monkeypatch.setattr(packaging, "evaluate_pipeline", partial(evaluation.evaluate_pipeline, count=4, steps=2))
    monkeypatch.setattr(build, "WEIGHTS", tmp_path / "installed")
    shared = ["--pipeline", "flow", "--out", str(tmp_path / "out"), "--threads", "1", "--denoiser-steps", "2"]
    build.main([*shared, "--stages", "flow"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["flow", "seconds.json"]

    monkeypatch.delattr(flow_training, "train_flow")
    build.main([*shared, "--install"])
    report = json.loads((tmp_path / "installed" / "flow_report.json").read_text())
    assert report["seconds"].keys() == {"flow"} and (report["flow"]["steps"], report["flow"]["batch"]) == (2, 4)
    assert 0 <= report["samples"]["all"] <= 1
    assert json.loads(capsys.readouterr().out[-len(json.dumps(report, indent=1)) - 1 :]) == report

    assert not [path for path in (tmp_path / "installed").rglob("*.json") if "_name_or_path" in path.read_text()]
    installed = DiffusionPipeline.from_pretrained(
        tmp_path / "installed" / "flow_pipeline", text_encoder_3=None, tokenizer_3=None
    )
    assert type(installed) is StableDiffusion3Pipeline
    assert type(installed.scheduler) is FlowMatchEulerDiscreteScheduler
    assert sorted(path.name for path in (tmp_path / "installed").iterdir()) == ["flow_pipeline", "flow_report.json"]
