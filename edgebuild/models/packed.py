"""Weights on grids as they lie on disk: a few bits each, in a safetensors file that says so.

A tensor ``….parametrizations.weight.original`` of a grid with at most 8 bits is stored as bytes: the codes in the
tensor's order, each ``bits`` bits, the first one in the highest bits of the first byte, zeros at the end. A code is the
whole number on the grid plus the largest one; of one bit, 1 is plus and 0 minus the scale. Bits and shape follow from
the model's edits, scales lie next to it. The file's header says ``packed = "1"``.

Guaranteed: the model computes with the same weights, bit by bit. The real numbers that training kept behind them are
gone: later training starts from the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from numpy.typing import NDArray
    from torch import nn

    from edgebuild.models.weight_views import FakeQuantise

KEY, VERSION = "packed", "1"
MOST_BITS = 8


def pack(module: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Pack what can be in a state, in place; return what the file's header says of it."""
    import torch

    header: dict[str, str] = {}
    for name, _, grid, layer in _packable(module):
        with torch.no_grad():
            weight: torch.Tensor = layer.weight
        codes = torch.round(weight.detach().cpu() / grid.spread(grid.scale).cpu())
        plain = (codes > 0) if grid.grid.bits == 1 else codes + grid.high
        state[name] = torch.from_numpy(to_bytes(plain.numpy().astype(np.uint8).reshape(-1), grid.grid.bits))
        header = {KEY: VERSION}
    return header


def unpack(module: nn.Module, state: dict[str, torch.Tensor], header: Mapping[str, str] | None, path: Any) -> None:
    """Undo ``pack`` in place; raises ``ModelError`` for another version, or bytes that aren't the model's.

    A file that says nothing of packing is left as it is.
    """
    import torch

    version = (header or {}).get(KEY)
    if version is None:
        return
    if version != VERSION:
        raise ModelError(
            f"{path} is packed in version {version[:20]!r}, not {VERSION}.", hint="A newer edgebuild wrote it."
        )
    for name, scale_name, grid, layer in _packable(module):
        stored, scale, bits = state.get(name), state.get(scale_name), grid.grid.bits
        shape = layer.parametrizations["weight"].original.shape
        if stored is None or scale is None or scale.shape != grid.scale.shape or scale.dtype != grid.scale.dtype:
            continue  # what is missing or misshapen is reported where all tensors are checked
        count = shape.numel()
        if stored.dtype != torch.uint8 or stored.shape != (-(-count * bits // 8),):
            raise ModelError(
                f"{path}: {name} isn't {count} weights of {bits} bits.", hint="The file is damaged, or another's."
            )
        codes = torch.from_numpy(from_bytes(stored.numpy(), bits, count)).reshape(shape).float()
        if bits > 1 and float(codes.max()) > 2 * grid.high:
            raise ModelError(f"{path}: {name} holds a code beyond its grid.", hint="The file is damaged.")
        state[name] = (codes * 2 - 1 if bits == 1 else codes - grid.high) * grid.spread(scale)


def to_bytes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return codes of this many bits side by side."""
    return np.packbits(np.unpackbits(codes[:, np.newaxis], axis=1)[:, 8 - bits :])


def from_bytes(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Undo ``to_bytes``."""
    rows = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return np.packbits(np.pad(rows, ((0, 0), (8 - bits, 0))), axis=1)[:, 0]


def _packable(module: nn.Module) -> Iterator[tuple[str, str, FakeQuantise, Any]]:
    """Yield what is packed: the names of the real weight and of the scale in the state, the grid and the layer."""
    import torch

    from edgebuild.models.weight_views import FakeQuantise, Shared, views_of

    for name, layer in module.named_modules():
        views, of_layer = views_of(layer), f"{name}.parametrizations.weight".lstrip(".")
        grid = views[-1] if views else None
        if not isinstance(grid, FakeQuantise) or any(isinstance(view, Shared) for view in views):
            continue
        original: Any = layer.parametrizations["weight"].original
        fits = grid.grid.bits <= MOST_BITS and (grid.grid.symmetric or grid.grid.bits == 1)
        if fits and original.dtype == torch.float32:
            yield f"{of_layer}.original", f"{of_layer}.{len(views) - 1}.scale", grid, layer
