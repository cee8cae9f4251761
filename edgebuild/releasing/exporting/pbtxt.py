"""Triton's ``config.pbtxt``: protobuf's text format, with every name escaped so that it can only be a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.releasing.exporting.values import strange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.core.artifact import TensorSpec

#: What Triton calls the types of numbers.
TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
MAX_SIZE = (1 << 63) - 1
_PLAIN = frozenset(range(0x20, 0x7F)) - set(b"\"'\\")


def config_text(
    *, name: str, backend: str, filename: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> str:
    """Return the configuration of a model that runs on the CPU.

    ``max_batch_size`` is 0: shapes hold every axis, the batch too, and Triton adds none and batches nothing. An axis of
    any size is -1. Raises ``ReleaseError`` for tensors that no model can have.
    """
    tensors = [("input", spec) for spec in inputs] + [("output", spec) for spec in outputs]
    for side in (inputs, outputs):
        if not side or len({spec.name for spec in side}) < len(side):
            raise strange("The model has no inputs or no outputs, or two of the same name.")
    lines = [
        f"name: {quoted(name)}",
        f"backend: {quoted(backend)}",
        f"default_model_filename: {quoted(filename)}",
        "max_batch_size: 0",
        *(_tensor(side, spec) for side, spec in tensors),
        "instance_group { count: 1 kind: KIND_CPU }",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """Return a string of the text format: UTF-8, all but plain ASCII escaped by byte."""
    data = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data) + '"'


def _tensor(side: str, spec: TensorSpec) -> str:
    sizes = [size if isinstance(size, int) else -1 for size in spec.shape]
    if not spec.name or any(not -1 <= size <= MAX_SIZE or size == 0 for size in sizes):
        raise strange(f"The {side} {spec.name!r} of shape {spec.shape} has no name, or an axis of no size.")
    shape = f"dims: [ {', '.join(map(str, sizes))} ]"
    if not sizes:  # Triton has no tensors without axes
        shape = "dims: [ 1 ] reshape { shape: [ ] }"
    return f"{side} {{ name: {quoted(spec.name)} data_type: TYPE_{TYPES[spec.dtype]} {shape} }}"
