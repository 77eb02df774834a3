"""Dtype and shape guards shared by the maths modules."""

import torch
from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32, or unchanged if it is float64 already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], remedy: str) -> None:
    """Raise ValueError unless `tensor` has exactly the shape `expected`."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected}: {remedy}")


def require_dims(name: str, tensor: Tensor, dims: int, layout: str, *, exact: bool = True) -> None:
    """Raise ValueError unless `tensor` has `dims` dimensions (at least `dims` if not `exact`), laid out as `layout`."""
    if tensor.ndim < dims or (exact and tensor.ndim > dims):
        bound = "" if exact else "at least "
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {bound}{dims} dimensions laid out {layout}")


def per_sample(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """Return `value` in the dtype of `x`: as a 0-d tensor, or as (B, 1, ...) on the device of `x`.

    Raises:
        ValueError: `value` is neither scalar nor (B,).
    """
    value = torch.as_tensor(value, dtype=x.dtype)
    if value.ndim == 0:
        # A CPU scalar stays on the CPU, as in diffusers: CUDA divides by it through its reciprocal.
        return value
    require_shape(name, value, (x.shape[0],), "give one value for the batch, or one per sample")
    return moved(value, x.device).reshape(-1, *[1] * (x.ndim - 1))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; a copy to CUDA does not block."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def require_std(std: Tensor, mean: Tensor) -> None:
    """Raise ValueError unless `std` is a scalar or has the rank of `mean` and broadcasts to it.

    The rank is required because a (B,) std against a (B, C, H, W) mean would silently line up with W when W equals B.
    """
    same_rank = std.ndim == mean.ndim and all(s in (1, m) for s, m in zip(std.shape, mean.shape, strict=True))
    if std.ndim != 0 and not same_rank:
        raise ValueError(
            f"std has shape {tuple(std.shape)}, expected a scalar or a shape that broadcasts to {tuple(mean.shape)} "
            f"with the same number of dimensions: reshape it to {(mean.shape[0], *[1] * (mean.ndim - 1))}"
        )
