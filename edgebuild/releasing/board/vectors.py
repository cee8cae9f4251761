"""Reads ``.npy`` files strictly, without numpy, and says how far one answer is from another."""

from __future__ import annotations

import math
import re
import struct
import sys
from array import array
from typing import NamedTuple, Sequence, Tuple, Union

from .documents import Problem, shown

#: The letter of ``array`` or, for half precision, of ``struct``.
KINDS = {
    "|b1": "B", "|i1": "b", "|u1": "B", "<i2": "h", "<u2": "H", "<i4": "i", "<u4": "I", "<i8": "q", "<u8": "Q",
    "<f2": "e", "<f4": "f", "<f8": "d",
}  # fmt: skip
_HEADER = re.compile(
    r"\{'descr': '([|<][a-z]\d)', 'fortran_order': False, 'shape': \(((?:\d{1,15}, )*\d{1,15},?|)\), \} *\n"
)
#: Numpy's own headers are far shorter, and have fewer sizes.
MAX_HEADER_BYTES = 1 << 12
_MAGIC = b"\x93NUMPY"
MAX_VECTOR_BYTES = 256 << 20


class Vector(NamedTuple):
    """An array as it lies in a file: ``shape`` with frames first, values flat."""

    kind: str
    shape: Tuple[int, ...]
    values: Sequence[Union[int, float]]


def vector_of(data: bytes, name: str) -> Vector:
    """Return the array in a ``.npy`` file; raises for anything but plain little-endian numbers in C order."""
    if data[:6] != _MAGIC or data[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise Problem("%s is no array of numpy's." % name)
    width = 2 if data[6] == 1 else 4
    start = 8 + width
    end = start + int.from_bytes(data[8:start], "little")
    found = _HEADER.fullmatch(data[start:end].decode("latin-1")) if end <= MAX_HEADER_BYTES else None
    if found is None or found.group(1) not in KINDS:
        raise Problem("%s is no plain array: only numbers in C order, little-endian, are read." % name)
    kind = found.group(1)
    shape = tuple(int(size) for size in found.group(2).replace(",", " ").split())
    if len(data) - end != _count(shape) * int(kind[2]):
        raise Problem("%s holds another number of values than its shape says." % name)
    return Vector(kind, shape, _values(KINDS[kind], data[end:]))


def _values(letter: str, data: bytes) -> Sequence[Union[int, float]]:
    if letter == "e":
        return struct.unpack("<%de" % (len(data) // 2), data)
    values = array(letter, data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _count(shape: Tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def excess(found: Vector, expected: Vector, rtol: float, atol: float, name: str) -> float:
    """Return the largest error as a share of what is allowed: at most 1 where the answer is right.

    Allowed is ``atol`` + ``rtol`` times the largest finite value of the frame. NaN only equals NaN, an infinity itself.
    Raises where the two aren't of one shape and type.
    """
    if (found.kind, found.shape) != (expected.kind, expected.shape) or not expected.shape:
        said = tuple("%s of shape %s" % (each.kind, list(each.shape)) for each in (found, expected))
        raise Problem("Output '%s' is a %s here, it should be a %s." % (shown(name), *said))
    frames, worst = expected.shape[0], 0.0
    size = len(expected.values) // frames if frames else 0
    for start in range(0, frames * size, size or 1):
        here, there = found.values[start : start + size], expected.values[start : start + size]
        finite = [abs(value) for value in there if math.isfinite(value)]
        allowed = atol + rtol * max(finite or [0])
        worst = max(worst, max(_error(one, other, allowed) for one, other in zip(here, there)))
    return worst


def _error(found: float, expected: float, allowed: float) -> float:
    if found == expected or (found != found and expected != expected):
        return 0.0
    error = abs(found - expected)
    if not math.isfinite(error):
        return math.inf
    return error / allowed if allowed else math.inf
