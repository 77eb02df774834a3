"""RL fine-tuning of text-to-image diffusion and flow models, with the reward credited to the denoising steps.

    from stepcredit import Trainer

    trainer = Trainer(model="embedded", reward="warmth", output_dir="runs/warm")
    trainer.train()
    trainer.sample("a red circle")[0].save("circle.png")

Names are imported on first use, so `import stepcredit` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from stepcredit.algorithms import register_algorithm
    from stepcredit.api import Trainer
    from stepcredit.config import TrainConfig
    from stepcredit.credit import register_credit
    from stepcredit.errors import (
        InputError,
        Interrupted,
        OutOfMemoryError,
        ResumableError,
        RewardError,
        StepcreditError,
    )
    from stepcredit.policy.samplers import register_sampler
    from stepcredit.prompts import register_prompts
    from stepcredit.rewards import register_reward
    from stepcredit.runs.trackers import register_tracker
    from stepcredit.training.callbacks import EpochImages, StopTraining
    from stepcredit.training.result import TrainResult
    from stepcredit.types import CreditAssigner, Policy, Prompt, RewardFunction, Trajectory

_MODULES = {
    "Trainer": "api",
    "TrainConfig": "config",
    "TrainResult": "training.result",
    "EpochImages": "training.callbacks",
    "StopTraining": "training.callbacks",
    "register_algorithm": "algorithms",
    "register_credit": "credit",
    "register_prompts": "prompts",
    "register_reward": "rewards",
    "register_sampler": "policy.samplers",
    "register_tracker": "runs.trackers",
    "CreditAssigner": "types",
    "Policy": "types",
    "Prompt": "types",
    "RewardFunction": "types",
    "Trajectory": "types",
    "InputError": "errors",
    "Interrupted": "errors",
    "OutOfMemoryError": "errors",
    "ResumableError": "errors",
    "RewardError": "errors",
    "StepcreditError": "errors",
}

__all__ = [
    "CreditAssigner",
    "EpochImages",
    "InputError",
    "Interrupted",
    "OutOfMemoryError",
    "Policy",
    "Prompt",
    "ResumableError",
    "RewardError",
    "RewardFunction",
    "StepcreditError",
    "StopTraining",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "Trajectory",
    "__version__",
    "register_algorithm",
    "register_credit",
    "register_prompts",
    "register_reward",
    "register_sampler",
    "register_tracker",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'stepcredit' has no attribute '{name}'")
    return getattr(import_module(f"stepcredit.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
