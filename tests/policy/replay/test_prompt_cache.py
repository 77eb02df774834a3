"""What encode_prompt returned is made once for all prompts and cut to the rows of any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.families import FAMILIES
from tests.families.proof import moved
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_sd
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.policy.replay.prompt_cache import Encode, EncodingStore, PromptCache, weight_versions
from stepcredit.policy.replay.prompt_rows import BatchAxis, PromptRows, batch_axes, pack, select
from stepcredit.types import Plan

TEXTS = ("a", "bb", "ccc")


def number(text: str) -> float:
    return float(ord(text[0]))


def rows_of(texts: Sequence[str], length: int = 5) -> Tensor:
    """(B, length, 2), all of it the number of the text."""
    return torch.tensor([number(text) for text in texts]).view(-1, 1, 1).expand(-1, length, 2).clone()


def encoded(
    encode: Encode, texts: Sequence[str] = TEXTS, store: EncodingStore | None = None, weights: Any = (), **named: Any
) -> PromptCache:
    """The encodings of one call for all of `texts`."""
    encodings = PromptCache(texts, store or EncodingStore(), weights)
    encodings.encoder(encode, list(texts))(list(texts), **named)
    return encodings


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6])
def test_a_sequence_as_long_as_the_batch_is_not_taken_for_a_batch(length: int) -> None:
    """(B, S, C) and a (S, 3) that belongs to no prompt, as FLUX's text positions do; S is B, 2 B and B + 1 too."""
    positions = torch.arange(3.0 * length).view(length, 3)
    encodings = encoded(lambda prompt: (rows_of(prompt, length), positions))
    value, ids = encodings.batch(["ccc", "a"])[0]
    assert torch.equal(value, rows_of(["ccc", "a"], length))
    assert torch.equal(ids, positions)


def test_ragged_lists_are_selected_by_prompt() -> None:
    encodings = encoded(lambda prompt: ([torch.full((len(text), 2), number(text)) for text in prompt], []))
    value, negative = encodings.batch(["ccc", "ccc", "bb"])[0]
    assert [tuple(part.shape) for part in value] == [(3, 2), (3, 2), (2, 2)]
    assert [float(part[0, 0]) for part in value] == [number("c"), number("c"), number("b")]
    assert negative == []


def test_a_list_of_layers_is_selected_inside() -> None:
    encodings = encoded(lambda prompt: [rows_of(prompt), -rows_of(prompt), torch.ones(3)])
    first, second, fixed = encodings.batch(["bb"])[0]
    assert torch.equal(first, rows_of(["bb"])) and torch.equal(second, -rows_of(["bb"]))
    assert torch.equal(fixed, torch.ones(3))


def test_a_repeated_batch_is_selected_in_every_block() -> None:
    """Negative and positive prompts along one axis."""
    encodings = encoded(lambda prompt: torch.cat([-rows_of(prompt), rows_of(prompt)]))
    (value,) = encodings.batch(["ccc", "a"])
    assert torch.equal(value, torch.cat([-rows_of(["ccc", "a"]), rows_of(["ccc", "a"])]))


def test_none_and_numbers_are_returned_unchanged() -> None:
    scalar = torch.tensor(4.0)
    encodings = encoded(lambda prompt: (rows_of(prompt), None, 7, scalar, (None, rows_of(prompt))))
    value, nothing, seven, same, (inner, deep) = encodings.batch(["bb"])[0]
    assert torch.equal(value, rows_of(["bb"])) and torch.equal(deep, rows_of(["bb"]))
    assert nothing is None and inner is None and seven == 7 and same is scalar


def test_rows_that_cannot_be_assigned_to_prompts_are_refused() -> None:
    with pytest.raises(InputError, match=r"for 3 prompts"):
        encoded(lambda prompt: rows_of([*prompt, "z"]))


def test_a_batch_may_reorder_and_repeat_prompts() -> None:
    encodings = encoded(lambda prompt: rows_of(prompt), ["bb", "a", "bb", "ccc"])
    assert encodings.prompts == ("bb", "a", "ccc")
    batch = ["ccc", "a", "a", "bb", "ccc"]
    assert torch.equal(encodings.batch(batch)[0], rows_of(batch))
    assert torch.equal(encodings.batch(["a"])[0], rows_of(["a"]))
    assert torch.equal(encodings.batch(batch)[0], rows_of(batch))


def test_every_distinct_prompt_is_encoded_once_for_all_batches() -> None:
    asked: list[list[str]] = []

    def encode(prompt: list[str]) -> Tensor:
        asked.append(prompt)
        return rows_of(prompt)

    store = EncodingStore()
    for _ in range(2):
        encodings = PromptCache(["bb", "a", "bb", "ccc"], store)
        for batch in (["bb", "a"], ["bb", "ccc"]):
            assert torch.equal(encodings.encoder(encode, batch)(batch), rows_of(batch))
    assert asked == [["bb", "a", "ccc"], ["bb", "a", "ccc", "bb"]]


