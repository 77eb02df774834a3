"""HPSv2 compared with open_clip's own model."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tests.rewards.vision.checkpoints import OpenClipShape, open_clip_names, write_hps
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.rewards.hpsv2 import HpsV2, HpsV21
from stepcredit.rewards.vision.preprocess import LongestEdgePad

IMAGES = torch.rand(3, 3, 40, 33, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a cat", "Two red dogs &amp; a mat", "the sea at night " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hps")
    write_hps(folder / "HPS_v2_compressed.pt", seed=3)
    write_hps(folder / "HPS_v2.1_compressed.pt", seed=4)
    return folder


def score(reward: HpsV2) -> Tensor:
    return reward(IMAGES, PROMPTS, [{}] * 3)


def reference(file: Path, antialias: bool = True) -> Tensor:
    """Cosines from the logits of open_clip, one pair at a time."""
    vision = {"image_size": 28, "layers": 2, "width": 160, "head_width": 80, "patch_size": 14}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()
    model.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    pixels, tokens = LongestEdgePad(28, antialias)(IMAGES), open_clip.tokenize(PROMPTS)
    with torch.no_grad():
        logits = [model.get_logits(pixels[row : row + 1], tokens[row : row + 1])[0].item() for row in range(3)]
    return torch.tensor(logits) / torch.tensor(4.6).exp()


@pytest.mark.parametrize("kind", [HpsV2, HpsV21])
def test_the_score_equals_open_clip_s_cosine(folder: Path, kind: type[HpsV2]) -> None:
    scores, expected = score(kind(path=str(folder), device="cpu")), reference(folder / kind.FILE)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.01


def test_the_resize_without_antialiasing(folder: Path) -> None:
    reward = HpsV2(path=str(folder), antialias=False, device="cpu")
    torch.testing.assert_close(score(reward), reference(folder / HpsV2.FILE, False), atol=1e-6, rtol=0)
    assert not torch.allclose(score(reward), reference(folder / HpsV2.FILE), atol=1e-3)


def test_the_sizes_of_published_weights_are_vit_h_14() -> None:
    """The sizes that follow from the published tensors are those of open_clip's ViT-H-14."""
    config = open_clip.get_model_config("ViT-H-14")
    from stepcredit.rewards.hpsv2 import _sizes

    names = open_clip_names(OpenClipShape(1280, 32, 1024, 24, embedding=1024, image_size=224))
    read = _sizes({name: torch.empty(shape, device="meta") for name, shape in names.items()})
    assert read == config
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items() if name != "logit_scale"} == names


def test_safetensors(folder: Path, tmp_path: Path) -> None:
    tensors = torch.load(folder / HpsV2.FILE, weights_only=True)["state_dict"]
    save_file(tensors, tmp_path / "HPS_v2_compressed.safetensors")
    expected = score(HpsV2(path=str(folder), device="cpu"))
    assert torch.equal(score(HpsV2(path=str(tmp_path), device="cpu")), expected)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("visual.ln_pre.bias", "missing: visual.ln_pre.bias"),
        ("token_embedding.weight", "no token_embedding.weight"),
    ],
)
def test_a_missing_tensor(folder: Path, tmp_path: Path, name: str, complaint: str) -> None:
    checkpoint = torch.load(folder / HpsV2.FILE, weights_only=True)
    del checkpoint["state_dict"][name]
    torch.save(checkpoint, tmp_path / HpsV2.FILE)
    with pytest.raises(InputError, match=complaint):
        HpsV2(path=str(tmp_path))


def test_a_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.rewards.core.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'stepcredit\[rewards\]'"):
        HpsV2(path=str(folder))


def test_antialias_must_be_a_boolean(folder: Path) -> None:
    with pytest.raises(InputError, match="antialias is 'no'"):
        HpsV2(path=str(folder), antialias="no")  # type: ignore[arg-type]
