"""Code and pickles in the folder of a model are never run: nobody named them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stepcredit.config import ModelSection
from stepcredit.errors import InputError
from stepcredit.policy.loading import load_pipeline
from stepcredit.rewards.vision.weights import read_tensors
from stepcredit.shapes import pipeline as embedded

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
class Pipeline(StableDiffusionPipeline): pass
class Net(UNet2DConditionModel): pass
"""


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def custom_pipeline(folder: Path, mark: Path) -> None:
    (folder / "pipeline.py").write_text(CODE.format(mark=str(mark)))
    index(folder, _class_name=["pipeline", "Pipeline"])


def custom_part(folder: Path, mark: Path) -> None:
    (folder / "unet" / "net.py").write_text(CODE.format(mark=str(mark)))
    index(folder, unet=["net", "Net"])


def installed_module(folder: Path, mark: Path) -> None:
    index(folder, unet=["this", "Net"])


def auto_map(folder: Path, mark: Path) -> None:
    (folder / "text_encoder" / "net.py").write_text(CODE.format(mark=str(mark)))
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "net.Net"}}))
    index(folder, text_encoder=["transformers", "AutoModel"])


def pickled_denoiser(folder: Path, mark: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Payload(mark)}, folder / "unet" / "diffusion_pytorch_model.bin")


def pickled_text_encoder(folder: Path, mark: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save({"weight": Payload(mark)}, folder / "text_encoder" / "pytorch_model.bin")


ATTACKS = [custom_pipeline, custom_part, installed_module, auto_map, pickled_denoiser, pickled_text_encoder]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nothing_in_a_model_folder_is_run(attack: Callable[[Path, Path], None], tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(Path(embedded.__file__).parent / "weights" / "pipeline", folder)
    attack(folder, mark)
    with pytest.raises(InputError, match="cannot load a pipeline from"):
        load_pipeline(ModelSection(path=str(folder), device="cpu"))
    assert not mark.exists()


def test_weights_of_a_reward_that_hold_code_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="cannot read weights from"):
        read_tensors(tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "weights.pt")
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert (tmp_path / "ran").exists()
