"""From a model path to a policy; whatever cannot be trained is refused in one line that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    PRXPixelPipeline,
    PRXTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DModel,
    VQModel,
)
from sentencepiece import SentencePieceTrainer
from tests.families import FAMILIES
from tests.tiny import (
    PROMPTS,
    SEEDS,
    TEXT_WIDTH,
    tiny_pixart,
    tiny_policy,
    tiny_sd,
    tiny_sdxl,
    tiny_t5,
    tiny_t5_tokenizer,
)
from transformers import ByT5Tokenizer

from stepcredit.config import ModelSection, TrainConfig
from stepcredit.errors import InputError
from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.policy.loading import load_pipeline, load_policy, make_policy, require_text_to_image, resolve_device
from stepcredit.utils.logging import quiet_libraries

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    quiet_libraries()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd"
    tiny_sd().save_pretrained(folder)
    return folder


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as refused:
        load_pipeline(ModelSection(path=str(path), device="cpu"))
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_a_policy_of_a_folder_samples_like_its_pipeline(saved: Path) -> None:
    config = TrainConfig.model_validate(
        {"model": {"path": str(saved), "device": "cpu"}, "sample": {"steps": 2, "guidance": 5.0}}
    )
    policy = load_policy(config)
    rollout = policy.rollout(PROMPTS, SEEDS)
    assert replay_check(policy, rollout.trajectory).max_deviation == 0.0
    assert torch.equal(rollout.images, tiny_policy(steps=2).rollout(PROMPTS, SEEDS).images)


@pytest.mark.parametrize("path", ["folder", "embedded"])
def test_every_part_has_the_configured_dtype(path: str, saved: Path) -> None:
    path = str(saved) if path == "folder" else path
    pipeline = load_pipeline(ModelSection(path=path, dtype="bfloat16", device="cpu"))
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl, tiny_pixart])
def test_text_to_image_pipelines_are_accepted(build: Callable[[], Any]) -> None:
    require_text_to_image(build())


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is not a diffusers pipeline folder: it has no model_index.json"


def test_an_unconditional_pipeline(tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    assert refusal(tmp_path).startswith("DDPMPipeline takes no prompt: it is not a text-to-image pipeline")


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_a_pipeline_that_starts_from_an_image(kind: Any, tmp_path: Path) -> None:
    kind(**tiny_sd().components, requires_safety_checker=False).save_pretrained(tmp_path)
    assert refusal(tmp_path) == f"{kind.__name__} takes image beside a prompt: it is not a text-to-image pipeline"


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "FlowMatchEulerDiscreteScheduler has invert_sigmas set"),
        (
            EDMEulerScheduler(),
            "noise schedule of EDMEulerScheduler",
        ),
        (DDPMScheduler(prediction_type="noise"), "'noise', expected one of: epsilon, sample, v_prediction"),
    ],
    ids=["inverted sigmas", "another noise schedule", "another prediction"],
)
def test_an_unsupported_scheduler(scheduler: Any, message: str) -> None:
    pipeline = tiny_sd()
    pipeline.scheduler = scheduler
    with pytest.raises(InputError, match=message):
        require_text_to_image(pipeline)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").write_text("{not"), "cannot load a pipeline"),
        (lambda folder: (folder / "model_index.json").write_text("{}"), "cannot load a pipeline"),
        (lambda folder: shutil.rmtree(folder / "unet"), "its unet has no configuration file"),
        (lambda folder: truncate(folder / "unet" / WEIGHTS), f"unet/{WEIGHTS}"),
        (lambda folder: (folder / "unet" / WEIGHTS).unlink(), "unet"),
        (
            lambda folder: shutil.copy(folder / "unet" / WEIGHTS, folder / "vae"),
            "weights of its vae are incomplete",
        ),
        (lambda folder: truncate(folder / "text_encoder" / "model.safetensors"), "incomplete metadata"),
        (lambda folder: (folder / "text_encoder" / "config.json").unlink(), "its text_encoder has no configuration"),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(), "its tokenizer has no vocabulary file"),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"), "scheduler_config.json"),
    ],
    ids=[
        "index is not JSON",
        "index is empty",
        "no unet",
        "unet weights cut short",
        "no unet weights",
        "vae weights of another network",
        "text encoder cut short",
        "no text encoder configuration",
        "no vocabulary",
        "scheduler is not JSON",
    ],
)
def test_a_damaged_folder(damage: Callable[[Path], Any], message: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(saved, folder)
    damage(folder)
    text = refusal(folder)
    assert text.startswith(f"cannot load a pipeline from {folder}: ")
    assert message in text


@pytest.mark.parametrize("path", ["no-such/model", "no_such_folder/", "/no/such/folder", "not a name"])
def test_a_model_that_does_not_exist(path: str) -> None:
    text = refusal(path)
    assert text.startswith(f"no folder '{path}'") and "model.path=FOLDER" in text


def test_weights_of_a_variant(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path, variant="fp16")
    assert refusal(tmp_path) == f"{tmp_path} holds weights of variant fp16: set model.variant=fp16"
    loaded = load_pipeline(ModelSection(path=str(tmp_path), variant="fp16"))
    assert torch.equal(loaded.unet.conv_in.weight, tiny_sd().unet.conv_in.weight)


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors"], "fp16"),
        (["transformer/diffusion_pytorch_model-00001-of-00002.bf16.safetensors"], "bf16"),
        (["transformer/diffusion_pytorch_model.bf16-00001-of-00002.safetensors"], "bf16"),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"], None),
        (["unet/diffusion_pytorch_model-00001-of-00002.safetensors", "README.md"], None),
    ],
)
def test_weights_of_a_variant_on_the_hub(
    files: list[str], variant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("no file named diffusion_pytorch_model.safetensors")

    monkeypatch.setattr("stepcredit.policy.loading.download_problem", lambda *_: None)
    monkeypatch.setattr("stepcredit.policy.loading.list_repo_files", lambda _: files)
    monkeypatch.setattr("stepcredit.policy.loading._from_pretrained", fail)
    text = refusal("someone/model")
    assert (f"model.variant={variant}" in text) if variant else ("no file named" in text and "variant" not in text)


def test_a_cached_model_is_used_while_the_hub_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, section: ModelSection, **arguments: Any) -> Any:
        asked.append(arguments)
        return tiny_sd()

    monkeypatch.setattr("stepcredit.policy.loading.download_problem", lambda *_: "the hub cannot be reached")
    monkeypatch.setattr("stepcredit.policy.loading.is_cached", lambda *_: True)
    monkeypatch.setattr("stepcredit.policy.loading._from_pretrained", load)
    load_pipeline(ModelSection(path="someone/model", device="cpu"))
    assert asked == [{"local_files_only": True}]


def test_pixart_as_published_with_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    """Its tokenizer folder holds no tokenizer.json, and its prompts are cleaned with beautifulsoup and ftfy."""
    tiny_pixart().save_pretrained(tmp_path / "model")
    tokenizer = tmp_path / "model" / "tokenizer"
    shutil.rmtree(tokenizer)
    tokenizer.mkdir()
    SentencePieceTrainer.train(
        sentence_iterator=iter([prompt.text for prompt in PROMPTS] * 8),
        model_prefix=str(tokenizer / "spiece"),
        vocab_size=20,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tokenizer / "spiece.vocab").unlink()
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}')
    pipeline = load_pipeline(ModelSection(path=str(tmp_path / "model"), device="cpu"))
    assert len(pipeline.tokenizer(PROMPTS[0].text).input_ids) > 2
    assert pipeline._text_preprocessing("<b>A cat</b>", clean_caption=True) == ["a cat"]


def kandinsky() -> Any:
    """Its autoencoder is called movq."""
    movq = VQModel(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, vq_embed_dim=4, num_vq_embeddings=8)
    unet = Kandinsky3UNet(
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=TEXT_WIDTH,
    )
    return Kandinsky3Pipeline(tiny_t5_tokenizer(), tiny_t5(), unet, DDPMScheduler(), movq)


def pixels() -> Any:
    """It denoises pixels, so it has no autoencoder."""
    transformer = PRXTransformer2DModel(
        in_channels=3,
        context_in_dim=TEXT_WIDTH,
        hidden_size=16,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    return PRXPixelPipeline(transformer, FlowMatchEulerDiscreteScheduler(), tiny_t5(), tiny_t5_tokenizer())


@pytest.mark.parametrize("build", [kandinsky, pixels])
def test_a_pipeline_without_a_part_called_vae(build: Callable[[], Any], tmp_path: Path) -> None:
    pipeline = build()
    require_text_to_image(pipeline)
    config = TrainConfig.model_validate({"model": {"vae_tiling": True, "adapter": "full"}})
    with pytest.raises(InputError, match=r"model\.vae_tiling=false"):
        make_policy(pipeline, config)


def test_a_byte_tokenizer_needs_no_vocabulary_file(tmp_path: Path) -> None:
    pipeline = tiny_pixart()
    pipeline.register_modules(tokenizer=ByT5Tokenizer(extra_ids=0))
    pipeline.save_pretrained(tmp_path)
    assert not list((tmp_path / "tokenizer").glob("tokenizer.json")) and not list(
        (tmp_path / "tokenizer").glob("vocab*")
    )
    assert isinstance(load_pipeline(ModelSection(path=str(tmp_path), device="cpu")).tokenizer, ByT5Tokenizer)
    shutil.rmtree(tmp_path / "tokenizer")
    assert "tokenizer has no" in refusal(tmp_path)


@pytest.mark.parametrize("value", [[1, 2], [0.1, 0.2, 0.3], ["a", "b"], [], [[1, 2]], [None, None]])
def test_lists_in_the_index_that_are_no_parts(value: list[Any], saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(saved, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "sizes": value}))
    assert load_pipeline(ModelSection(path=str(folder), device="cpu")).unet is not None


def test_a_pipeline_saved_without_an_optional_part(tmp_path: Path) -> None:
    pipeline = FAMILIES["sd3"].build(0)
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(tmp_path)
    assert load_pipeline(ModelSection(path=str(tmp_path))).text_encoder_3 is None


def test_cuda_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r"model\.device is 'cuda:1' but this machine has no CUDA device"):
        resolve_device("cuda:1")


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"model\.device is 'gpu', expected auto, cpu, cuda, xpu or mps"):
        resolve_device("gpu")


def test_the_safety_checker_is_off_in_training_and_optional_in_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def flagging(_: Any) -> Any:
        pipeline = tiny_sd()
        pipeline.safety_checker = torch.nn.Identity()
        return pipeline

    monkeypatch.setattr("stepcredit.policy.loading.load_pipeline", flagging)
    assert load_policy(TrainConfig()).pipeline.safety_checker is None
    assert load_policy(TrainConfig(), safety_checker=True).pipeline.safety_checker is not None
