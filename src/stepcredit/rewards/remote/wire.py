"""Encoding and decoding of requests: safetensors, or JSON with PNGs. Nothing is pickled or executed."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor

from stepcredit.errors import InputError, shortened
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.vision.images import to_uint8

SAFETENSORS = "application/x-safetensors"
JSON = "application/json"
_BINARY = (SAFETENSORS, "application/octet-stream")
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


class PayloadError(InputError):
    """A request that the server refuses with the HTTP status `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Batch:
    """The content of a request.

    Attributes:
        pixels: (B, 3, H, W), uint8.
        prompts: B texts.
        metadata: B dicts.
    """

    pixels: np.ndarray
    prompts: list[str]
    metadata: list[dict[str, Any]]

    @classmethod
    def of(cls, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Batch:
        """From images (B,3,H,W) in [0,1]: pixels round(255 x), as in `to_uint8`."""
        return cls(to_uint8(images).transpose(0, 3, 1, 2), list(prompts), list(metadata))

    def images(self) -> Tensor:
        """(B,3,H,W), float32, contiguous: pixel / 255. `to_uint8` inverts it exactly.

        The memory layout matters: it determines the order of summation, and so the last bit of a mean.
        """
        return torch.from_numpy(self.pixels.astype(np.float32, order="C")) / 255


def encode(batch: Batch, content_type: str) -> bytes:
    """The body of a request. Raises ValueError or TypeError if the metadata is not JSON."""
    texts = {"prompts": batch.prompts, "metadata": batch.metadata}
    if content_type == JSON:
        pictures = [base64.b64encode(_png(pixels)).decode() for pixels in batch.pixels.transpose(0, 2, 3, 1)]
        return json.dumps({"images": pictures, **texts}, allow_nan=False).encode()
    header = {name: json.dumps(value, allow_nan=False) for name, value in texts.items()}
    return save_safetensors({"images": np.ascontiguousarray(batch.pixels)}, header)


def decode(body: bytes, content_type: str, limits: Limits) -> Batch:
    """The batch in a body.

    Raises:
        PayloadError: 415 for another content type; 413 for more images or pixels than `limits` allow, before any image
            is decompressed; 422 for any other error.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _BINARY:
        return _decode_safetensors(body, limits)
    if kind == JSON:
        return _decode_json(body, limits)
    raise PayloadError(415, f"content type must be {JSON}, {' or '.join(_BINARY)}")


def _decode_safetensors(body: bytes, limits: Limits) -> Batch:
    try:
        tensors = load_safetensors(body)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PayloadError(422, f"the body is not safetensors of a uint8 tensor ({shortened(str(error))})") from error
    if tensors.keys() != {"images"}:
        raise PayloadError(422, "safetensors must hold one tensor, 'images'")
    pixels = tensors["images"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise PayloadError(422, f"'images' is {pixels.dtype} {pixels.shape}, expected uint8 (B, 3, H, W)")
    _require_count(limits, len(pixels))
    _require_pixels(limits, [(pixels.shape[2], pixels.shape[3])] * len(pixels))
    header = _parse(body[8 : 8 + int.from_bytes(body[:8], "little")], "safetensors header").get("__metadata__", {})
    texts = {name: _parse(text, f"'{name}' of the safetensors header") for name, text in header.items()}
    return _batch(pixels, texts)


def _decode_json(body: bytes, limits: Limits) -> Batch:
    request = _parse(body, "body")
    if not isinstance(request, dict):
        raise PayloadError(422, "the body must be a JSON object of images, prompts and metadata")
    encoded = request.pop("images", None)
    if not (isinstance(encoded, list) and all(isinstance(text, str) for text in encoded)):
        raise PayloadError(422, "'images' must be a list of base64 PNGs")
    _require_count(limits, len(encoded))
    pictures = [_from_base64(text, number) for number, text in enumerate(encoded)]
    sizes = [_png_size(data, number) for number, data in enumerate(pictures)]
    _require_pixels(limits, sizes)
    if len(set(sizes)) > 1:
        raise PayloadError(422, "'images' must all be of one size")
    return _batch(np.stack([_decode_png(data, number) for number, data in enumerate(pictures)]), request)


def _batch(pixels: np.ndarray, texts: dict[str, Any]) -> Batch:
    """The batch of these pixels; `texts` holds prompts and optionally metadata."""
    extra = sorted(texts.keys() - {"prompts", "metadata"})
    if extra:
        raise PayloadError(422, f"unknown key '{shortened(extra[0])}', expected images, prompts and metadata")
    prompts, metadata = texts.get("prompts"), texts.get("metadata", [{}] * len(pixels))
    for name, values, kind in (("prompts", prompts, str), ("metadata", metadata, dict)):
        if not (isinstance(values, list) and all(isinstance(value, kind) for value in values)):
            raise PayloadError(422, f"'{name}' must be a list of {'strings' if kind is str else 'objects'}")
        if len(values) != len(pixels):
            raise PayloadError(422, f"{len(pixels)} images have {len(values)} {name}, expected one per image")
    return Batch(pixels, prompts or [], metadata)


def _require_count(limits: Limits, count: int) -> None:
    if count == 0:
        raise PayloadError(422, "there are no images to score")
    if count > limits.images:
        raise PayloadError(413, f"{count} images exceed this server's limit of {limits.images} per request")


def _require_pixels(limits: Limits, sizes: Sequence[tuple[int, int]]) -> None:
    if any(height == 0 or width == 0 for height, width in sizes):
        raise PayloadError(422, "an image has no pixels")
    pixels = sum(math.prod(size) for size in sizes)
    if pixels > limits.pixels:
        raise PayloadError(413, f"{pixels} pixels exceed this server's limit of {limits.pixels} per request")


def _parse(text: bytes | str, source: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PayloadError(422, f"the {source} is not JSON ({shortened(str(error))})") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _from_base64(text: str, number: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PayloadError(422, f"image {number} is not base64") from error


def _png_size(data: bytes, number: int) -> tuple[int, int]:
    """(H, W) from the header: a small file may decompress to gigapixels."""
    if not (data.startswith(_PNG_START) and len(data) >= 33 and data[24:26] == b"\x08\x02"):
        raise PayloadError(422, f"image {number} is not an 8-bit RGB PNG")
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def _decode_png(data: bytes, number: int) -> np.ndarray:
    """(3, H, W), uint8."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # Pillow raises many types for broken files
        raise PayloadError(422, f"image {number} is a broken PNG ({shortened(str(error))})") from error


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()
