"""Epochs of TRL's DDPOTrainer, for `against_trl.py`; runs in an environment of its own, which has no stepcredit.

TRL's code runs as released. Given to it from outside are: the initial LoRA, the noise of every image, which images make
up an update, and clocks around `_generate_samples` and `_train_batched_samples`.
"""

from __future__ import annotations

import io
import itertools
import warnings
from typing import Any

import accelerate

accelerate.PartialState()  # TRL logs before it makes its Accelerator, and accelerate's logger refuses

import torch  # noqa: E402
import transformers  # noqa: E402
from _alike import Measured, read_order  # noqa: E402
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion  # noqa: E402
from peft.utils import set_peft_model_state_dict  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline  # noqa: E402
from trl.models import modeling_sd_base  # noqa: E402


class Noise:
    """Each image's noise from its own seed: in turn its initial latents, then every step."""

    def __init__(self, seeds: list[int]) -> None:
        self._seeds = iter(seeds)
        self._generators: list[torch.Generator] = []

    def initial(self, shape: Any, **_: Any) -> torch.Tensor:
        self._generators = [torch.Generator().manual_seed(next(self._seeds)) for _ in range(shape[0])]
        return self.step(shape)

    def step(self, shape: Any, **_: Any) -> torch.Tensor:
        return torch.cat([torch.randn((1, *shape[1:]), generator=generator) for generator in self._generators])


class Pipeline(DefaultDDPOStableDiffusionPipeline):
    """Its LoRA begins with the weights in `lora`."""

    lora = ""

    def get_trainable_layers(self) -> Any:
        unet = super().get_trainable_layers()
        set_peft_model_state_dict(unet, load_file(self.lora))
        return unet


def jpeg_compressibility(images: torch.Tensor, *_: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    sizes = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=95)
        sizes.append(-buffer.tell() / 1000)
    return torch.tensor(sizes), {}


def configuration(order: dict[str, Any]) -> DDPOConfig:
    images, sampled, trained = len(order["prompts"]), order["trl_sample_batch"], order["trl_train_batch"]
    return DDPOConfig(
        mixed_precision="no",
        save_freq=order["epochs"] + 1,
        sample_num_steps=order["steps"],
        sample_guidance_scale=order["guidance"],
        sample_batch_size=sampled,
        sample_num_batches_per_epoch=images // sampled,
        train_batch_size=trained,
        train_gradient_accumulation_steps=images // order["updates"] // trained,
        train_learning_rate=order["learning_rate"],
        train_adam_weight_decay=order["weight_decay"],
        train_clip_range=order["clip_range"],
        train_max_grad_norm=order["max_grad_norm"],
    )


def shuffle_as(orders: list[list[int]], images: int) -> None:
    """Let the shuffle of `images` images give these orders, one an epoch; other shuffles stay random."""
    own, following = torch.randperm, iter(orders)

    def randperm(count: int, **named: Any) -> torch.Tensor:
        return torch.tensor(next(following)) if count == images else own(count, **named)

    torch.randperm = randperm


def main() -> None:
    order, report = read_order()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    Pipeline.lora = order["lora"]
    pipeline = Pipeline(order["folder"])
    prompts = itertools.cycle(order["prompts"])
    trainer = DDPOTrainer(configuration(order), jpeg_compressibility, lambda: (next(prompts), {}), pipeline)
    pipeline.set_progress_bar_config(disable=True)
    noise = Noise(list(itertools.chain.from_iterable(order["seeds"])))
    pipeline_stable_diffusion.randn_tensor, modeling_sd_base.randn_tensor = noise.initial, noise.step
    shuffle_as(order["shuffles"], len(order["prompts"]))
    measured = Measured()
    measured.watch_norms()
    trainer._generate_samples = measured.timed("sampling", trainer._generate_samples)
    trainer._train_batched_samples = measured.timed("training", trainer._train_batched_samples)
    scored = trainer.compute_rewards

    def compute_rewards(*arguments: Any, **named: Any) -> Any:
        rewards, metadata = scored(*arguments, **named)
        measured.rewards.append(torch.cat(rewards).tolist())
        return rewards, metadata

    trainer.compute_rewards = compute_rewards
    updates = 0
    for epoch in range(order["epochs"]):
        updates = trainer.step(epoch, updates)
    measured.write(report)


if __name__ == "__main__":
    main()
