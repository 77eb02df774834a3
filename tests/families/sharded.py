"""Run by torchrun: compares each family with sharded weights (FSDP2) with the same family with full weights.

    torchrun --nproc-per-node 2 -m tests.families.sharded sd flux

It prints a JSON object. For each family and adapter: the largest |log ratio| of the replay check, its replay mode, the
largest difference of latents and the relative difference of gradients.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
from tests.families import FAMILIES
from tests.families.proof import configuration
from tests.tiny import PROMPTS, SEEDS, log_prob
from torch import Tensor, distributed

from stepcredit.distributed.process_group import destroy_process_group, full_tensor
from stepcredit.policy.adapters.fsdp import is_sharded
from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.policy.loading import make_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Plan, Trajectory

PLAN = Plan(4, range(4), batch=2)


def compare(name: str, adapter: str) -> dict[str, Any]:
    full, sharded = (policy(name, adapter, shard) for shard in (False, True))
    assert not is_sharded(denoiser(full)) and is_sharded(denoiser(sharded))
    trajectory, again = (each.rollout(PROMPTS, SEEDS, PLAN).trajectory for each in (full, sharded))
    replay_check(full, trajectory, batch=2)
    check = replay_check(sharded, again, batch=2, gradient=False)  # as the self-check of a sharded run
    # Gradients of sharded weights are summed over the processes; each process has its own LoRA.
    copies = distributed.get_world_size() if adapter == "full" else 1
    expected, found = gradient(full, trajectory), gradient(sharded, trajectory) / copies
    return {
        "deviation": check.max_deviation,
        "mode": check.mode,
        "latents": float((trajectory.latents - again.latents).abs().max()),
        "gradient": float((found - expected).norm() / expected.norm()),
    }


def policy(name: str, adapter: str, shard: bool) -> PipelinePolicy:
    return make_policy(FAMILIES[name].build(0), configuration(name, model={"adapter": adapter, "shard": shard}))


def denoiser(policy: PipelinePolicy) -> torch.nn.Module:
    module: torch.nn.Module = getattr(policy.pipeline, policy.denoiser)
    return module


def gradient(policy: PipelinePolicy, trajectory: Trajectory) -> Tensor:
    """The gradient of the log-probability of step 1 by all trained weights."""
    log_prob(policy, trajectory, 1).sum().backward()
    return torch.cat(
        [
            torch.zeros(parameter.numel()) if parameter.grad is None else full_tensor(parameter.grad).flatten()
            for parameter in policy.parameters()
        ]
    )


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = {f"{name} {adapter}": compare(name, adapter) for name in sys.argv[1:] for adapter in ("full", "lora")}
    if distributed.get_rank() == 0:
        print(json.dumps(found, indent=1))
    destroy_process_group()


if __name__ == "__main__":
    main()
