"""What a vision-language model says about an image, asked over HTTP."""

from __future__ import annotations

import base64
import io
import math
import os
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stepcredit.errors import InputError, RewardError, shortened, unknown
from stepcredit.rewards import REWARDS
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.vision.images import Images, to_pil
from stepcredit.utils.redaction import masked, secret_place

_QUESTIONS = {
    "logits": 'Does this image show "{prompt}"? Answer with one word, yes or no.',
    "score": 'How well does this image show "{prompt}"? Answer with one number from 0 (not at all) to 10 (perfectly).',
}
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


@REWARDS.register("vlm_judge")
class VlmJudge:
    """What a vision-language model on any OpenAI-compatible server answers to a question about the image, 0 to 1.

    Each image is one chat completion at temperature 0: the image as a PNG data URL, then the question. Two modes:

        logits   r = p(yes) / (p(yes) + p(no)), from the log-probabilities of the first token of the answer
        score    r = n / scale, n the first number in the answer

    In `logits` every listed token that is `yes` or `no` but for case and white space counts; a word that is not among
    the `top_logprobs` likeliest tokens counts as probability 0. In `score` n must lie from 0 to `scale`. An answer with
    neither word, or without such a number, is an error that names the prompt: nothing is guessed.

    Source: p(yes) as a reward is VQAScore, arXiv 2404.01291, there without the normalization by p(no).

    Args:
        model: as the server calls it.
        base_url: of the server, such as http://localhost:8000/v1.
        mode: `logits` or `score`.
        question: a template; {prompt} is the prompt, {key} what the prompt's metadata holds under `key`, {{ a brace.
            The default asks whether, or how well, the image shows the prompt.
        yes, no: the words of `logits`.
        scale: the best number of `score`.
        api_key_variable: name of the environment variable that holds the server's key; None sends no key. The key
            itself has no place in a configuration.
        concurrency: requests under way at the same time.
        timeout: seconds until a request counts as failed.
        max_retries: further tries of a request that timed out, lost its connection or was answered 408, 409, 429 or
            5xx, with the client's exponential backoff between.
        max_tokens: of an answer in `score`; `logits` needs one.
        top_logprobs: likeliest tokens asked for in `logits`; servers allow up to 20, some fewer.
        request: further fields of the request, for what only some servers know, such as `chat_template_kwargs`.

    Raises:
        InputError: an option out of its range, a broken template, no such environment variable, or the extra `vlm` is
            not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        mode: str = "logits",
        question: str | None = None,
        yes: str = "yes",
        no: str = "no",
        scale: float = 10.0,
        api_key_variable: str | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 4,
        max_tokens: int = 64,
        top_logprobs: int = 20,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        if mode not in _QUESTIONS:
            raise unknown("vlm_judge mode", mode, _QUESTIONS)
        limits = {"concurrency": concurrency, "timeout": timeout, "scale": scale, "max_tokens": max_tokens}
        for name, value in limits.items():
            if not value > 0:
                raise InputError(f"vlm_judge {name} is {value}, expected more than 0")
        if _word(yes) == _word(no):
            raise InputError(f"vlm_judge yes and no are both '{_word(yes)}', expected two different words")
        self._mode, self._scale, self._words = mode, scale, (_word(yes), _word(no))
        self._question = _QUESTIONS[mode] if question is None else question
        self._fields = _template_fields(self._question)
        self._concurrency, self._url = concurrency, base_url
        self._key = _key(api_key_variable)
        self._client = _client(base_url, self._key, timeout, max_retries)
        answer = {"max_tokens": max_tokens}
        if mode == "logits":
            answer = {"max_tokens": 1, "logprobs": True, "top_logprobs": top_logprobs}
        self._request = {"model": model, "temperature": 0, **answer, "extra_body": dict(request or {})}

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1] or B of PIL, prompts, metadata) -> (B,) in [0, 1].

        Raises:
            RewardError: the server failed after all retries, or answered what is no answer; it names the prompt.
        """
        questions = [self._ask(*pair) for pair in zip(prompts, metadata, strict=True)]
        with ThreadPoolExecutor(self._concurrency) as pool:
            return torch.tensor(list(pool.map(self._judge, to_pil(images), questions, prompts)))

    def _ask(self, prompt: str, metadata: dict[str, Any]) -> str:
        known = {**metadata, "prompt": prompt}
        for field in self._fields:
            if field not in known:
                raise RewardError(
                    f"the question asks for {{{field}}}, which prompt '{shortened(prompt)}' has not; "
                    f"known: {', '.join(sorted(known))}"
                )
        return self._question.format_map(known)

    def _judge(self, picture: Image.Image, question: str, prompt: str) -> float:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(picture)}},
            {"type": "text", "text": question},
        ]
        reply = self._complete([{"role": "user", "content": content}], prompt)
        try:
            choice = reply.choices[0]
            return self._probability(choice) if self._mode == "logits" else self._number(choice.message.content)
        except _Malformed as error:
            what = str(error)
        except (AttributeError, IndexError, TypeError):
            what = f"sent what is no chat completion: {shortened(str(reply), 200)}"
        raise RewardError(f"the judge at {self._url} {what}, about prompt '{shortened(prompt)}'")

    def _complete(self, messages: list[Any], prompt: str) -> Any:
        import openai

        try:
            return self._client.chat.completions.create(messages=messages, **self._request)
        except (openai.OpenAIError, ValueError) as error:
            said = str(error).replace(self._key, "***") if self._key else str(error)
            raise RewardError(
                f"the judge at {self._url} failed about prompt '{shortened(prompt)}': "
                f"{type(error).__name__}: {shortened(said, 200)}"
            ) from None

    def _probability(self, choice: Any) -> float:
        """p(yes) / (p(yes) + p(no)) = sigmoid(log p(yes) - log p(no)) at the first token."""
        content = choice.logprobs.content if choice.logprobs is not None else None
        if not content:
            raise _Malformed("sent no log-probabilities: have the server send them, or use mode: score")
        listed = content[0].top_logprobs
        yes, no = (_log_sum(item.logprob for item in listed if _word(item.token) == word) for word in self._words)
        if yes == no == -math.inf:
            tokens = shortened(", ".join(repr(item.token) for item in listed), 120)
            answer = shortened(str(choice.message.content), 80)
            raise _Malformed(
                f"answered '{answer}', and {' and '.join(self._words)} are not among its tokens ({tokens})"
            )
        return float(torch.tensor(yes - no, dtype=torch.float64).sigmoid())

    def _number(self, text: str | None) -> float:
        found = _NUMBER.search(text or "")
        if found is None:
            raise _Malformed(f"answered '{shortened(text or '')}', in which there is no number")
        value = float(found[0])
        if not 0 <= value <= self._scale:
            raise _Malformed(f"answered '{shortened(text or '')}', which is not from 0 to {self._scale:g}")
        return value / self._scale


