"""Chat completions of an OpenAI-compatible server: the client, and how an answer becomes a score."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image

from stepcredit.errors import InputError, shortened
from stepcredit.rewards.core.extras import require_extra
from stepcredit.utils.redaction import find_secret, masked

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


class MalformedAnswer(Exception):
    """An answer without a score. The message continues the sentence "the judge at URL ..."."""


class AnswerMode(Protocol):
    """What a chat completion must contain, and how it becomes a score.

    Attributes:
        question: the default question, a template with the field {prompt}.
    """

    question: ClassVar[str]

    def request(self) -> dict[str, Any]:
        """Fields of the request."""
        ...

    def score(self, choice: Any) -> float:
        """The score, 0 to 1, of a completion's first choice. Raises MalformedAnswer."""
        ...


@dataclass(frozen=True)
class YesNo:
    """p(yes) / (p(yes) + p(no)) at the first token of the answer."""

    yes: str
    no: str
    top_logprobs: int

    question: ClassVar[str] = 'Does this image show "{prompt}"? Answer with one word, yes or no.'

    def request(self) -> dict[str, Any]:
        return {"max_tokens": 1, "logprobs": True, "top_logprobs": self.top_logprobs}

    def score(self, choice: Any) -> float:
        """sigmoid(log p(yes) - log p(no)), which is the same and does not underflow."""
        content = choice.logprobs.content if choice.logprobs is not None else None
        if not content:
            raise MalformedAnswer("sent no log-probabilities: enable them on the server, or set mode=score")
        listed = content[0].top_logprobs
        yes, no = (
            _log_sum(item.logprob for item in listed if plain_word(item.token) == plain_word(word))
            for word in (self.yes, self.no)
        )
        if yes == no == -math.inf:
            tokens = shortened(", ".join(repr(item.token) for item in listed), 120)
            answer = shortened(str(choice.message.content), 80)
            raise MalformedAnswer(
                f"answered '{answer}': neither '{self.yes}' nor '{self.no}' is among its likeliest tokens ({tokens})"
            )
        return float(torch.tensor(yes - no, dtype=torch.float64).sigmoid())


@dataclass(frozen=True)
class Rating:
    """The first number in the answer, divided by `scale`."""

    scale: float
    max_tokens: int

    question: ClassVar[str] = (
        'How well does this image show "{prompt}"? Answer with one number from 0 (not at all) to 10 (perfectly).'
    )

    def request(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens}

    def score(self, choice: Any) -> float:
        text = choice.message.content or ""
        number = _NUMBER.search(text)
        if number is None:
            raise MalformedAnswer(f"answered '{shortened(text)}', which holds no number")
        value = float(number[0])
        if not 0 <= value <= self.scale:
            raise MalformedAnswer(f"answered '{shortened(text)}', which is not from 0 to {self.scale:g}")
        return value / self.scale


def read_key(variable: str | None) -> str:
    """The key in an environment variable, "" for None.

    Raises:
        InputError: the variable is not set, or its name is not upper case. The name may be the key: it is not quoted.
    """
    if variable is None:
        return ""
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", variable):
        raise InputError(
            "vlm_judge api_key_variable must be the name of an environment variable, in capitals, never the key itself"
        )
    if not os.environ.get(variable, "").strip():
        raise InputError(f"vlm_judge reads its key from the environment variable {variable}, which is not set")
    return os.environ[variable].strip()


def openai_client(base_url: str, key: str, timeout: float, max_retries: int) -> Any:
    """A client of the server at `base_url`. Raises InputError: another kind of address, or the extra is missing."""
    require_extra("openai", "vlm", "vlm_judge")
    import openai

    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"vlm_judge base_url is '{masked(base_url)}', expected http://... or https://...")
    if find_secret(base_url) is not None:
        raise InputError("vlm_judge base_url must hold no password or key: name the key's variable in api_key_variable")
    # Without a key the client would send OPENAI_API_KEY to any server.
    return openai.OpenAI(base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=max_retries)


def data_url(picture: Image.Image) -> str:
    """The picture as a URL that holds a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def plain_word(text: str) -> str:
    """`text` without surrounding white space, in lower case."""
    return text.strip().casefold()


def _log_sum(log_probs: Iterable[float]) -> float:
    """log of the sum of the probabilities, -inf if there are none."""
    values = list(log_probs)
    largest = max(values, default=-math.inf)
    return largest if largest == -math.inf else largest + math.log(sum(math.exp(value - largest) for value in values))
