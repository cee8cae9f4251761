"""Reads the weights file (docs/weights-file.md): tensors as gaps between nonzero values, codebooks and Huffman codes.

Travels to the device: Python 3.8, the standard library and numpy only. Guarantees: what the encoder wrote comes back
bit by bit; anything else raises ``Damaged`` with one sentence, before memory is taken that the file's size and
``limit`` don't bound.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple

MAGIC = b"EBWEIGHT"
VERSION = 1
HEADER = struct.Struct("<8sHIQ32s")
#: How much of the header the digest covers: all before it.
DIGESTED = HEADER.size - 32
DTYPES = ("<f4", "<f2", "<f8", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "|b1")
GAPS, CODEBOOK = 1, 2
LONGEST = 16
MOST_AXES = 32
MOST_ENTRIES = 1 << LONGEST
#: Bytes of a stream that are looked up at once.
CHUNK = 8192
LIMIT = 1 << 30


class Damaged(ValueError):
    """The file isn't what an encoder wrote, or decodes to more than the limit."""


def load(path: str, limit: int = LIMIT) -> Dict[str, Any]:
    """Return the tensors of a file by name."""
    try:
        if os.path.getsize(path) > limit:
            raise Damaged("it is larger than %d bytes" % limit)
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Damaged("it can't be read: %s" % error.strerror) from error
    return decode(data, limit)


def decode(data: bytes, limit: int = LIMIT) -> Dict[str, Any]:
    """Return the tensors of a file's bytes by name; ``limit`` bounds the bytes of all of them together."""
    if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise Damaged("it is no weights file")
    _, version, count, length, digest = HEADER.unpack_from(data)
    if version != VERSION:
        raise Damaged("it is of version %d, this reads %d" % (version, VERSION))
    if length != len(data) - HEADER.size:
        raise Damaged("it has %d bytes behind its header and says %d" % (len(data) - HEADER.size, length))
    if hashlib.sha256(data[:DIGESTED] + data[HEADER.size :]).digest() != digest:
        raise Damaged("its digest doesn't fit its content")
    reader = _Reader(data, limit)
    tensors: Dict[str, Any] = {}
    for _ in range(count):
        name, value = reader.tensor()
        if name in tensors:
            raise Damaged("it has two tensors named %r" % name)
        tensors[name] = value
    if reader.at != len(data):
        raise Damaged("something follows its last tensor")
    return tensors


def advances(gaps: Any, span: int) -> Any:
    """Return how far each gap symbol goes on: over its zeros and the value behind them, or over ``span`` zeros."""
    return np.where(gaps == span, span, gaps.astype(np.int64) + 1)


class _Reader:
    def __init__(self, data: bytes, room: int) -> None:
        self.data, self.at, self.room = data, HEADER.size, room

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise Damaged("it ends in the middle of a tensor")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, form: str) -> Tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def tensor(self) -> Tuple[str, Any]:
        (length,) = self.numbers("H")
        try:
            name = self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Damaged("a tensor's name isn't UTF-8") from error
        kind, layout, axes = self.numbers("BBB")
        if kind >= len(DTYPES) or layout > GAPS | CODEBOOK or axes > MOST_AXES:
            raise Damaged("tensor %r is of no known kind" % name)
        dtype = np.dtype(DTYPES[kind])
        shape = self.numbers("%dI" % axes)
        elements = extent = 1
        for size in shape:
            elements, extent = elements * size, extent * max(size, 1)
        if extent * dtype.itemsize > sys.maxsize:  # numpy has no such array, though it were empty
            raise Damaged("tensor %r has axes beyond all memory" % name)
        self.room -= elements * dtype.itemsize
        if self.room < 0:
            raise Damaged("its tensors take more than the limit")
        positions = self._positions(name, elements) if layout & GAPS else None
        values = self._values(name, dtype, elements if positions is None else len(positions), layout)
        if positions is not None:
            flat = np.zeros(elements, dtype)
            flat[positions] = values
            values = flat
        return name, values.reshape(shape)

    def _positions(self, name: str, elements: int) -> Any:
        span, count = self.numbers("BI")
        if span == 0 or count > elements:
            raise Damaged("tensor %r has more gaps than elements" % name)
        gaps = self._symbols(name, span + 1, count)
        ends = np.cumsum(advances(gaps, span))
        if count and int(ends[-1]) > elements:
            raise Damaged("tensor %r has gaps that lead out of it" % name)
        return (ends - 1)[gaps != span]

    def _values(self, name: str, dtype: Any, count: int, layout: int) -> Any:
        if not layout & CODEBOOK:
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).copy()
        (entries,) = self.numbers("I")
        if entries > count:
            raise Damaged("tensor %r has a codebook larger than itself" % name)
        if entries > MOST_ENTRIES:
            raise Damaged("tensor %r has a codebook of more than %d entries" % (name, MOST_ENTRIES))
        book = np.frombuffer(self.take(entries * dtype.itemsize), dtype)
        return book[self._symbols(name, entries, count)]

    def _symbols(self, name: str, alphabet: int, count: int) -> Any:
        """Read code lengths and a stream of ``count`` symbols."""
        lengths = np.frombuffer(self.take(alphabet), np.uint8)
        (bits,) = self.numbers("I")
        stream = self.take((bits + 7) // 8)
        if count > bits:
            raise Damaged("a stream of tensor %r is shorter than its symbols" % name)
        try:
            return symbols(stream, bits, lengths, count)
        except Damaged as error:
            raise Damaged("tensor %r: %s" % (name, error)) from error


def symbols(stream: bytes, bits: int, lengths: Any, count: int) -> Any:
    """Return ``count`` symbols of a canonical Huffman stream of exactly ``bits`` bits, the first bit the highest."""
    if bits % 8 and stream[-1] & (0xFF >> bits % 8):
        raise Damaged("a stream doesn't end in zeros")
    used = np.flatnonzero(lengths)
    if len(used) < 2:
        if bits != count or any(stream) or (count and (len(used) != 1 or lengths[used[0]] != 1)):
            raise Damaged("a stream doesn't fit its code")
        return np.full(count, used[0] if count else 0, np.uint16)
    if int(lengths.max()) > LONGEST or len(used) > 1 << LONGEST:
        raise Damaged("a code is too long")
    order = used[np.argsort(lengths[used], kind="stable")]
    widths = np.left_shift(1, LONGEST - lengths[order].astype(np.int64))
    if int(widths.sum()) != 1 << LONGEST:
        raise Damaged("a code isn't complete")
    symbol_at = np.repeat(order.astype(np.uint16), widths)
    length_at = np.repeat(lengths[order], widths)
    padded = np.frombuffer(stream + b"\0\0\0", np.uint8)
    parts, at, found = [], 0, 0
    for first in range(0, len(stream), CHUNK):
        part = padded[first : first + CHUNK + 2].astype(np.uint32)
        words = (part[:-2] << 16 | part[1:-1] << 8 | part[2:])[:CHUNK]
        windows = (words[:, None] >> np.arange(8, 0, -1, dtype=np.uint32) & 0xFFFF).reshape(-1)
        steps, starts = length_at[windows].tolist(), []
        begin, end = at - 8 * first, min(8 * len(words), bits - 8 * first)
        while begin < end:
            starts.append(begin)
            begin += steps[begin]
        at = 8 * first + begin
        found += len(starts)
        parts.append(symbol_at[windows[starts]])
    if at != bits or found != count:
        raise Damaged("a stream holds %d symbols, not %d" % (found, count))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint16)
