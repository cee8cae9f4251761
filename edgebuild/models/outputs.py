"""Outputs of a model over a data set, on disk: one `.npy` per output (axis 0: frames) next to `outputs.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.chunks import CHUNK_ELEMENTS, chunks, let_go
from edgebuild.devices.runner.feeding import tensor_file
from edgebuild.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.steps import Task


def write_outputs(
    frames: Iterable[Mapping[str, NDArray[Any]]], folder: Path, *, count: int, names: tuple[str, ...], task: Task
) -> None:
    """Write batches of outputs (frames on axis 0) into mapped files of ``count`` frames, one batch at a time.

    Raises ``ModelError`` for an output whose shape changes from batch to batch.
    """
    arrays: dict[str, NDArray[Any]] = {}
    done = written = 0
    for batch in frames:
        size = len(batch[names[0]])
        for name in names:
            part = batch[name]
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    folder / tensor_file(name), mode="w+", dtype=part.dtype, shape=(count, *part.shape[1:])
                )
            if part.shape[1:] != arrays[name].shape[1:]:
                raise ModelError(
                    f"Output {name!r} changes its shape from call to call: "
                    f"{list(arrays[name].shape[1:])}, then {list(part.shape[1:])}.",
                    hint="Pad it to one shape inside the model; outputs are compared frame by frame.",
                )
            arrays[name][done : done + size] = part
            written += part.size
        if written >= CHUNK_ELEMENTS:
            let_go(*arrays.values())
            written = 0
        done += size
        task.advance(size)
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    (folder / "outputs.json").write_text(json.dumps({"frames": done, "outputs": list(names)}, sort_keys=True))


def read_outputs(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the mapped outputs of a folder, by name."""
    names = json.loads((folder / "outputs.json").read_text())["outputs"]
    return {name: np.load(folder / tensor_file(name), mmap_mode="r", allow_pickle=False) for name in names}


def check_finite(outputs: Mapping[str, NDArray[Any]], who: str) -> None:
    """Raise ``DataError`` when the reference itself answers NaN or infinity: nothing can be judged against it.

    -inf is allowed: it is how models mask scores.
    """
    for name, array in outputs.items():
        if array.dtype.kind != "f":
            continue
        for part in chunks(array):
            bad = ~(np.isfinite(array[part]) | np.isneginf(array[part]))
            if bad.any():
                row = part.start + int(np.argwhere(bad)[0][0])
                raise DataError(
                    f"{who}: output {name!r} is NaN or infinite for frame {row}.",
                    hint="Look at that sample and at the model's weights; nothing can be judged against such outputs.",
                )


def worst_mismatch(
    reference: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]], *, rtol: float = 1e-3, atol: float = 1e-4
) -> tuple[str, int, float] | None:
    """Return (output, frame, difference) of the worst frame beyond tolerance, or None when all agree.

    The tolerance of a frame is ``atol + rtol * max|reference frame|``: small logits of a large vector may differ more.
    Scores that both mask by -inf agree, and don't count in it.
    """
    worst: tuple[str, int, float] | None = None
    excess = 1.0
    for name, expected in reference.items():
        got = other[name]
        count = min(len(expected), len(got))
        if np.prod(expected.shape[1:]) != np.prod(got.shape[1:]):
            return name, 0, float("inf")
        for part in chunks(expected[:count], got):
            gap, ratio = _beyond(expected[:count][part], got[:count][part], rtol, atol)
            frame = int(ratio.argmax())
            if ratio[frame] > excess:
                excess = float(ratio[frame])
                worst = name, part.start + frame, float(gap[frame])
    return worst


def _beyond(expected: NDArray[Any], got: NDArray[Any], rtol: float, atol: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return how far apart each frame is, and how many times its tolerance that is."""
    left = np.asarray(expected, dtype=np.float64).reshape(len(expected), -1)
    right = np.asarray(got, dtype=np.float64).reshape(len(got), -1)
    both = np.isneginf(left) & np.isneginf(right)
    left, right = np.where(both, 0.0, left), np.where(both, 0.0, right)
    with np.errstate(invalid="ignore"):
        gap = np.abs(left - right).max(axis=1, initial=0.0)
        gap[~np.isfinite(gap)] = np.inf
        # A reference of infinity makes this NaN, which argmax would take for the largest and > for none.
        ratio = gap / (atol + rtol * np.abs(left).max(axis=1, initial=0.0))
    ratio[np.isnan(ratio)] = np.inf
    return gap, ratio
