"""A digest of a model, to notice that a path holds another one."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from stepcredit.distributed.process_group import full_tensor
from stepcredit.policy.adapters.full import is_trained
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Policy

_ELEMENTS = 4096


def model_digest(policy: Policy) -> str | None:
    """SHA-256 of a part of the weights of each module of an untrained pipeline; None for other policies.

    It does not depend on the device, on a LoRA, or on whether weights are sharded. Modules of which all weights are
    trained are left out. With sharded weights, all processes must call it.
    """
    if not isinstance(policy, PipelinePolicy):
        return None
    digest = hashlib.sha256(type(policy.pipeline).__name__.encode())
    for name, part in sorted(policy.pipeline.components.items()):
        if not isinstance(part, nn.Module) or name == "safety_checker" or is_trained(part):
            continue
        weights = [value for key, value in part.named_parameters() if "lora_" not in key]
        for weight in (*weights[:2], *weights[-2:]):
            values = full_tensor(weight.detach()).flatten()[:_ELEMENTS].to("cpu", torch.float32)
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()