def test_calls_are_identified_by_their_order() -> None:
    """As where a pipeline encodes the prompt and then the negative prompt."""
    encodings = PromptCache(TEXTS, EncodingStore())
    for batch in (["a", "bb"], ["ccc", "a"]):
        encode = encodings.encoder(lambda prompt: rows_of(prompt), batch)
        assert torch.equal(encode(batch), rows_of(batch))
        assert torch.equal(encode(["no", "no"]), rows_of(["no", "no"]))
    assert [tuple(value[:, 0, 0].tolist()) for value in encodings.batch(["bb"])] == [(number("b"),), (number("n"),)]


def test_a_structure_that_changes_from_one_rollout_to_the_next() -> None:
    """With guidance there is a negative part, without it is None: what is known of one is not used for the other."""
    store = EncodingStore()
    plain = encoded(lambda prompt: (rows_of(prompt), None), store=store)
    guided = encoded(lambda prompt: (rows_of(prompt), -rows_of(prompt)), store=store)
    doubled = encoded(lambda prompt: (rows_of(prompt), torch.ones(6)), store=store)
    assert plain.batch(["bb"])[0][1] is None
    assert torch.equal(guided.batch(["bb"])[0][1], -rows_of(["bb"]))
    assert torch.equal(doubled.batch(["bb"])[0][1], torch.ones(6))
    assert len(store.axes) == 3


def test_a_single_prompt_is_distinguished_from_shared_parts() -> None:
    encodings = encoded(lambda prompt: (rows_of(prompt), torch.ones(1, 2)), ["a"])
    value, fixed = encodings.batch(["a", "a"])[0]
    assert torch.equal(value, rows_of(["a", "a"])) and torch.equal(fixed, torch.ones(1, 2))


def test_an_equal_text_per_image_is_passed_for_all_prompts() -> None:
    seen = []

    def encode(prompt: list[str], negative_prompt: list[str]) -> Tensor:
        seen.append(negative_prompt)
        return rows_of(prompt) - rows_of(negative_prompt)

    encodings = PromptCache(TEXTS, EncodingStore())
    value = encodings.encoder(encode, ["a", "bb"])(["a", "bb"], negative_prompt=["no", "no"])
    assert torch.equal(value, rows_of(["a", "bb"]) - number("n"))
    assert seen == [["no"] * 3, ["no"] * 4]


def test_a_negative_prompt_may_equal_the_prompts_of_a_batch() -> None:
    def encode(prompt: list[str], negative_prompt: list[str]) -> Tensor:
        return rows_of(negative_prompt)

    encodings = PromptCache(TEXTS, EncodingStore())
    encodings.encoder(encode, ["a", "a"])(["a", "a"], negative_prompt=["a", "a"])
    assert torch.equal(encodings.batch(["bb", "ccc"])[0], rows_of(["a", "a"]))


def test_a_list_without_texts_is_passed_unchanged() -> None:
    """As the layers of the text encoder that FLUX.2 reads, which may be as many as the images."""
    seen = []

    def encode(prompt: list[str], layers: list[int]) -> Tensor:
        seen.append(layers)
        return rows_of(prompt)

    encoded(encode, layers=[9, 18, 27])
    assert seen == [[9, 18, 27]] * 2


def test_different_texts_per_image_are_refused() -> None:
    with pytest.raises(InputError, match="a different negative_prompt for every image"):
        encoded(lambda prompt, negative_prompt: rows_of(prompt), negative_prompt=["x", "y", "z"])


def test_a_rollout_refuses_different_negative_prompts_per_image() -> None:
    policy = tiny_policy(call={"negative_prompt": ["w", "x", "y", "z"]})
    with pytest.raises(InputError, match="a different negative_prompt for every image"):
        policy.rollout(PROMPTS, SEEDS)
    assert policy.scheduler.hook is None


def test_every_call_gets_a_new_list_of_negative_prompts() -> None:
    policy = tiny_policy(steps=1, call={"negative_prompt": "bad"})
    recording = policy.rollout(PROMPTS, SEEDS).trajectory.recording
    first = recording.arguments(TEXTS)["negative_prompt"]
    first.append("spoilt")
    assert recording.arguments(TEXTS)["negative_prompt"] == ["bad"] * 3
    assert recording.arguments(TEXTS[:1])["negative_prompt"] == ["bad"]
    assert recording.call["negative_prompt"] == policy.sample.call["negative_prompt"] == "bad"


