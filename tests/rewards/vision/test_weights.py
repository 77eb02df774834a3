"""Finding, reading and checking published weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.rewards.vision.checkpoints import write_clip
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from stepcredit.errors import InputError
from stepcredit.rewards.vision.weights import fill, find_file, load_pretrained, load_tokenizer, read_tensors

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def complaint(call: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def same(tensors: dict[str, Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_path_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.bin").write_bytes(b"")
    assert find_file(str(tmp_path / "mine.bin"), ["model.pt"], None) == tmp_path / "mine.bin"


def test_a_folder_with_any_of_the_names(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert complaint(find_file, folder, ["model.pt", "other.pth"], None) == (
        f"folder {tmp_path} holds no model.pt or model.safetensors or other.pth or other.safetensors"
    )
    for name in ("other.safetensors", "other.pth", "model.safetensors", "model.pt"):
        (tmp_path / name).write_bytes(b"")
        assert find_file(folder, ["model.pt", "other.pth"], None) == tmp_path / name


def test_a_name_with_dots(tmp_path: Path) -> None:
    (tmp_path / "HPS_v2.1_compressed.safetensors").write_bytes(b"")
    assert find_file(str(tmp_path), ["HPS_v2.1_compressed.pt"], None).name == "HPS_v2.1_compressed.safetensors"


def test_a_download_uses_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        return str(tmp_path / name)

    monkeypatch.setattr("stepcredit.rewards.vision.weights.hf_hub_download", download)
    monkeypatch.setattr("stepcredit.rewards.vision.weights.download_problem", lambda *_, **__: None)
    assert find_file("someone/model", ["model.pt", "other.pth"], "v2") == tmp_path / "model.pt"
    assert asked == [("someone/model", "model.pt", "v2")]


@pytest.mark.parametrize("path", ["someone/model", "no/such/folder"])
def test_an_unreachable_hub(path: str) -> None:
    message = complaint(find_file, path, ["model.pt"], None, "predictor")
    assert f"'{path}'" in message and "model.pt" in message and "predictor=FOLDER" in message


def test_tensors_of_every_format(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    torch.save(TENSORS, tmp_path / "b.pth")
    torch.save({"epoch": 3, "state_dict": TENSORS}, tmp_path / "c.pt")
    assert all(same(read_tensors(tmp_path / name)) for name in ("a.safetensors", "b.pth", "c.pt"))


class RunsCode:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_code_in_a_pickle_is_not_executed(tmp_path: Path) -> None:
    torch.save({"a": RunsCode(tmp_path / "made")}, tmp_path / "bad.pt")
    assert complaint(read_tensors, tmp_path / "bad.pt").startswith(
        f"cannot read weights from {tmp_path / 'bad.pt'}: UnpicklingError: "
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    assert complaint(read_tensors, tmp_path / name).startswith(f"cannot read weights from {tmp_path / name}: ")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1.0}, torch.ones(2)])
def test_a_file_without_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    assert f"{tmp_path / 'odd.pt'} does not hold tensors by name" in complaint(read_tensors, tmp_path / "odd.pt")


def test_weights_that_fit() -> None:
    module = nn.Linear(2, 1)
    fill(module, {"weight": torch.ones(1, 2), "bias": torch.ones(1)}, "here")
    assert module(torch.ones(2)).item() == 3


def test_the_error_names_the_first_mismatches() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    tensors = {"0.weight": torch.ones(3, 2), "x": torch.ones(1)}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    message = complaint(fill, module, tensors, "model.pt")
    assert "model.pt" in message and "missing: 0.bias, 1.weight, 1.bias and 2 more; unexpected: x" in message
    assert "0.weight (3, 2) instead of (2, 2)" in message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_model_of_transformers(tmp_path: Path) -> None:
    model = load_pretrained(CLIPModel, str(write_clip(tmp_path)), None)
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(model.visual_projection.weight, saved["visual_projection.weight"])


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    expected = f"{tmp_path} is not a folder of a transformers model: it has no config.json"
    assert complaint(load_pretrained, CLIPModel, str(tmp_path), None) == expected


def test_a_damaged_model(tmp_path: Path) -> None:
    (write_clip(tmp_path) / "model.safetensors").write_bytes(b"not weights")
    assert complaint(load_pretrained, CLIPModel, str(tmp_path), None).startswith(
        f"cannot load a model from {tmp_path}: "
    )


def test_a_model_with_wrong_weights(tmp_path: Path) -> None:
    file = write_clip(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_projection.weight"]
    tensors["visual_projection.weight"] = torch.ones(5, 5)
    tensors["another.weight"] = torch.ones(2)
    save_file(tensors, file, metadata={"format": "pt"})
    message = complaint(load_pretrained, CLIPModel, str(tmp_path), None)
    assert "missing: text_projection.weight; unexpected: another.weight" in message
    assert "visual_projection.weight" in message


def test_a_model_that_cannot_be_downloaded() -> None:
    message = complaint(load_pretrained, CLIPModel, "someone/model", None)
    assert "'someone/model'" in message and "config.json" in message


def tokenizer(given: str | None, path: str) -> Any:
    return load_tokenizer(CLIPTokenizer, given, path, "someone/published", None)


def test_the_tokenizer_of_the_option_or_of_the_folder(tmp_path: Path) -> None:
    folder = str(write_clip(tmp_path / "clip"))
    (tmp_path / "empty").mkdir()
    for found in (tokenizer(None, folder), tokenizer(folder, str(tmp_path / "empty"))):
        assert found("a")["input_ids"][-1] == 49407


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    expected = f"{tmp_path} has no tokenizer: expected a folder with tokenizer.json or vocab.json or vocab.txt"
    assert complaint(tokenizer, str(tmp_path), "unused") == expected


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    assert complaint(tokenizer, str(tmp_path), "unused").startswith(f"cannot load a tokenizer from {tmp_path}: ")


def test_the_published_tokenizer_from_an_unreachable_hub(tmp_path: Path) -> None:
    message = complaint(tokenizer, None, str(tmp_path))
    assert "'someone/published'" in message and "tokenizer=FOLDER" in message
