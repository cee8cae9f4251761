"""Moves the weights of OpenVINO's IR, which lie one behind another in model.bin, into a weights file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.backends.packing import pack
from edgebuild.core.steps import RunsOn, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.backends.packing import Taken
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.steps import StepContext

#: IR's names of types, and numpy's. Others are taken for bytes.
DTYPES = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i8": "|i1", "u8": "|u1", "i32": "<i4", "i64": "<i8"}


class PackIr(Step):
    """Inputs: ``artifact``, converted to IR. Writes the same one, with weights files where they pay."""

    kind: ClassVar[str] = "openvino-pack"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        pack(inputs["artifact"], out_dir, _take, ctx.check)


def _take(folder: Path, artifact: Artifact, check: Callable[[], None]) -> Taken:
    """Remove model.bin and return its parts in their order, each named by where it begins."""
    from edgebuild.models.weights_file import encoded

    entry = folder / artifact.entry
    data = entry.with_suffix(".bin")
    taken = {}
    for name, value in _parts(entry, data.read_bytes()):
        check()
        taken[name] = (value, encoded(name, value))
    data.unlink()
    return taken


def _parts(entry: Path, content: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield every constant, and what lies between them as bytes."""
    import numpy as np

    data = np.frombuffer(content, np.uint8)
    at = 0
    for offset, shape, dtype in sorted(_constants(entry), key=lambda each: (each[0], -math.prod(each[1]))):
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        if at <= offset < end <= len(data):
            if at < offset:
                yield str(at), data[at:offset]
            yield str(offset), data[offset:end].view(dtype).reshape(shape)
            at = end
    if at < len(data):
        yield str(at), data[at:]


def _constants(entry: Path) -> Iterator[tuple[int, tuple[int, ...], str]]:
    """Yield offset, shape and type of every constant, those inside loops and branches too."""
    from xml.etree import ElementTree

    for layer in ElementTree.parse(entry).iter("layer"):  # noqa: S314  as above
        content = layer.find("data")
        if layer.get("type") == "Const" and content is not None and content.get("element_type") in DTYPES:
            shape = tuple(int(size) for size in content.get("shape", "").replace(" ", "").split(",") if size)
            yield int(content.get("offset", "0")), shape, DTYPES[content.get("element_type", "")]
