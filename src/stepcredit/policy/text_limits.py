"""Find out how much of a prompt the text encoders of a pipeline read.

Pipelines put prompts into templates, pass their own limits to tokenizers, and cut encodings. No attribute says how much
of a prompt remains. So the pipeline's own `__call__` encodes a single word, and its tokenizers record their calls. It
is stopped before it denoises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.policy.replay.pipeline_proxy import pipeline_proxy
from stepcredit.policy.replay.reentry import undecorated_call
from stepcredit.prompts.text_limit import TextLimit

_WORD = "Zebra"
_UNLIMITED = 10**6
"""transformers gives tokenizers without a limit a `model_max_length` of about 1e30."""


@dataclass(frozen=True)
class _Call:
    """A call of a tokenizer: the text around the prompt, and the number of tokens that it was truncated to."""

    prefix: str
    suffix: str
    lower_case: bool
    max_length: int | None
    options: Mapping[str, Any]


class _Encoded(Exception):
    """The pipeline has encoded the prompt."""


def text_limits(policy: PipelinePolicy) -> list[TextLimit]:
    """The limit of every tokenizer of the pipeline that has one. Empty for a pipeline that cannot be examined."""
    tokenizers = _tokenizers(policy)
    calls: dict[str, list[_Call]] = {name: [] for name in tokenizers}
    with _recorded(tokenizers, calls):
        try:
            _encode(policy, lambda: any(calls.values()))
        except _Encoded:
            pass
        except Exception:  # the pipeline may raise anything; the rollout reports it
            return []
    cut_at = _max_sequence_length(policy)
    limits = [_limit(name, tokenizers[name], calls[name], cut_at) for name in tokenizers]
    return [limit for limit in limits if limit is not None]


def _tokenizers(policy: PipelinePolicy) -> dict[str, Any]:
    """The tokenizers among the components, and those inside of processors, by the name of the component."""
    from transformers import PreTrainedTokenizerBase

    found: dict[str, Any] = {}
    for name, part in policy.pipeline.components.items():
        inner = part if isinstance(part, PreTrainedTokenizerBase) else getattr(part, "tokenizer", None)
        if isinstance(inner, PreTrainedTokenizerBase) and not any(inner is other for other in found.values()):
            found[name] = inner
    return found


@torch.no_grad()
def _encode(policy: PipelinePolicy, tokenized: Callable[[], bool]) -> None:
    """Run the pipeline on one word until it has encoded it, and raise _Encoded then."""
    proxy = pipeline_proxy(policy.pipeline, policy.pipeline._execution_device)
    proxy.scheduler = policy.scheduler
    encode, prepare = proxy.encode_prompt, proxy.prepare_latents
    prepared = False

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        encoded = encode(*args, **kwargs)
        if prepared:
            raise _Encoded
        return encoded

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        nonlocal prepared
        prepared = True
        if tokenized():
            raise _Encoded
        return prepare(*args, **kwargs)

    proxy.encode_prompt, proxy.prepare_latents = encode_prompt, prepare_latents
    generator = torch.Generator().manual_seed(0)
    undecorated_call(policy.pipeline)(proxy, prompt=[_WORD], generator=[generator], **policy.call_arguments(steps=1))


@contextmanager
def _recorded(tokenizers: Mapping[str, Any], calls: Mapping[str, list[_Call]]) -> Iterator[None]:
    """Add every call of a tokenizer on a text with _WORD to `calls`."""
    kinds = {name: type(tokenizer) for name, tokenizer in tokenizers.items()}
    try:
        for name, tokenizer in tokenizers.items():  # calls from its own methods, such as chat templates, count as well
            recording = _recording(kinds[name], calls[name])
            tokenizer.__class__ = type(kinds[name].__name__, (kinds[name],), {"__call__": recording})
        yield
    finally:
        for name, tokenizer in tokenizers.items():
            tokenizer.__class__ = kinds[name]


def _recording(kind: Any, calls: list[_Call]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("text")
        for text in [given] if isinstance(given, str) else list(given or ()):
            start = text.lower().find(_WORD.lower()) if isinstance(text, str) else -1
            if start >= 0:
                word = text[start : start + len(_WORD)]
                options = {"add_special_tokens": kwargs.get("add_special_tokens", True)}
                after = text[start + len(_WORD) :]
                calls.append(_Call(text[:start], after, word != _WORD, _max_length(self, kwargs), options))
                break
        return kind.__call__(self, *args, **kwargs)

    return call


def _max_length(tokenizer: Any, options: Mapping[str, Any]) -> int | None:
    if options.get("truncation") in (None, False, "do_not_truncate"):
        return None
    limit = options.get("max_length") or tokenizer.model_max_length
    return int(limit) if limit < _UNLIMITED else None


def _max_sequence_length(policy: PipelinePolicy) -> int | None:
    """The pipeline's argument of this name: encodings without the tokens before the prompt are cut to it."""
    parameter = inspect.signature(type(policy.pipeline).__call__).parameters.get("max_sequence_length")
    value = policy.sample.call.get("max_sequence_length", parameter.default if parameter else None)
    return value if isinstance(value, int) else None


def _limit(name: str, tokenizer: Any, calls: Sequence[_Call], cut_at: int | None) -> TextLimit | None:
    truncated = [call for call in calls if call.max_length is not None]
    if not calls or (not truncated and cut_at is None):
        return None
    call = min(truncated or calls, key=lambda call: call.max_length or 0)
    before = _count(tokenizer, [call.prefix], call.options)[0] if call.prefix else 0
    limits = [*([] if call.max_length is None else [call.max_length - before]), *([] if cut_at is None else [cut_at])]

    def count(prompts: Sequence[str]) -> list[int]:
        texts = [call.prefix + (text.lower() if call.lower_case else text) + call.suffix for text in prompts]
        return [tokens - before for tokens in _count(tokenizer, texts, call.options)]

    return TextLimit(name, min(limits), count)


def _count(tokenizer: Any, texts: Sequence[str], options: Mapping[str, Any]) -> list[int]:
    return [
        len(ids)
        for ids in tokenizer(list(texts), truncation=False, padding=False, verbose=False, **options)["input_ids"]
    ]
