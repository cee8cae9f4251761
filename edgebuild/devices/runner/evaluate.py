"""Runs a whole data set through an artifact, in the shape that ships, and writes what comes out."""

from __future__ import annotations

import json
import os
import time

from .artifact import Opened
from .feeding import Data, Loop, tensor_file
from .folders import checked, digest_of
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .feeding import Call
    from .protocol import Fields, Wire

EVENT_S = 0.5


class Reading:
    """Says now and then that data are still being read: whoever waits takes silence for a hang."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._told = time.monotonic()

    def __call__(self) -> None:
        """Say so if it is time to."""
        if time.monotonic() - self._told > EVENT_S:
            self._told = time.monotonic()
            self._wire.progress("read", 0, None)


def evaluate(request: Fields, wire: Wire) -> Fields:
    """Write one ``.npy`` per output (axis 0: frames) and ``outputs.json``; count NaN and infinities, and exits."""
    opened = Opened(request)
    checked(request["inputs"], Reading(wire))
    data = Data(request["inputs"], opened.contract)
    session = opened.session()
    loop = Loop(session, opened.contract)
    os.makedirs(request["outputs"], exist_ok=True)
    writers = [Writer(request["outputs"], s["name"], data.frames, data.batch) for s in opened.contract["outputs"]]
    places = [session.output_names.index(writer.name) for writer in writers]
    start = reported = time.monotonic()
    done = 0
    for call in data.calls():
        if call.first:
            loop.reset()
        outputs = loop.call(loop.feed(data.inputs(call)))
        for writer, place in zip(writers, places):
            writer.write(call, outputs[place])
        done += len(call.keep)
        if time.monotonic() - reported > EVENT_S:
            reported = time.monotonic()
            wire.progress("evaluate", done, data.frames)
    written = [writer.close() for writer in writers]
    result = {
        "frames": data.frames,
        "samples": len(data.lengths),
        "batch": data.batch,
        "seconds": time.monotonic() - start,
        "outputs": written,
        "non_finite": sum(output["non_finite"] for output in written),
    }
    if opened.stages:
        result["exits"] = session.exits([0] * len(session.ended))
    with open(os.path.join(request["outputs"], "outputs.json"), "w", encoding="utf-8") as file:
        json.dump({"frames": data.frames, "outputs": [writer.name for writer in writers]}, file, sort_keys=True)
    return result


class Writer:
    """One output on disk, filled frame by frame."""

    def __init__(self, folder: str, name: str, frames: int, batch: int) -> None:
        self.name = name
        self._file = tensor_file(name)
        self._path = os.path.join(folder, self._file)
        self._frames = frames
        self._batch = batch
        self._array: Any = None
        self._nonfinite = 0
        self._first: int | None = None

    def write(self, call: Call, output: Any) -> None:
        """Keep the frames that count; without a batch axis (possible at batch 1) the whole output is one frame."""
        import numpy as np

        output = np.asarray(output)
        if not (output.ndim and output.shape[0] == self._batch):
            if self._batch != 1:
                raise Problem(
                    "model", "Output %r has no batch axis: its shape is %s." % (self.name, list(output.shape))
                )
            output = output[None]
        if self._array is None:
            self._create(output)
        if output.shape[1:] != self._array.shape[1:]:
            raise Problem("model", "Output %r changes its shape from call to call." % self.name)
        rows = [call.rows[i] for i in call.keep]
        kept = output if len(call.keep) == len(output) else output[call.keep]
        self._array[rows] = kept
        if kept.dtype.kind == "f" and not np.isfinite(kept).all():
            bad = ~np.isfinite(kept).reshape(len(kept), -1).all(axis=1)
            self._nonfinite += int((~np.isfinite(kept)).sum())
            first = min(row for row, wrong in zip(rows, bad) if wrong)
            self._first = first if self._first is None else min(first, self._first)

    def close(self) -> Fields:
        """Flush and say what was written."""
        self._array.flush()
        return {
            "name": self.name,
            "file": self._file,
            "dtype": self._array.dtype.name,
            "shape": list(self._array.shape),
            "sha256": digest_of(self._path),
            "size_bytes": os.path.getsize(self._path),
            "non_finite": self._nonfinite,
            "first_non_finite_frame": self._first,
        }

    def _create(self, output: Any) -> None:
        import numpy as np

        shape = (self._frames, *output.shape[1:])
        self._array = np.lib.format.open_memmap(self._path, mode="w+", dtype=output.dtype, shape=shape)
        handle = os.open(self._path, os.O_RDWR)
        try:
            # A full disk must be an error here, and not a bus error when a mapped page can't be written.
            os.posix_fallocate(handle, 0, os.path.getsize(self._path))
        except OSError as error:
            raise Problem("environment", "No room on the device for output %r: %s." % (self.name, error)) from error
        finally:
            os.close(handle)
