"""Train the flow-matching pipeline: a rectified-flow transformer and its two text encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from stepcredit.shapes.build import flow_networks, loop
from stepcredit.shapes.build.loop import Draw, Progress
from stepcredit.shapes.pipeline import TEXT_PADDING


@dataclass(frozen=True)
class FlowRecipe:
    steps: int = 4200
    batch: int = 32
    learning_rate: float = 2e-3
    hold: float = 0.7
    weight_decay: float = 0.0
    scenes: int = 20_000
    caption_dropout: float = 0.1
    ema: float = 0.998


def train_flow(
    recipe: FlowRecipe,
    seed: int,
    base: StableDiffusionPipeline,
    data: Callable[[np.random.Generator], Draw],
    tokenizer: CLIPTokenizer,
    progress: Progress,
    build_transformer: Callable[[], SD3Transformer2DModel] = flow_networks.build_transformer,
) -> StableDiffusion3Pipeline:
    """Train on encoded renders with captions, and return the EMA of the weights. Noise levels are uniform in [0, 1).

    Args:
        base: the autoencoder is that of `base`, and the first text encoder starts from its text encoder.
        data: the training pairs, drawn with the given generator.
        tokenizer: has the vocabulary of `base`.
        build_transformer: the transformer to start from.
    """
    rng, model = loop.seed_and_build(seed, lambda: _networks(build_transformer, base.text_encoder, tokenizer))
    averaged = copy.deepcopy(model).requires_grad_(False)
    pipeline = flow_networks.assemble(base.vae, **model, tokenizer=tokenizer)
    draw = data(rng)
    optimizer, schedule = loop.build_optimizer(
        model.parameters(),
        recipe.learning_rate,
        recipe.steps,
        recipe.weight_decay,
        betas=(0.9, 0.99),
        hold=recipe.hold,
        fused=True,
    )
    for step in progress(range(recipe.steps), "flow"):
        clean, captions = draw(recipe.batch)
        levels, noise = torch.rand(recipe.batch), torch.randn_like(clean)
        loop.optimizer_step(flow_loss(pipeline, clean, captions, levels, noise), model, optimizer, schedule)
        loop.update_average(averaged, model, recipe.ema, step)
    return flow_networks.assemble(base.vae, **averaged, tokenizer=tokenizer)


def flow_loss(
    pipeline: StableDiffusion3Pipeline, clean: Tensor, captions: Sequence[str], levels: Tensor, noise: Tensor
) -> Tensor:
    """The mean of |v(x, s) - (x1 - x0)|^2 at x = (1 - s) x0 + s x1 (arXiv 2209.03003, equation 1).

    Args:
        pipeline: predicts the velocity v and encodes the captions with gradients, in the same way as when it samples.
        clean: (B,4,8,8), x0.
        captions: B captions.
        levels: (B,), s in [0, 1]. The transformer's timestep is 1000 s.
        noise: (B,4,8,8), x1.
    """
    embeds, _, pooled, _ = pipeline.encode_prompt(
        list(captions), None, None, do_classifier_free_guidance=False, max_sequence_length=TEXT_PADDING
    )
    level = levels.view(-1, 1, 1, 1)
    velocity = pipeline.transformer(
        hidden_states=(1 - level) * clean + level * noise,
        timestep=1000 * levels,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
    ).sample
    loss: Tensor = (velocity - (noise - clean)).square().mean()
    return loss


def _networks(
    build_transformer: Callable[[], SD3Transformer2DModel], text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> nn.ModuleDict:
    transformer = build_transformer()
    first, second = (flow_networks.build_text_encoder(tokenizer) for _ in range(2))
    first.text_model.load_state_dict(text_encoder.state_dict())
    return nn.ModuleDict({"transformer": transformer, "text_encoder": first, "text_encoder_2": second})
