"""What training settled of layers on grids, carried in an ONNX file from the torch model to the quantiser.

A layer is known by the whole numbers that its weights are multiples of, not by a name: exporters and simplifiers
rename, while folding a normalisation into a layer only scales its rows: they stay on their grids, up to a sign.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgebuild.models import onnx_graphs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: By a layer's digest: the range of its input, or None where training left it open.
Settled: TypeAlias = "dict[str, tuple[float, float] | None]"

KEY = "edgebuild.trained_grids"
#: The largest magnitude of an 8-bit code.
LEVELS = 127
#: How far, in steps, rounding in float32 may take a weight off its grid: 127 of 2^-23 a few times over, and room.
OFF_GRID = 1e-3
#: The bits that int8 deploys, for weights at most and for activations exactly.
BITS = 8


def row_codes(rows: NDArray[Any]) -> tuple[NDArray[np.int16], NDArray[np.float32]] | None:
    """Return the smallest codes and the scales with ``rows = codes · scale``, one scale a row; None off any grid."""
    wide = np.asarray(rows, dtype=np.float64)
    reach = np.abs(wide).max(axis=1, initial=0.0)
    codes, scale = np.zeros(wide.shape, np.int16), np.ones(len(wide))
    unknown = np.flatnonzero(reach > 0)
    for levels in range(1, LEVELS + 1):
        if len(unknown) == 0:
            break
        step = reach[unknown] / levels
        position = wide[unknown] / step[:, np.newaxis]
        fits = np.abs(position - np.rint(position)).max(axis=1) < OFF_GRID
        codes[unknown[fits]], scale[unknown[fits]] = np.rint(position[fits]), step[fits]
        unknown = unknown[~fits]
    return (codes, scale.astype(np.float32)) if len(unknown) == 0 else None


def digest(codes: NDArray[np.int16]) -> str:
    """Return what a layer is known by: the digest of its codes, each row with its first code above zero."""
    first = codes[np.arange(len(codes)), np.argmax(codes != 0, axis=1)]
    signed = codes * np.where(first < 0, -1, 1)[:, np.newaxis].astype(np.int16)
    return hashlib.sha256(f"{codes.shape}".encode() + signed.astype("<i2").tobytes()).hexdigest()


def lay_plain(module: Any) -> Settled:
    """Give a torch module plain weights that lie on their grids, and return what the quantiser needs of these.

    Activations of 8 bits are computed in float from then on: their rounding is the quantiser's to write. Other grids on
    activations stay.
    """
    from torch import nn
    from torch.nn.utils import parametrize

    from edgebuild.models.weight_views import FakeQuantise, views_of

    settled: Settled = {}
    for layer in module.modules():
        grids = [view for view in views_of(layer) if isinstance(view, FakeQuantise)]
        bounds = None
        for side in ("input_grid", "output_grid"):
            grid = getattr(layer, side, None)
            if isinstance(grid, FakeQuantise) and grid.grid.bits == BITS:
                grid.off = True
                bounds = grid.bounds() if side == "input_grid" else bounds
        if not grids:
            continue
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or grids[-1].grid.bits > BITS:
            continue
        found = row_codes(layer.weight.detach().float().cpu().flatten(1).numpy())
        if found is not None:
            name = digest(found[0])
            # Two layers with the same codes can't be distinguished: each one's range is left open.
            settled[name] = None if name in settled and settled[name] != bounds else bounds
    return settled


def attach(path: Any, settled: Mapping[str, tuple[float, float] | None]) -> None:
    """Write what was settled into an ONNX file."""
    import onnx

    if not settled:
        return
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {**_properties(model), KEY: json.dumps(settled, sort_keys=True)})
    onnx_graphs.save(model, path)


def read(model: Any) -> Settled:
    """Return what an ONNX model carries; nothing where it carries none, or something else under that name."""
    try:
        found = json.loads(_properties(model).get(KEY, "{}"))
        return {
            str(name): None if bounds is None else (float(bounds[0]), float(bounds[1]))
            for name, bounds in found.items()
        }
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return {}


def detach(model: Any) -> None:
    """Take it out of a model that is quantised."""
    import onnx

    onnx.helper.set_model_props(model, {k: v for k, v in _properties(model).items() if k != KEY})


def _properties(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}
