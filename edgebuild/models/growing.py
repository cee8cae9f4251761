"""A `.npy` file that grows frame by frame, in bounded memory."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: Elements that are written again at once.
CHUNK_ELEMENTS = 1 << 18
#: Beside targets whose shapes differ.
TARGET_SHAPES = "target_shapes.json"


@dataclass
class GrowingFile:
    """Takes frames; numpy's header leaves room for axis 0 to grow.

    ``shapes`` is None while all frames have the shape ``tail``; then the file is flat, and it has each frame's.
    """

    path: Path
    tail: tuple[int, ...]
    dtype: np.dtype[Any]
    count: int = 0
    shapes: list[tuple[int, ...]] | None = None
    file: IO[bytes] = field(init=False)
    start: int = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.path.open("wb")
        self._header()
        self.start = self.file.tell()

    def _header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.file, {**header, "shape": (self.count, *self.tail)})

    def append(self, frames: NDArray[Any]) -> None:
        """Write frames, which are on axis 0."""
        if self.shapes is not None:
            self.shapes += [frames.shape[1:]] * len(frames)
            frames = frames.reshape(-1)
        self.file.write(np.ascontiguousarray(frames).tobytes())
        self.count += len(frames)

    def widen(self, dtype: np.dtype[Any]) -> None:
        """Hold longer texts from now on."""
        self._rewrite(self.tail, dtype)

    def flatten(self) -> None:
        """Hold frames of any shape from now on."""
        shapes, self.count = [self.tail] * self.count, self.count * math.prod(self.tail)
        self._rewrite((), self.dtype)
        self.shapes = shapes

    def _rewrite(self, tail: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Write the same elements again, as frames of shape ``tail``."""
        self.file.close()
        written, before, start = self.path.with_name(f"{self.path.name}.old"), self.dtype, self.start
        self.path.rename(written)
        self.tail, self.dtype = tail, dtype
        self.__post_init__()
        with written.open("rb") as old:
            old.seek(start)
            while data := old.read(CHUNK_ELEMENTS * before.itemsize):
                self.file.write(np.frombuffer(data, dtype=before).astype(dtype).tobytes())
        written.unlink()

    def close(self) -> None:
        """Write how many there are, and their shapes where they differ."""
        self.file.seek(0)
        self._header()
        self.file.close()
        if self.shapes is not None:
            self.path.with_name(TARGET_SHAPES).write_text(json.dumps(self.shapes))
