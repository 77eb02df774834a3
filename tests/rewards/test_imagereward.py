"""ImageReward against BLIP written out in plain torch, on tensors under their published names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.rewards.vision.checkpoints import BlipShape, imagereward_names, write_imagereward
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from stepcredit.errors import InputError
from stepcredit.rewards.imagereward import MEAN, STD, ImageReward
from stepcredit.rewards.vision.blip import text_weights, vision_weights
from stepcredit.rewards.vision.preprocess import ShortestEdgeCrop

IMAGES = torch.rand(3, 3, 40, 33, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a cat", "two red dogs on a mat", "the sea at night " * 10]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagereward")
    write_imagereward(folder)
    return folder


def score(reward: ImageReward) -> Tensor:
    return reward(IMAGES, PROMPTS, [{}] * 3)


class Published:
    """The released model's arithmetic in float64; attention heads of 64."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {name: value.double() for name, value in tensors.items() if value.is_floating_point()}

    def raw(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.text(tokens, mask, self.image(pixels))[:, 0]
        for number in (0, 2, 4, 6, 7):
            hidden = self.linear(f"mlp.layers.{number}", hidden)
        return hidden[:, 0]

    def image(self, pixels: Tensor) -> Tensor:
        prefix = "blip.visual_encoder."
        weight = self.tensors[f"{prefix}patch_embed.proj.weight"]
        bias = self.tensors[f"{prefix}patch_embed.proj.bias"]
        patches = conv2d(pixels.double(), weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
        first = self.tensors[f"{prefix}cls_token"].expand(len(pixels), -1, -1)
        states = torch.cat([first, patches], 1) + self.tensors[f"{prefix}pos_embed"]
        for number in range(2):
            block = f"{prefix}blocks.{number}."
            queries, keys, values = self.linear(f"{block}attn.qkv", self.norm(f"{block}norm1", states, 1e-6)).chunk(
                3, -1
            )
            states = states + self.linear(f"{block}attn.proj", attention(queries, keys, values))
            inner = gelu(self.linear(f"{block}mlp.fc1", self.norm(f"{block}norm2", states, 1e-6)))
            states = states + self.linear(f"{block}mlp.fc2", inner)
        return self.norm(f"{prefix}norm", states, 1e-6)

    def text(self, tokens: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        prefix = "blip.text_encoder."
        words = self.tensors[f"{prefix}embeddings.word_embeddings.weight"][tokens]
        places = self.tensors[f"{prefix}embeddings.position_embeddings.weight"][: tokens.shape[1]]
        states = self.norm(f"{prefix}embeddings.LayerNorm", words + places, 1e-12)
        for number in range(2):
            layer = f"{prefix}encoder.layer.{number}."
            states = self.attend(f"{layer}attention", states, states, mask)
            states = self.attend(f"{layer}crossattention", states, image, None)
            inner = self.linear(f"{layer}output.dense", gelu(self.linear(f"{layer}intermediate.dense", states)))
            states = self.norm(f"{layer}output.LayerNorm", inner + states, 1e-12)
        return states

    def attend(self, name: str, states: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
        queries = self.linear(f"{name}.self.query", states)
        keys, values = self.linear(f"{name}.self.key", seen), self.linear(f"{name}.self.value", seen)
        found = self.linear(f"{name}.output.dense", attention(queries, keys, values, mask))
        return self.norm(f"{name}.output.LayerNorm", found + states, 1e-12)

    def linear(self, name: str, states: Tensor) -> Tensor:
        return linear(states, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, name: str, states: Tensor, epsilon: float) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        return layer_norm(states, weight.shape, weight, self.tensors[f"{name}.bias"], epsilon)


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    heads = [states.unflatten(-1, (-1, 64)).transpose(1, 2) for states in (queries, keys, values)]
    weights = heads[0] @ heads[1].mT / 8
    if mask is not None:
        weights = weights.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return (softmax(weights, -1) @ heads[2]).transpose(1, 2).flatten(2)


def reference(folder: Path) -> Tensor:
    tokenizer = BertTokenizer.from_pretrained(folder)
    batch = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    assert batch.input_ids.shape == (3, 35) and (batch.input_ids[:, 0] == tokenizer.cls_token_id).all()
    published = Published(torch.load(folder / "ImageReward.pt", weights_only=True))
    raw = published.raw(ShortestEdgeCrop(32)(IMAGES), batch.input_ids, batch.attention_mask)
    return (raw - 0.16717362830052426) / 1.0333394966054072


def test_the_score_of_the_features(folder: Path) -> None:
    scores, expected = score(ImageReward(path=str(folder), device="cpu")), reference(folder)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.05


def test_the_published_constants() -> None:
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


def test_the_names_and_sizes_of_the_published_file() -> None:
    """BLIP large and its predictor, counted from the architecture of the paper's release."""
    names = imagereward_names(
        BlipShape(width=1024, layers=24, text_width=768, text_layers=12, vocabulary=30524, positions=512,
                  image_size=224)
    )  # fmt: skip
    assert names["blip.visual_encoder.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert names["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"] == (768, 1024)
    assert names["blip.visual_encoder.pos_embed"] == (1, 197, 1024)
    assert names["mlp.layers.7.weight"] == (1, 16)


def test_names_map_one_to_one(folder: Path) -> None:
    """Onto everything that transformers' models have, and nothing but a buffer and two unused projections left over."""
    tensors = torch.load(folder / "ImageReward.pt", weights_only=True)
    vision = BlipVisionModel(BlipVisionConfig(num_hidden_layers=2))
    text = BlipTextModel(BlipTextConfig(num_hidden_layers=2), add_pooling_layer=False)
    assert vision_weights(tensors).keys() == vision.state_dict().keys()
    assert text_weights(tensors).keys() == text.state_dict().keys()
    used = len(vision_weights(tensors)) + len(text_weights(tensors)) + sum(name.startswith("mlp.") for name in tensors)
    unused = {name for name in tensors if "_proj." in name and "encoder" not in name} | {
        "blip.text_encoder.embeddings.position_ids"
    }
    assert used + len(unused) == len(tensors) and len(unused) == 5


def test_every_published_tensor_is_loaded() -> None:
    marked = {
        f"blip.visual_encoder.{name}": torch.tensor(float(number))
        for number, name in enumerate(
            [
                "cls_token", "pos_embed", "patch_embed.proj.weight", "norm.bias", "blocks.1.norm1.weight",
                "blocks.1.norm2.bias", "blocks.1.attn.qkv.weight", "blocks.1.attn.proj.bias",
                "blocks.11.mlp.fc1.weight", "blocks.11.mlp.fc2.bias",
            ]
        )
    }  # fmt: skip
    assert {name: int(value) for name, value in vision_weights(marked).items()} == {
        "embeddings.class_embedding": 0,
        "embeddings.position_embedding": 1,
        "embeddings.patch_embedding.weight": 2,
        "post_layernorm.bias": 3,
        "encoder.layers.1.layer_norm1.weight": 4,
        "encoder.layers.1.layer_norm2.bias": 5,
        "encoder.layers.1.self_attn.qkv.weight": 6,
        "encoder.layers.1.self_attn.projection.bias": 7,
        "encoder.layers.11.mlp.fc1.weight": 8,
        "encoder.layers.11.mlp.fc2.bias": 9,
    }


def test_the_file_and_safetensors(folder: Path, tmp_path: Path) -> None:
    expected = score(ImageReward(path=str(folder), device="cpu"))
    tensors = torch.load(folder / "ImageReward.pt", weights_only=True)
    save_file(tensors, tmp_path / "ImageReward.safetensors")
    for path in (folder / "ImageReward.pt", tmp_path):
        assert torch.equal(score(ImageReward(path=str(path), tokenizer=str(folder), device="cpu")), expected)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("blip.visual_encoder.blocks.0.attn.qkv.bias", "missing: encoder.layers.0.self_attn.qkv.bias"),
        (
            "blip.text_encoder.encoder.layer.1.crossattention.self.value.weight",
            "missing: encoder.layer.1.crossattention",
        ),
        ("mlp.layers.6.bias", "missing: layers.6.bias"),
        (
            "blip.visual_encoder.patch_embed.proj.weight",
            "no embeddings.patch_embedding.weight",
        ),
    ],
)
def test_a_missing_tensor(folder: Path, tmp_path: Path, name: str, complaint: str) -> None:
    tensors = torch.load(folder / "ImageReward.pt", weights_only=True)
    del tensors[name]
    torch.save(tensors, tmp_path / "ImageReward.pt")
    with pytest.raises(InputError, match=complaint):
        ImageReward(path=str(tmp_path), tokenizer=str(folder))
