"""PickScore and CLIPScore, computed from the embeddings that CLIP returns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.rewards.vision.checkpoints import LOGIT_SCALE, write_clip
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from stepcredit.errors import InputError
from stepcredit.rewards.clipscore import ClipScore
from stepcredit.rewards.pickscore import PickScore
from stepcredit.rewards.vision.preprocess import ShortestEdgeCrop

IMAGES = torch.rand(4, 3, 31, 28, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a cat", "two red dogs on a mat", "x", "the sea " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def score(reward: Any, images: Tensor = IMAGES, prompts: list[str] = PROMPTS) -> Tensor:
    scores: Tensor = reward(images, prompts, [{}] * len(prompts))
    return scores


def cosines(folder: Path, center: Any, prompts: list[str] = PROMPTS) -> Tensor:
    """Each pair separately, without padding, from CLIP's normalized embeddings."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    pixels = ShortestEdgeCrop(28, center)(IMAGES)
    found = []
    for image, prompt in zip(pixels, prompts, strict=True):
        tokens = [49406, *tokenizer(prompt, add_special_tokens=False)["input_ids"][:75], 49407]
        with torch.no_grad():
            output = model(input_ids=torch.tensor([tokens]), pixel_values=image[None])
        found.append((output.image_embeds[0] @ output.text_embeds[0]).item())
    return torch.tensor(found)


def test_pickscore_of_the_embeddings(folder: Path) -> None:
    scores = score(PickScore(path=str(folder), device="cpu"))
    expected = math.exp(LOGIT_SCALE) * cosines(folder, "floor")
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert scores.abs().max() > 1


def test_divided_pickscore(folder: Path) -> None:
    divided = score(PickScore(path=str(folder), divide_by=26, device="cpu"))
    torch.testing.assert_close(26 * divided, score(PickScore(path=str(folder), device="cpu")))


def test_rounding_of_the_crop_matters_here(folder: Path) -> None:
    """Three rows are cropped: one or two of them at the top."""
    assert not torch.allclose(cosines(folder, "floor"), cosines(folder, "round"), atol=1e-4)


def test_the_logit_scale_stays_float32(folder: Path) -> None:
    """bfloat16 would make exp(4.6052) 1% smaller than it is."""
    rounded = PickScore(path=str(folder), dtype="bfloat16", device="cpu")
    assert rounded._towers.logit_scale == pytest.approx(math.exp(LOGIT_SCALE), rel=1e-6)


def test_clipscore_of_the_embeddings(folder: Path) -> None:
    found = cosines(folder, "round")
    assert (found > 0).any() and (found < 0).any()
    expected = torch.where(found > 0, 100 * found, torch.zeros(()))
    torch.testing.assert_close(score(ClipScore(path=str(folder), device="cpu")), expected, rtol=1e-4, atol=1e-4)


def test_clipscore_of_the_paper(folder: Path) -> None:
    reward = ClipScore(path=str(folder), scale=2.5, prefix="A photo depicts ", device="cpu")
    found = cosines(folder, "round", [f"A photo depicts {prompt}" for prompt in PROMPTS])
    torch.testing.assert_close(score(reward), 2.5 * found.clamp(min=0), rtol=1e-4, atol=1e-5)


def test_long_prompts_are_truncated(folder: Path) -> None:
    reward = PickScore(path=str(folder), device="cpu")
    longer = score(reward, IMAGES[:1], ["b " * 75])
    assert torch.equal(longer, score(reward, IMAGES[:1], ["b " * 75 + "and more"]))
    assert not torch.allclose(longer, score(reward, IMAGES[:1], ["b " * 74]))


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [(PickScore, "divide_by", 0), (PickScore, "divide_by", "26"), (ClipScore, "scale", -1), (ClipScore, "scale", None)],
)
def test_an_invalid_scale(folder: Path, kind: Any, option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{option} is {value!r}, expected a number above 0"):
        kind(path=str(folder), **{option: value})


def test_a_folder_without_tokenizer(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"):
        PickScore(path=str(bare))
    given = PickScore(path=str(bare), tokenizer=str(folder), device="cpu")
    assert torch.equal(score(given), score(PickScore(path=str(folder), device="cpu")))