class _Malformed(Exception):
    """An answer that is none; the message goes on after "the judge"."""


def data_url(picture: Image.Image) -> str:
    """The picture as a PNG inside a URL."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _word(text: str) -> str:
    return text.strip().casefold()


def _log_sum(log_probs: Iterable[float]) -> float:
    """log of the sum of the probabilities, -inf for none."""
    values = list(log_probs)
    most = max(values, default=-math.inf)
    return most if most == -math.inf else most + math.log(sum(math.exp(value - most) for value in values))


def _template_fields(question: str) -> list[str]:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(question) if field is not None]
    except ValueError as error:
        raise InputError(f"vlm_judge question '{shortened(question)}' is no template: {error}") from error
    for field in fields:
        if not field.isidentifier():
            raise InputError(
                f"vlm_judge question has the field {{{field}}}, expected {{prompt}} or the name of a metadata field; "
                "a brace is written {{ or }}"
            )
    return fields


def _key(variable: str | None) -> str:
    """The key in an environment variable. What is no name is not repeated: it may be the key itself."""
    if variable is None:
        return ""
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", variable):
        raise InputError(
            "vlm_judge api_key_variable is the name of an environment variable, in capitals, never the key itself"
        )
    if not os.environ.get(variable, "").strip():
        raise InputError(f"vlm_judge wants its key in the environment variable {variable}, which is not set")
    return os.environ[variable].strip()


def _client(base_url: str, key: str, timeout: float, max_retries: int) -> Any:
    require_extra("openai", "vlm", "vlm_judge")
    import openai

    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"vlm_judge base_url is '{masked(base_url)}', expected http://... or https://...")
    if secret_place(base_url) is not None:
        raise InputError("vlm_judge base_url must hold no password or key: name the key's variable in api_key_variable")
    # Without a key the client would send OPENAI_API_KEY, whoever the server is.
    return openai.OpenAI(base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=max_retries)
