"""The aesthetic score, computed from the embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.rewards.vision.checkpoints import predictor_names, write_clip, write_predictor
from transformers import CLIPModel

from stepcredit.errors import InputError
from stepcredit.rewards.aesthetic import Aesthetic
from stepcredit.rewards.vision.predictor import LinearPredictor
from stepcredit.rewards.vision.preprocess import ShortestEdgeCrop

IMAGES = torch.rand(3, 3, 36, 30, generator=torch.Generator().manual_seed(0))


def build(folder: Path, **options: str) -> Aesthetic:
    path = str(write_clip(folder / "clip"))
    write_predictor(folder / "sac+logos+ava1-l14-linearMSE.pth")
    return Aesthetic(**{"path": path, "predictor": str(folder), "device": "cpu", **options})


def score(reward: Aesthetic) -> torch.Tensor:
    return reward(IMAGES, [""] * 3, [{}] * 3)


def test_the_score_of_an_embedding(tmp_path: Path) -> None:
    scores = score(build(tmp_path))
    model = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    tensors = torch.load(tmp_path / "sac+logos+ava1-l14-linearMSE.pth", weights_only=True)
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=ShortestEdgeCrop(28)(IMAGES)).pooler_output
    value = (pooled @ model.visual_projection.weight.detach().T).double().numpy()
    value /= np.sqrt((value**2).sum(1, keepdims=True))
    for layer in ("0", "2", "4", "6", "7"):
        weight, bias = (tensors[f"layers.{layer}.{part}"].double().numpy() for part in ("weight", "bias"))
        value = value @ weight.T + bias
    np.testing.assert_allclose(scores.numpy(), value[:, 0], rtol=1e-5)
    assert np.ptp(value) > 0.01


def test_the_predictor_is_the_published_one() -> None:
    """768-1024-128-64-16-1 with the published names."""
    shapes = {name: tuple(value.shape) for name, value in LinearPredictor(768).state_dict().items()}
    assert shapes == predictor_names(768)
    assert sum(np.prod(shape) for shape in shapes.values()) == 927_969


def test_the_norm_of_the_embedding_does_not_matter(tmp_path: Path) -> None:
    before = score(build(tmp_path))
    model = CLIPModel.from_pretrained(tmp_path / "clip")
    with torch.no_grad():
        model.visual_projection.weight *= 8
    model.save_pretrained(tmp_path / "longer")
    torch.testing.assert_close(score(build(tmp_path, path=str(tmp_path / "longer"))), before)


def test_the_predictor_as_safetensors(tmp_path: Path) -> None:
    before = score(build(tmp_path))
    tensors = torch.load(tmp_path / "sac+logos+ava1-l14-linearMSE.pth", weights_only=True)
    save_file(tensors, tmp_path / "predictor.safetensors")
    assert torch.equal(score(build(tmp_path, predictor=str(tmp_path / "predictor.safetensors"))), before)


def test_a_predictor_of_another_model(tmp_path: Path) -> None:
    write_predictor(tmp_path / "wide.pth", width=24)
    with pytest.raises(InputError, match=r"layers.0.weight \(1024, 24\) instead of \(1024, 16\)"):
        build(tmp_path, predictor=str(tmp_path / "wide.pth"))


def test_a_predictor_with_wrong_names(tmp_path: Path) -> None:
    tensors = write_predictor(tmp_path / "named.pth")
    torch.save({f"mlp.{name}": value for name, value in tensors.items()}, tmp_path / "named.pth")
    with pytest.raises(InputError, match=r"missing: layers.0.weight, .* and 7 more; unexpected: mlp.layers.0.weight"):
        build(tmp_path, predictor=str(tmp_path / "named.pth"))
