"""Scores by a vision-language model that answers a question about each image."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from stepcredit.errors import InputError, RewardError, shortened, unknown
from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.remote.vlm import (
    AnswerMode,
    MalformedAnswer,
    Rating,
    YesNo,
    data_url,
    openai_client,
    plain_word,
    read_key,
)
from stepcredit.rewards.vision.images import Images, to_pil

_MODES = ("logits", "score")
_POSITIVE = ("concurrency", "timeout", "scale", "max_tokens")


@register_reward("vlm_judge")
@dataclass(eq=False)
class VlmJudge:
    """Answer of a vision-language model, on any OpenAI-compatible server, to a question about the image, 0 to 1.

    Each image is one chat completion at temperature 0: the image as a PNG data URL, then the question. Two modes:

        logits   r = p(yes) / (p(yes) + p(no)), from the log-probabilities of the first token of the answer
        score    r = n / scale, n the first number in the answer

    In `logits`, every listed token counts that equals `yes` or `no` up to case and white space. A word that is not
    among the `top_logprobs` likeliest tokens has probability 0. In `score`, n must be from 0 to `scale`. An answer with
    neither word, or without such a number, is an error that names the prompt.

    Source: p(yes) as a reward is VQAScore, arXiv 2404.01291, there without the normalization by p(no).

    Attributes:
        model: name of the model on the server.
        base_url: of the server, such as http://localhost:8000/v1.
        mode: `logits` or `score`.
        question: a template. {prompt} is the prompt, {key} the value under `key` of the prompt's metadata, {{ a brace.
            By default the question is whether, or how well, the image shows the prompt.
        yes, no: the two words of `logits`.
        scale: the best number of `score`.
        api_key_variable: name of the environment variable that holds the server's key; None sends no key. The key
            itself must not be in a configuration.
        concurrency: simultaneous requests.
        timeout: seconds until a request counts as failed.
        max_retries: retries of a request that timed out, lost its connection or returned 408, 409, 429 or 5xx, with
            exponential backoff.
        max_tokens: of an answer in `score`; `logits` needs one.
        top_logprobs: number of likeliest tokens to request in `logits`; servers allow up to 20, some fewer.
        request: further fields of the request that only some servers support, such as `chat_template_kwargs`.

    Raises:
        InputError: an option out of its range, an invalid template, no such environment variable, or the extra `vlm`
            is not installed.
    """

    CARD: ClassVar[RewardCard] = RewardCard(needs="server", extra="vlm")

    model: str
    base_url: str
    mode: str = "logits"
    question: str | None = None
    yes: str = "yes"
    no: str = "no"
    scale: float = 10.0
    api_key_variable: str | None = None
    concurrency: int = 8
    timeout: float = 60.0
    max_retries: int = 4
    max_tokens: int = 64
    top_logprobs: int = 20
    request: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._require_valid()
        logits = self.mode == "logits"
        self._mode: AnswerMode = (
            YesNo(self.yes, self.no, self.top_logprobs) if logits else Rating(self.scale, self.max_tokens)
        )
        self._template = self._mode.question if self.question is None else self.question
        self._fields = _template_fields(self._template)
        self._key = read_key(self.api_key_variable)
        self._client = openai_client(self.base_url, self._key, self.timeout, self.max_retries)

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1] or B PIL images, prompts, metadata) -> (B,) in [0, 1].

        Raises:
            RewardError: the server failed after all retries, or its answer has no score; the message names the prompt.
        """
        questions = [self._ask(*pair) for pair in zip(prompts, metadata, strict=True)]
        with ThreadPoolExecutor(self.concurrency) as pool:
            return torch.tensor(list(pool.map(self._judge, to_pil(images), questions, prompts)))

    def _require_valid(self) -> None:
        if self.mode not in _MODES:
            raise unknown("vlm_judge mode", self.mode, _MODES)
        for name in _POSITIVE:
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"vlm_judge {name} is {value}, expected more than 0")
        if plain_word(self.yes) == plain_word(self.no):
            raise InputError(f"vlm_judge yes and no are both '{plain_word(self.yes)}', expected two different words")

    def _ask(self, prompt: str, metadata: dict[str, Any]) -> str:
        """The question about one image."""
        values = {**metadata, "prompt": prompt}
        for field in self._fields:
            if field not in values:
                raise RewardError(
                    f"the question has the field {{{field}}}, but prompt '{shortened(prompt)}' has no metadata "
                    f"'{field}'; known: {', '.join(sorted(values))}"
                )
        return self._template.format_map(values)

    def _judge(self, picture: Image.Image, question: str, prompt: str) -> float:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(picture)}},
            {"type": "text", "text": question},
        ]
        reply = self._complete([{"role": "user", "content": content}], prompt)
        try:
            return self._mode.score(reply.choices[0])
        except MalformedAnswer as error:
            problem = str(error)
        except (AttributeError, IndexError, TypeError):
            problem = f"did not send a chat completion: {shortened(str(reply), 200)}"
        raise RewardError(f"the judge at {self.base_url} {problem}, about prompt '{shortened(prompt)}'")

    def _complete(self, messages: list[Any], prompt: str) -> Any:
        import openai

        try:
            return self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=0,
                extra_body=dict(self.request or {}),
                **self._mode.request(),
            )
        except (openai.OpenAIError, ValueError) as error:
            message = str(error).replace(self._key, "***") if self._key else str(error)
            raise RewardError(
                f"the judge at {self.base_url} failed about prompt '{shortened(prompt)}': "
                f"{type(error).__name__}: {shortened(message, 200)}"
            ) from None


def _template_fields(question: str) -> list[str]:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(question) if field is not None]
    except ValueError as error:
        raise InputError(f"vlm_judge question '{shortened(question)}' is not a valid template: {error}") from error
    for field in fields:
        if not field.isidentifier():
            raise InputError(
                f"vlm_judge question has the field {{{field}}}, expected {{prompt}} or the name of a metadata field; "
                "write a literal brace as {{ or }}"
            )
    return fields