def test_a_negative_prompt_has_an_effect_and_replays() -> None:
    policy = tiny_policy(steps=2, call={"negative_prompt": "bad"})
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(2, range(2), batch=3)).trajectory
    plain = tiny_policy(steps=2).rollout(PROMPTS, SEEDS, Plan(2, range(2), batch=3)).trajectory
    assert not torch.equal(trajectory.final, plain.final)
    for rows in (torch.arange(3), torch.tensor([3, 3, 3])):
        mean, again = policy.replay(trajectory, 1, rows).mean, policy.replay(trajectory, 1, rows).mean
        assert torch.equal(mean, again)


def test_a_rollout_encodes_prompts_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(tiny_sd(), steps=1, guidance=1.0)
    own, asked = type(policy.pipeline).encode_prompt, []

    def encode(self: Any, prompt: list[str], *arguments: Any, **named: Any) -> Any:
        asked.append(list(prompt))
        return own(self, prompt, *arguments, **named)

    monkeypatch.setattr(type(policy.pipeline), "encode_prompt", encode)
    twice = [PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    for _ in range(2):
        trajectory = policy.rollout(twice, SEEDS[:3], Plan(1, range(1), batch=2)).trajectory
    policy.replay(trajectory, 0)
    policy.replay(trajectory, 0, torch.tensor([2]))
    assert asked == [["two dogs", "a cat"], ["two dogs", "a cat", "two dogs"]]


ONE = BatchAxis(0, 1)
AXES = (ONE, ONE, ONE, BatchAxis(0, 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("repeat", [1, 2])
def test_rows_are_found_along_any_axis(axis: int, repeat: int) -> None:
    """HiDream's encodings are (layers, batch, ...)."""

    def encode(prompt: Sequence[str]) -> Tensor:
        rows = torch.cat([rows_of(prompt)] * repeat)
        return torch.stack([rows, -rows, 2 * rows]).movedim(1, axis).contiguous()

    assert torch.equal(encoded(encode).batch(["ccc", "a"])[0], encode(["ccc", "a"]))


def test_an_axis_that_cannot_be_identified_is_refused() -> None:
    for shape, longer in (((3, 3), (4, 4)), ((2, 5), (2, 6)), ((4, 3), (4, 5))):
        with pytest.raises(InputError, match="cannot assign the rows to prompts"):
            batch_axes(torch.zeros(shape), torch.zeros(longer), 3)


def stored_rows(value: Any) -> list[int]:
    """Of each part that holds rows, how many."""
    if isinstance(value, tuple | list):
        return [count for part in value for count in stored_rows(part)]
    if not isinstance(value, PromptRows):
        return []
    return [value.stored.shape[value.axis] if isinstance(value.stored, Tensor) else len(value.stored)]


def stored_bytes(value: Any) -> int:
    """Of every storage that a packed value keeps."""
    if isinstance(value, tuple | list):
        return sum(map(stored_bytes, value))
    parts = value.stored if isinstance(value.stored, list) else [value.stored]
    return sum(part.untyped_storage().nbytes() for part in parts)


def guided(prompts: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Rows of prompts; one row for all, as a tensor, as a list of views of one, and as the first block of two."""
    texts, one = rows_of(TEXTS[:prompts]), rows_of(["n"] * prompts)
    return texts, one, list(rows_of(["n"] * prompts)), torch.cat([one, texts])


@pytest.mark.parametrize("prompts", [2, 3])
def test_the_unconditional_branch_is_stored_as_one_row(prompts: int) -> None:
    row = rows_of(["n"]).untyped_storage().nbytes()
    stored = pack(guided(prompts), AXES, prompts)
    assert [stored_bytes(part) for part in stored] == [prompts * row, row, row, (1 + prompts) * row]


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1, 1, 1, 1]])
def test_a_row_stored_once_is_returned_for_each_image(rows: list[int]) -> None:
    texts, negative, listed, both = select(pack(guided(3), AXES, 3), rows)
    assert torch.equal(texts, rows_of([TEXTS[row] for row in rows]))
    assert torch.equal(negative, rows_of(["n"] * len(rows))) and torch.equal(torch.stack(listed), negative)
    assert torch.equal(both, torch.cat([negative, texts]))


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3), (3, 1, 2, 0)])
def test_rows_have_the_memory_layout_of_an_index(order: tuple[int, ...], alike: bool) -> None:
    """In half precision kernels round by layout; and expanded rows are not what a pipeline has seen before."""
    stored = torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(0)).permute(order).contiguous()
    value = stored.permute([order.index(axis) for axis in range(4)])
    value = torch.empty_like(value).copy_(value[:1]) if alike else value
    for rows in ([0, 1, 2, 3], [2], [3, 3]):
        plain, ours = value[torch.tensor(rows)], select(pack(value, ONE, 4), rows)
        assert torch.equal(plain, ours) and plain.stride() == ours.stride()


@pytest.mark.parametrize("other", [-0.0, 1e-45])
def test_rows_that_differ_in_one_bit_are_stored_separately(other: float) -> None:
    value = torch.tensor([[0.0, float("nan")], [other, float("nan")]])
    assert stored_rows(pack(value, ONE, 2)) == [2]
    assert stored_rows(pack(value[[0, 0]], ONE, 2)) == [1]


WITHOUT_NEGATIVE = ("flux",)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_stores_its_unconditional_branch_once(name: str) -> None:
    """Next to the rows of the prompts themselves; that it replays exactly, tests of the families show."""
    encodings = moved(name).rollout(PROMPTS, SEEDS, Plan(1, range(1), batch=3)).trajectory.recording.encodings
    stored = stored_rows(encodings._calls)
    assert set(stored) == ({4} if name in WITHOUT_NEGATIVE else {4, 1})


class Counting:
    """An encoder that knows how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, prompt: list[str], negative_prompt: Any = None, scale: Any = 1.0) -> Tensor:
        self.asked += 1
        return self.asked * rows_of(prompt)


def times_asked(first: dict[str, Any], then: dict[str, Any]) -> int:
    """How often an encoder is asked by two rollouts that differ as given; two is once each."""
    encoder, store = Counting(), EncodingStore()
    encoded(encoder.encode, store=store)  # finds out the layout
    encoder.asked = 0
    for given in (first, then):
        encoded(given.pop("encode", encoder.encode), store=store, **{"texts": ("x", "y"), **given})
    return encoder.asked


@pytest.mark.parametrize(
    ("first", "then", "asked"),
    [
        ({}, {}, 1),
        ({"weights": (3,)}, {"weights": (3,)}, 1),
        ({"negative_prompt": ["n", "n"]}, {"negative_prompt": ["n", "n"]}, 1),
        ({}, {"texts": ("y", "x")}, 2),
        ({}, {"texts": ("x",)}, 2),
        ({}, {"texts": ("x", "y", "z")}, 2),
        ({"weights": (3,)}, {"weights": (4,)}, 2),
        ({"negative_prompt": ["n", "n"]}, {"negative_prompt": ["m", "m"]}, 2),
        ({"scale": 1.0}, {"scale": 2.0}, 2),
        ({"scale": {"a": [1, None]}}, {"scale": {"a": [1, None]}}, 1),
        ({"scale": torch.ones(2)}, {"scale": torch.ones(2)}, 2),
        ({"encode": lambda prompt: rows_of(prompt)}, {}, 1),
    ],
)
def test_an_encoding_is_reused_for_equal_prompts_arguments_and_weights(
    first: dict[str, Any], then: dict[str, Any], asked: int
) -> None:
    """In the same order, too: kernels round by the row of a batch. A tensor does not tell its values cheaply."""
    assert times_asked(first, then) == asked


def test_the_least_recently_used_encodings_are_dropped() -> None:
    encoder, store, recorded = Counting(), EncodingStore(), ["train", "grid", "train", "held out", "train", "grid"]
    asked = []
    for name in recorded:
        before = encoder.asked
        encoded(encoder.encode, [name, "second"], store)
        asked.append(encoder.asked > before)
    assert asked == [True, True, False, True, False, True]


def test_later_epochs_reuse_the_encodings_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(steps=1)
    own, asked = type(policy.pipeline).encode_prompt, []

    def encode(self: Any, prompt: list[str], *arguments: Any, **named: Any) -> Any:
        asked.append(list(prompt))
        return own(self, prompt, *arguments, **named)

    monkeypatch.setattr(type(policy.pipeline), "encode_prompt", encode)
    first = policy.rollout(PROMPTS, SEEDS).trajectory
    again = policy.rollout(PROMPTS, SEEDS).trajectory
    assert len(asked) == 2
    assert torch.equal(first.latents, again.latents)
    with torch.no_grad():
        next(policy.pipeline.text_encoder.parameters()).mul_(2)
    assert not torch.equal(first.latents, policy.rollout(PROMPTS, SEEDS).trajectory.latents)
    assert len(asked) == 3


def test_weight_versions_change_when_weights_are_changed_or_replaced() -> None:
    part = torch.nn.Linear(2, 2)
    seen = [weight_versions([part])]
    assert weight_versions([part]) == seen[0]
    with torch.no_grad():
        part.bias.zero_()
    seen.append(weight_versions([part]))
    part.weight.data = part.weight.data.double()
    seen.append(weight_versions([part]))
    part.weight = torch.nn.Parameter(part.weight.detach().clone())
    seen.append(weight_versions([part]))
    assert len(set(seen)) == 4


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_text_encoder_is_trained(name: str, adapter: str) -> None:
    policy = moved(name, model={"adapter": adapter})
    trained = {id(weight) for weight in policy.parameters()}
    frozen = [weight for part in policy._encoders() for weight in part.parameters()]
    assert frozen and not any(id(weight) in trained or weight.requires_grad for weight in frozen)
