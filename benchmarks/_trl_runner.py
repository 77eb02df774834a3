"""Run and measure epochs of TRL's DDPOTrainer for `against_trl.py`, in an environment without stepcredit.

TRL's code runs as released. This script sets the initial LoRA, the noise of each image and the split of images into
updates, and measures `_generate_samples` and `_train_batched_samples`.
"""

from __future__ import annotations

import io
import itertools
import warnings
from typing import Any

import accelerate

accelerate.PartialState()  # TRL logs before it creates its Accelerator, and accelerate's logger needs one

import torch  # noqa: E402
import transformers  # noqa: E402
from _measured import Measured, read_job  # noqa: E402
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion  # noqa: E402
from peft.utils import set_peft_model_state_dict  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline  # noqa: E402
from trl.models import modeling_sd_base  # noqa: E402


class Noise:
    """Draws the noise of each image from its own seed: first the initial latents, then each step."""

    def __init__(self, seeds: list[int]) -> None:
        self._seeds = iter(seeds)
        self._generators: list[torch.Generator] = []

    def initial(self, shape: Any, **_: Any) -> torch.Tensor:
        self._generators = [torch.Generator().manual_seed(next(self._seeds)) for _ in range(shape[0])]
        return self.step(shape)

    def step(self, shape: Any, **_: Any) -> torch.Tensor:
        return torch.cat([torch.randn((1, *shape[1:]), generator=generator) for generator in self._generators])


class Pipeline(DefaultDDPOStableDiffusionPipeline):
    """TRL's pipeline with the initial LoRA weights of the file `lora`."""

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


def configuration(job: dict[str, Any]) -> DDPOConfig:
    images, sampled, trained = len(job["prompts"]), job["trl_sample_batch"], job["trl_train_batch"]
    return DDPOConfig(
        mixed_precision="no",
        save_freq=job["epochs"] + 1,
        sample_num_steps=job["steps"],
        sample_guidance_scale=job["guidance"],
        sample_batch_size=sampled,
        sample_num_batches_per_epoch=images // sampled,
        train_batch_size=trained,
        train_gradient_accumulation_steps=images // job["updates"] // trained,
        train_learning_rate=job["learning_rate"],
        train_adam_weight_decay=job["weight_decay"],
        train_clip_range=job["clip_range"],
        train_max_grad_norm=job["max_grad_norm"],
    )


def shuffle_as(orders: list[list[int]], images: int) -> None:
    """Make the shuffle of `images` images return the given orders, one per epoch. Other shuffles stay random."""
    original, remaining = torch.randperm, iter(orders)

    def randperm(count: int, **named: Any) -> torch.Tensor:
        return torch.tensor(next(remaining)) if count == images else original(count, **named)

    torch.randperm = randperm


def main() -> None:
    job, report = read_job()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    Pipeline.lora = job["lora"]
    pipeline = Pipeline(job["folder"])
    prompts = itertools.cycle(job["prompts"])
    trainer = DDPOTrainer(configuration(job), jpeg_compressibility, lambda: (next(prompts), {}), pipeline)
    pipeline.set_progress_bar_config(disable=True)
    noise = Noise(list(itertools.chain.from_iterable(job["seeds"])))
    pipeline_stable_diffusion.randn_tensor, modeling_sd_base.randn_tensor = noise.initial, noise.step
    shuffle_as(job["shuffles"], len(job["prompts"]))
    measured = Measured()
    measured.watch_norms()
    trainer._generate_samples = measured.timed("sampling", trainer._generate_samples)
    trainer._train_batched_samples = measured.timed("training", trainer._train_batched_samples)
    original = trainer.compute_rewards

    def compute_rewards(*arguments: Any, **named: Any) -> Any:
        rewards, metadata = original(*arguments, **named)
        measured.rewards.append(torch.cat(rewards).tolist())
        return rewards, metadata

    trainer.compute_rewards = compute_rewards
    updates = 0
    for epoch in range(job["epochs"]):
        updates = trainer.step(epoch, updates)
    measured.write(report)


if __name__ == "__main__":
    main()
