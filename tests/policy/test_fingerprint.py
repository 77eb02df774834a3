"""The digest of a model depends on its weights, and on nothing that a resumed run may change."""

from __future__ import annotations

import torch
from tests.tiny import perturb, tiny_sd
from tests.toy_policy import ToyPolicy

from stepcredit.config import TrainConfig
from stepcredit.policy.fingerprint import model_digest
from stepcredit.policy.loading import make_policy
from stepcredit.policy.pipeline import PipelinePolicy


def policy(seed: int = 0, adapter: str = "lora") -> PipelinePolicy:
    return make_policy(tiny_sd(seed), TrainConfig.model_validate({"model": {"adapter": adapter}}))


def test_training_does_not_change_the_digest() -> None:
    for adapter in ("lora", "full"):
        trained = policy(adapter=adapter)
        before = model_digest(trained)
        perturb(trained)
        assert model_digest(trained) == before == model_digest(policy(adapter=adapter))


def test_other_weights_have_another_digest() -> None:
    assert model_digest(policy(0)) != model_digest(policy(1))
    changed = tiny_sd()
    with torch.no_grad():
        next(changed.text_encoder.parameters()).add_(1e-3)
    assert model_digest(make_policy(changed, TrainConfig())) != model_digest(policy())


def test_other_policies_have_none() -> None:
    assert model_digest(ToyPolicy()) is None
