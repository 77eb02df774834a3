"""Payloads: encoding, decoding, and refusing malformed ones with one line."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save
from tests.rewards.remote.live import body, pictures

from stepcredit.errors import InputError
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.wire import JSON, SAFETENSORS, Batch, PayloadError, decode, encode
from stepcredit.rewards.vision.images import to_uint8

LIMITS = Limits(images=4, pixels=200)
TYPES = [JSON, SAFETENSORS]


def png(height: int = 4, width: int = 5, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "png")
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header declares this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def request(images: list[Any], prompts: Any = None, **more: Any) -> bytes:
    encoded = [base64.b64encode(data).decode() if isinstance(data, bytes) else data for data in images]
    return json.dumps(
        {"images": encoded, "prompts": ["a"] * len(images) if prompts is None else prompts, **more}
    ).encode()


def tensors(pixels: np.ndarray, header: dict[str, str] | None = None) -> bytes:
    return save({"images": pixels}, {"prompts": json.dumps(["a"] * len(pixels))} if header is None else header)


def zeros(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


def refusal(content: bytes, content_type: str, limits: Limits = LIMITS) -> tuple[int, str]:
    with pytest.raises(PayloadError) as caught:
        decode(content, content_type, limits)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    return caught.value.status, str(caught.value)


# Round trips


@pytest.mark.parametrize("content_type", TYPES)
def test_encoding_and_decoding(content_type: str) -> None:
    images, prompts, metadata = pictures(3), ["", "ein Käse \n", "\ud800 🎈"], [{}, {"a": [1, None]}, {"ü": 1e-320}]
    found = decode(encode(Batch.of(images, prompts, metadata), content_type), content_type, LIMITS)
    assert (found.prompts, found.metadata) == (prompts, metadata)
    assert found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, to_uint8(images).transpose(0, 3, 1, 2))


def test_pixels_are_those_that_pillow_gets() -> None:
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 254.4 / 255, 1.0, 1.5])
    batch = Batch.of(values.view(1, 1, 1, 8).expand(1, 3, 1, 8), ["a"], [{}])
    assert batch.pixels[0, 0, 0].tolist() == [0, 0, 0, 1, 128, 254, 255, 255]
    assert batch.pixels.shape == (1, 3, 1, 8)


def test_every_pixel_value_is_read_as_one_255th_and_quantized_back_to_itself() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, 1)
    images = Batch(pixels, ["a"], [{}]).images()
    assert images.dtype == torch.float32
    assert torch.equal(images[0, 0].flatten(), torch.arange(256, dtype=torch.float32) / 255)
    assert np.array_equal(Batch.of(images, ["a"], [{}]).pixels, pixels)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 4, 5, 5)])
def test_images_of_another_shape_are_not_sent(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(B, 3, H, W\\)"):
        Batch.of(torch.zeros(shape), ["a"], [{}])


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_metadata_that_json_cannot_hold_is_not_sent(content_type: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode(Batch.of(pictures(1), ["a"], [{"value": value}]), content_type)


@pytest.mark.parametrize("content_type", ["application/octet-stream", "Application/X-Safetensors; charset=binary"])
def test_other_names_of_safetensors(content_type: str) -> None:
    assert len(decode(body(pictures()), content_type, LIMITS).prompts) == 2


def test_metadata_is_optional() -> None:
    assert decode(request([png()]), JSON, LIMITS).metadata == [{}]
    assert decode(tensors(zeros(2, 3, 4, 5)), SAFETENSORS, LIMITS).metadata == [{}, {}]


# Refused payloads


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json-patch+json", "multipart/form-data"])
def test_other_content_types_are_415(content_type: str) -> None:
    status, line = refusal(request([png()]), content_type)
    assert status == 415 and line.startswith("content type must be application/json, application/x-safetensors or ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\xfe\x00", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b'{"images": NaN}', "the body is not JSON (NaN is not a JSON number)"),
        (b"1" * 5000, "the body is not JSON"),
        (b"[]", "the body must be a JSON object of images, prompts and metadata"),
        (b"{}", "'images' must be a list of base64 PNGs"),
        (request([1]), "'images' must be a list of base64 PNGs"),
        (request([]), "there are no images to score"),
        (request(["%%%%"]), "image 0 is not base64"),
        (request(["ä"]), "image 0 is not base64"),
        (request([png(), b"GIF89a"]), "image 1 is not an 8-bit RGB PNG"),
        (request([png()[:25]]), "image 0 is not an 8-bit RGB PNG"),
        (request([png(mode="RGBA")]), "image 0 is not an 8-bit RGB PNG"),
        (request([png(mode="L")]), "image 0 is not an 8-bit RGB PNG"),
        (request([png(mode="I;16")]), "image 0 is not an 8-bit RGB PNG"),
        (request([png()[:-30]]), "image 0 is a broken PNG"),
        (request([claiming(5, 4, b"too little")]), "image 0 is a broken PNG"),
        (request([claiming(0, 4)]), "an image has no pixels"),
        (request([png(4, 5), png(5, 4)]), "'images' must all be of one size"),
        (request([png()], None, metdata=[{}]), "unknown key 'metdata', expected images, prompts and metadata"),
        (request([png()], "a"), "'prompts' must be a list of strings"),
        (request([png()], [1]), "'prompts' must be a list of strings"),
        (request([png()], ["a", "b"]), "1 images have 2 prompts, expected one per image"),
        (request([png()], metadata=None), "'metadata' must be a list of objects"),
        (request([png()], metadata=[1]), "'metadata' must be a list of objects"),
        (request([png()], metadata=[]), "1 images have 0 metadata, expected one per image"),
        (pickle.dumps({"images": []}), "the body is not JSON"),
    ],
)
def test_malformed_json_is_422(content: bytes, line: str) -> None:
    status, said = refusal(content, JSON)
    assert status == 422 and said.startswith(line), said


def by_hand(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the body is not safetensors of a uint8 tensor"),
        (b"\x00" * 7, "the body is not safetensors"),
        (struct.pack("<Q", 2**63) + b"{}", "the body is not safetensors"),
        (by_hand(b"{}"), "safetensors must hold one tensor, 'images'"),
        (by_hand(b'{"images":{"dtype":"U8","shape":[1,3,1,1],"data_offsets":[0,4]}}', b"1234"), "the body is not saf"),
        (by_hand(b'{"images":{"dtype":"U8","shape":[1,3,1,1],"data_offsets":[0,3]}}', b"12"), "the body is not saf"),
        (by_hand(b'{"images":{"dtype":"??","shape":[1],"data_offsets":[0,1]}}', b"1"), "the body is not safetensors"),
        (by_hand(b'{"images":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}', b"1"), "the body is not safeten"),
        (body(pictures())[:-1], "the body is not safetensors"),
        (pickle.dumps({"images": []}), "the body is not safetensors"),
        (save({"pictures": zeros(1, 3, 2, 2)}), "safetensors must hold one tensor, 'images'"),
        (save({"images": zeros(1, 3, 2, 2), "more": zeros(1)}), "safetensors must hold one tensor, 'images'"),
        (tensors(zeros(1, 3, 2, 2, dtype=np.float32)), "'images' is float32 (1, 3, 2, 2), expected uint8 (B, 3, H, W)"),
        (tensors(zeros(3, 2, 2)), "'images' is uint8 (3, 2, 2), expected"),
        (tensors(zeros(1, 4, 2, 2)), "'images' is uint8 (1, 4, 2, 2), expected"),
        (tensors(zeros(0, 3, 2, 2)), "there are no images to score"),
        (tensors(zeros(1, 3, 0, 2)), "an image has no pixels"),
        (tensors(zeros(1, 3, 2, 2), {}), "'prompts' must be a list of strings"),
        (tensors(zeros(1, 3, 2, 2), {"prompts": "a"}), "the 'prompts' of the safetensors header is not JSON"),
        (tensors(zeros(1, 3, 2, 2), {"prompts": "[" * 50_000}), "the 'prompts' of the safetensors header is not JSON"),
        (tensors(zeros(1, 3, 2, 2), {"prompts": '["a"]', "x": "1"}), "unknown key 'x'"),
        (tensors(zeros(2, 3, 2, 2), {"prompts": '["a"]'}), "2 images have 1 prompts, expected one per image"),
    ],
)
def test_malformed_safetensors_is_422(content: bytes, line: str) -> None:
    status, said = refusal(content, SAFETENSORS)
    assert status == 422 and said.startswith(line), said


@pytest.mark.parametrize(
    ("content", "content_type", "line"),
    [
        (request([png()] * 5), JSON, "5 images exceed this server's limit of 4"),
        (request(["no PNG"] * 5), JSON, "5 images exceed"),
        (body(pictures(5)), SAFETENSORS, "5 images exceed"),
        (request([png(10, 10)] * 3), JSON, "300 pixels exceed this server's limit of 200"),
        (body(pictures(3, 10, 10)), SAFETENSORS, "300 pixels exceed"),
        (request([claiming(2**31 - 1, 2**31 - 1)]), JSON, f"{(2**31 - 1) ** 2} pixels exceed"),
        (request([claiming(60_000, 60_000)]), JSON, "3600000000 pixels exceed"),
        (by_hand(b'{"images":{"dtype":"U8","shape":[1099511627776,3,0,0],"data_offsets":[0,0]}}'), SAFETENSORS,
         "1099511627776 images exceed"),
    ],
    ids=range(8),
)  # fmt: skip
def test_payloads_beyond_the_limits_are_413(content: bytes, content_type: str, line: str) -> None:
    status, said = refusal(content, content_type)
    assert status == 413 and said.startswith(line), said


def test_a_decompression_bomb_is_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("it was opened"))
    assert refusal(request([claiming(20_000, 20_000)]), JSON, Limits())[0] == 413


def test_payloads_exactly_at_the_limits() -> None:
    assert len(decode(body(pictures(4, 5, 10)), SAFETENSORS, LIMITS).prompts) == 4
    assert len(decode(request([png(5, 10)] * 4), JSON, LIMITS).prompts) == 4


@pytest.mark.parametrize("name", ["request_bytes", "images", "pixels", "queue", "remembered", "read_seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"limit {name} is {value}, expected more than 0"):
        Limits(**{name: value})


# Arbitrary payloads


def sound(content: bytes, content_type: str) -> None:
    """A payload is a proper batch within the limits, or a PayloadError; no other outcome."""
    try:
        found = decode(content, content_type, LIMITS)
    except PayloadError as error:
        assert error.status in (413, 422)  # noqa: PT017  a payload may be sound as well
        return
    count, channels, height, width = found.pixels.shape
    assert found.pixels.dtype == np.uint8 and channels == 3
    assert 0 < count <= LIMITS.images and 0 < count * height * width <= LIMITS.pixels
    assert len(found.prompts) == len(found.metadata) == count
    assert found.images().is_contiguous()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from(TYPES))
def test_any_bytes(content: bytes, content_type: str) -> None:
    sound(content, content_type)


VALID = {content_type: body(pictures(2), content_type) for content_type in TYPES}


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.sampled_from(TYPES), st.data())
def test_damaged_payloads(content_type: str, data: st.DataObject) -> None:
    content = bytearray(VALID[content_type])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    sound(bytes(content), content_type)
    sound(bytes(content[:cut]), content_type)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ENCODED = base64.b64encode(png()).decode()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "images": st.lists(st.sampled_from([ENCODED, ""]) | JSONS, max_size=5) | JSONS,
            "prompts": st.lists(st.text(max_size=5), max_size=5) | JSONS,
            "metadata": st.lists(st.dictionaries(st.text(max_size=3), JSONS, max_size=2), max_size=5) | JSONS,
        },
    )
)
def test_any_json(content: dict[str, Any]) -> None:
    sound(json.dumps(content).encode(), JSON)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(["U8", "I8", "F32", "BF16", "BOOL", "F4", "C64", "?"]),
    st.lists(st.sampled_from([0, 1, 3, 4, 2**31, 2**63]), max_size=5),
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
    st.dictionaries(st.sampled_from(["prompts", "metadata", "x"]), st.sampled_from(["", "[]", '["a"]', "[{}]", "1"])),
    st.integers(0, 50),
)
def test_any_safetensors_header(
    dtype: str, shape: list[int], offsets: tuple[int, int], texts: dict[str, str], size: int
) -> None:
    header = {"images": {"dtype": dtype, "shape": shape, "data_offsets": offsets}, "__metadata__": texts}
    sound(by_hand(json.dumps(header).encode(), bytes(size)), SAFETENSORS)
