"""What torch has no single function for: called by modules that were read. Imports torch.

Shapes are taken from the tensors each time, so that any batch, and fewer channels, pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence


def numbers(entries: Sequence[float], scalar: bool) -> torch.Tensor:
    """Return sizes as a tensor: int64 or float32; of no dimension if ``scalar``."""
    value = torch.tensor(list(entries))
    return value[0] if scalar else value


def choose(condition: bool, yes: float, no: float) -> float:
    """Return one of two numbers."""
    return yes if condition else no


def gather(x: torch.Tensor, axis: int, indices: torch.Tensor) -> torch.Tensor:
    """Return ``x`` with an axis replaced by those of ``indices``; negative ones count from the end."""
    flat = indices.reshape(-1).long()
    taken = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return taken.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def hard_sigmoid(x: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Return alpha x + beta within [0, 1]."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def flat_softmax(x: torch.Tensor, axis: int, log: bool) -> torch.Tensor:
    """Softmax over all axes from ``axis`` on, as before opset 13."""
    flat = x.flatten(axis)
    return (flat.log_softmax(-1) if log else flat.softmax(-1)).reshape(x.shape)


def by_direction(output: torch.Tensor, directions: int) -> torch.Tensor:
    """Return what a recurrent layer gives (T, B, D H) as ONNX has it: (T, D, B, H)."""
    # Not by unflatten, of which torch's tracing exporter makes the batch of the example.
    return output.reshape(output.shape[0], output.shape[1], directions, -1).transpose(1, 2)


def depth_to_space(x: torch.Tensor, block: int) -> torch.Tensor:
    """Return (B, block² C, H, W) as (B, C, block H, block W), depth first (mode DCR)."""
    parts = x.reshape(x.shape[0], block**2, -1, x.shape[2], x.shape[3])
    return functional.pixel_shuffle(parts.transpose(1, 2).flatten(1, 2), block)


def space_to_depth(x: torch.Tensor, block: int) -> torch.Tensor:
    """Return (B, C, block H, block W) as (B, block² C, H, W)."""
    x = functional.pixel_unshuffle(x, block)
    return x.reshape(x.shape[0], -1, block**2, x.shape[2], x.shape[3]).transpose(1, 2).flatten(1, 2)


def mean_pool(
    x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], amounts: Sequence[int]
) -> torch.Tensor:
    """Average over images padded by ``amounts``, each window over what isn't padding."""
    share = functional.avg_pool2d(functional.pad(torch.ones_like(x[:1, :1]), list(amounts)), kernel, strides)
    return functional.avg_pool2d(functional.pad(x, list(amounts)), kernel, strides) / share


def largest(*tensors: torch.Tensor) -> torch.Tensor:
    """Return the elementwise maximum."""
    result = tensors[0]
    for each in tensors[1:]:
        result = torch.maximum(result, each)
    return result


def smallest(*tensors: torch.Tensor) -> torch.Tensor:
    """Return the elementwise minimum."""
    result = tensors[0]
    for each in tensors[1:]:
        result = torch.minimum(result, each)
    return result


def total(*tensors: torch.Tensor) -> torch.Tensor:
    """Return the elementwise sum."""
    result = tensors[0]
    for each in tensors[1:]:
        result = result + each
    return result


def product(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    """Return the product over several axes."""
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def square_sum(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    """Return the sum of squares over several axes."""
    return x.square().sum(dim=tuple(axes), keepdim=keep)


def gemm(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | float | None, alpha: float, beta: float) -> torch.Tensor:
    """Return alpha a b + beta c."""
    result = torch.matmul(a, b) if alpha == 1.0 else alpha * torch.matmul(a, b)
    if c is None:
        return result
    return result + c if beta == 1.0 else result + beta * c


def pad(x: torch.Tensor, amounts: Sequence[int], mode: str, value: float) -> torch.Tensor:
    """Pad as ``functional.pad``, the last axis first; ``value`` is for the mode ``constant``."""
    return functional.pad(x, list(amounts), mode=mode, value=value if mode == "constant" else None)
