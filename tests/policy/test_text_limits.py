"""A prompt counts as cut if and only if the stock pipeline ignores its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families import FAMILIES
from torch import Tensor
from torch.utils._pytree import tree_leaves

from stepcredit.families import family_of
from stepcredit.policy.loading import make_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.policy.text_limits import text_limits
from stepcredit.prompts.text_limit import TextLimit, describe_cuts
from stepcredit.runs.recipes import validate
from stepcredit.shapes.pipeline import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers

DISTINCT = ["sd", "sdxl", "sd3", "flux", "flux2_klein", "qwen_image", "z_image", "sana", "pixart_sigma"]


def policy_of(name: str, **call: Any) -> PipelinePolicy:
    family = FAMILIES[name]
    pipeline = family.build(0)
    adapter = "full" if name == "pixart_sigma" else "lora"
    sample = {"steps": 2, "guidance": 1.0, "call": {**family.call, **call}}
    return make_policy(pipeline, validate({"model": {"adapter": adapter, "ema": None}, "sample": sample}, "test"))


def encoding(policy: PipelinePolicy, prompt: str) -> list[Tensor]:
    """What the stock pipeline passes to its denoiser for a prompt, with one denoising step."""
    pipeline, inputs = policy.pipeline, []
    denoiser = getattr(pipeline, policy.denoiser)
    hook = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append((args, kwargs)), with_kwargs=True
    )
    call = {**policy.call_arguments(steps=1), "output_type": "latent"}
    with torch.no_grad():
        pipeline(prompt=[prompt], generator=[torch.Generator().manual_seed(0)], **call)
    hook.remove()
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


def end_matters(policy: PipelinePolicy, prompt: str) -> bool:
    one, other = encoding(policy, prompt[:-1] + "b"), encoding(policy, prompt[:-1] + "c")
    return [a.shape for a in one] != [b.shape for b in other] or any(
        not torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", DISTINCT)
def test_prompts_that_no_encoder_cuts_are_read_to_their_end(name: str) -> None:
    policy = policy_of(name)
    limits = text_limits(policy)
    assert limits
    lengths = [length for length in range(1, 60) if not any(limit.cut(["a" * length]) for limit in limits)]
    assert lengths
    assert end_matters(policy, "a" * max(lengths))


@pytest.mark.parametrize("name", DISTINCT)
def test_the_end_of_prompts_that_every_encoder_cuts_has_no_effect(name: str) -> None:
    policy = policy_of(name)
    limits = text_limits(policy)
    template = 8  # tokens after the prompt, which are cut first
    long = "a" * (max(limit.tokens for limit in limits) + template)
    assert all(limit.cut([long]) for limit in limits) and not end_matters(policy, long)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "pixart_sigma", "sana"])
def test_limits_are_exact_to_the_token(name: str) -> None:
    policy = policy_of(name)
    limits = text_limits(policy)
    first = next(length for length in range(1, 60) if all(limit.cut(["a" * length]) for limit in limits))
    assert not end_matters(policy, "a" * first)
    last = next(length for length in range(60, 0, -1) if not all(limit.cut(["a" * length]) for limit in limits))
    assert last == first - 1 and end_matters(policy, "a" * last)


def test_a_limit_that_the_call_sets_counts() -> None:
    lengths = {limit.name: limit.tokens for limit in text_limits(policy_of("sd3", max_sequence_length=20))}
    assert lengths == {"tokenizer": 12, "tokenizer_2": 12, "tokenizer_3": 20}


def test_examining_a_pipeline_leaves_it_as_it_was() -> None:
    policy = policy_of("sdxl")
    kind, before = type(policy.pipeline.tokenizer), encoding(policy, "a cat")
    text_limits(policy)
    assert type(policy.pipeline.tokenizer) is kind
    assert all(torch.equal(a, b) for a, b in zip(before, encoding(policy, "a cat"), strict=True))


@pytest.mark.parametrize(("model", "tokens"), [("embedded", {24}), ("embedded-flow", {16})])
def test_bundled_models(model: str, tokens: set[int]) -> None:
    policy = make_policy(load_pipeline(model), validate({"model": {"path": model}}, "test"))
    limits = text_limits(policy)
    assert {limit.tokens for limit in limits} == tokens
    assert family_of(policy.pipeline).name in ("sd", "sd3")
    assert describe_cuts("the model", limits, ["a red circle", "a red circle on a blue background"]) is None


def letters(name: str, tokens: int) -> TextLimit:
    return TextLimit(name, tokens, lambda prompts: [len(prompt) for prompt in prompts])


def test_the_first_long_prompt_is_named() -> None:
    limits = [letters("tokenizer", 5), letters("tokenizer_2", 8)]
    line = describe_cuts("XPipeline", limits, ["abc", "abcdef", "abcdefg", "abcdefg"])
    assert line is not None and "\n" not in line
    for part in ("XPipeline", "'abcdef'", "6 tokens", "5 tokens", "2 of 3", "tokenizer_2", "none"):
        assert part in line
    assert describe_cuts("XPipeline", limits, ["abc", "abcde"]) is None
    assert describe_cuts("XPipeline", [], ["abc"]) is None


@pytest.mark.parametrize(
    ("prompt", "tokens", "unread"),
    [
        ("a cat on a mat", 5, "on a mat"),
        ("a cat on a mat", 7, "on a mat"),
        ("a cat on a mat", 13, "mat"),
        ("a  cat\non", 5, "cat\non"),
        ("abcdefg", 4, "efg"),
        ("abcdefg on", 4, "abcdefg on"),
    ],
)
def test_the_words_that_are_not_read(prompt: str, tokens: int, unread: str) -> None:
    limit = letters("tokenizer", tokens)
    assert prompt[limit.end(prompt) :] == unread
    line = describe_cuts("XPipeline", [limit], [prompt])
    assert line is not None and f"from {' '.join(unread.split())!r} on; shorten" in line
