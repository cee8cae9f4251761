"""Weights that an ONNX file keeps in other files: found, checked and taken in."""

from __future__ import annotations

import math
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BESIDE = "Keep the data file next to the .onnx file, under the name that it was exported with."
SMALLER = "edgebuild keeps a model in one file, and protobuf's limit is 2 GB: export a smaller one, or in float16."
_AGAIN = "Copy or export the .onnx file and its data again, together."

#: What protobuf reads at most.
LARGEST_BYTES = (1 << 31) - 1


def files_of(tensors: Iterable[Any], path: Path) -> tuple[Path, ...]:
    """Return the files that the tensors of the model at ``path`` lie in, sorted; one that isn't there is left out."""
    names = names_of(tensors)
    return tuple(file for name in names if _is_inside(name) and (file := _place(name, path)).is_file())


def names_of(tensors: Iterable[Any]) -> tuple[str, ...]:
    """Return where the tensors say that they lie, sorted, whatever they say."""
    return tuple(sorted({_fields(tensor).get("location", "") for tensor in _external(tensors)}))


def take_in(tensors: Iterable[Any], path: Path) -> None:
    """Put the data of the model at ``path`` into its tensors.

    A file lies next to the model, or next to what the model is a link to, and may itself be a link, as in caches that
    keep files under their digests. A path *in the model* that leads elsewhere is refused, and so is all but a regular
    file. Never reads more than a tensor's type and shape say. Raises ``ModelError``.
    """
    outside = list(_external(tensors))
    if sum(bytes_of(tensor) or 0 for tensor in outside) > LARGEST_BYTES:
        raise ModelError(f"{path} and its external data are larger than 2 GB.", hint=SMALLER)
    for tensor in outside:
        data = _read(tensor, path)
        tensor.raw_data = data
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def bytes_of(tensor: Any) -> int | None:
    """Return how many bytes of raw data a tensor has by its type and shape; None where these mean nothing."""
    import onnx

    if any(size < 0 for size in tensor.dims) or tensor.data_type == onnx.TensorProto.STRING:
        return None
    bits = _BITS_BELOW_8.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    if bits is None:
        bits = 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return -(-int(math.prod(tensor.dims)) * bits // 8)


#: Types that lie packed in raw data, as ONNX writes them.
_BITS_BELOW_8 = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}


def _external(tensors: Iterable[Any]) -> Iterator[Any]:
    import onnx

    return (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def _fields(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _is_inside(name: str) -> bool:
    """Whether a path in a model stays in the model's folder, whichever system it was written on."""
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name.strip()) and "\x00" not in name and not any(p.anchor or ".." in p.parts for p in kinds)


def _place(name: str, path: Path) -> Path:
    beside = path.parent / name
    return beside if beside.exists() else path.resolve().parent / name


def _read(tensor: Any, path: Path) -> bytes:
    fields = _fields(tensor)
    name, where = fields.get("location", ""), f"{path}: its external data can't be read"
    if not _is_inside(name):
        raise ModelError(f"{where}: {name!r} isn't a path inside the model's folder.", hint=_BESIDE)
    expected, file = bytes_of(tensor), path.parent / name
    offset, length = fields.get("offset", "0"), fields.get("length", str(expected))
    if expected is None or not (offset.isdecimal() and length.isdecimal()) or int(length) != expected:
        raise ModelError(
            f"{where}: the size or place of {tensor.name!r} in {name!r} contradicts its type and shape.", hint=_AGAIN
        )
    try:
        file = _place(name, path)
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{where}: {file} isn't a regular file.", hint=_BESIDE)
        if int(offset) + expected > found.st_size:
            raise ModelError(f"{where}: {file} ends before {tensor.name!r} does.", hint=_AGAIN)
        with file.open("rb") as opened:
            opened.seek(int(offset))
            data = opened.read(expected)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"can't be opened: {error.strerror}"
        raise ModelError(f"{where}: {file} {why}.", hint=_BESIDE) from error
    if len(data) != expected:
        raise ModelError(f"{where}: {file} ends before {tensor.name!r} does.", hint=_AGAIN)
    return data
