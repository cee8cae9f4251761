"""Writes the weights file of docs/weights-file.md, in whichever layout is the smallest for each tensor.

``edgebuild.devices.runner.weights_file`` is its decoder, which travels to devices; ``read_weights`` is that one with
edgebuild's errors. Equal tensors give equal bytes.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.devices.runner import weights_file as form
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

#: The longest gaps that are tried.
SPANS = (7, 15, 31, 63, 127, 255)
#: Symbols that are turned into bits at once.
CHUNK = 1 << 16


def read_weights(path: Path, limit: int = form.LIMIT) -> dict[str, NDArray[Any]]:
    """Return a file's tensors; raises ``ModelError`` for one that is damaged, hostile or too large."""
    try:
        return form.load(str(path), limit)
    except form.Damaged as error:
        raise ModelError(
            f"The weights file {path} can't be used: {error}.", hint="Build it again; it isn't what was written."
        ) from error


def encode(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the file's bytes; raises ``ModelError`` for a tensor of a kind that the format doesn't know."""
    return sealed([encoded(name, value) for name, value in tensors.items()])


def sealed(tensors: Sequence[bytes]) -> bytes:
    """Return the file of tensors that are ``encoded``."""
    body = b"".join(tensors)
    head = struct.pack("<8sHIQ", form.MAGIC, form.VERSION, len(tensors), len(body))
    return head + hashlib.sha256(head + body).digest() + body


def plain_tensors(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Return what a torch model computes with, by name: masked and shared weights as the values that they are."""
    from torch.nn.utils import parametrize

    found: dict[str, Any] = {}
    for name, inside in module.named_modules():
        if ".parametrizations." in f".{name}.":
            continue
        own = dict(inside.named_parameters(recurse=False)) | dict(inside.named_buffers(recurse=False))
        if parametrize.is_parametrized(inside):
            own |= {each: getattr(inside, each) for each in inside.parametrizations}
        found |= {f"{name}.{each}".lstrip("."): value for each, value in own.items()}
    return {name: value.detach().cpu().numpy() for name, value in found.items()}


def encoded(name: str, value: NDArray[Any]) -> bytes:
    """Return one tensor as it lies in a file; raises ``ModelError`` as ``encode`` does."""
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in form.DTYPES or len(name.encode()) >= 1 << 16:
        raise ModelError(
            f"{name[:200]} is {value.dtype}: the weights file has no place for that.", hint="Leave it out."
        )
    flat = np.ascontiguousarray(value, dtype).reshape(-1)
    bits = flat.view(f"<u{dtype.itemsize}")
    alive = np.flatnonzero(bits)
    layouts = [(0, _values(bits)), (form.CODEBOOK, _shared(bits))]
    if len(alive) < len(bits):
        gaps, living = _gaps(alive), bits[alive]
        layouts += [(form.GAPS, gaps + _values(living)), (form.GAPS | form.CODEBOOK, _joined(gaps, _shared(living)))]
    layout, content = min(((kind, c) for kind, c in layouts if c is not None), key=lambda each: len(each[1]))
    head = struct.pack("<H", len(name.encode())) + name.encode()
    kinds = struct.pack("<BBB", form.DTYPES.index(dtype.str), layout, value.ndim)
    return head + kinds + struct.pack(f"<{value.ndim}I", *value.shape) + content


def _joined(gaps: bytes, shared: bytes | None) -> bytes | None:
    return None if shared is None else gaps + shared


def _values(bits: NDArray[Any]) -> bytes:
    return bits.tobytes()


def _shared(bits: NDArray[Any]) -> bytes | None:
    """A codebook of all different values, and the code; None where there are too many of them for it to pay."""
    book, index = np.unique(bits, return_inverse=True)
    if len(book) > form.MOST_ENTRIES or 2 * len(book) > len(bits):
        return None
    return struct.pack("<I", len(book)) + book.tobytes() + _huffman(index.reshape(-1), len(book))


def _gaps(alive: NDArray[Any]) -> bytes:
    """The zeros before each value; a gap of ``span`` and more takes the symbol ``span``, for that many zeros, first."""
    zeros = np.diff(alive, prepend=-1) - 1
    made = []
    for span in SPANS:
        far, rest = np.divmod(zeros, span)
        out = np.full(int(far.sum()) + len(zeros), span, np.int64)
        out[np.cumsum(far + 1) - 1] = rest
        made.append(struct.pack("<BI", span, len(out)) + _huffman(out, span + 1))
    return min(made, key=len)


def _huffman(symbols: NDArray[Any], alphabet: int) -> bytes:
    """The code's lengths, how many bits, and the stream."""
    lengths = code_lengths(np.bincount(symbols, minlength=alphabet))
    codes = _canonical(lengths)
    wide = lengths[symbols].astype(np.int64)
    places = np.arange(form.LONGEST)
    parts = []
    for first in range(0, len(symbols), CHUNK):
        long = wide[first : first + CHUNK, None]
        # The bits of each code, highest first, of which only its own are kept.
        bits = codes[symbols[first : first + CHUNK]][:, None] >> np.maximum(long - 1 - places, 0) & 1
        parts.append(bits[places < long].astype(np.uint8))
    stream = np.packbits(np.concatenate(parts)) if parts else np.zeros(0, np.uint8)
    return lengths.astype(np.uint8).tobytes() + struct.pack("<I", int(wide.sum())) + stream.tobytes()


def code_lengths(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return the lengths of a Huffman code of at most 16 bits; 0 for what never occurs.

    Source: Huffman 1952. Where a code gets longer, counts are halved until none does.
    """
    lengths = np.zeros(len(counts), np.int64)
    used = [int(symbol) for symbol in np.flatnonzero(counts)]
    if len(used) == 1:
        lengths[used] = 1
    weights = [int(counts[symbol]) for symbol in used]
    while len(used) > 1:
        depths = _depths(weights)
        if max(depths) <= form.LONGEST:
            lengths[used] = depths
            break
        weights = [(weight + 1) // 2 for weight in weights]
    return lengths


def _depths(weights: list[int]) -> list[int]:
    leaves = len(weights)
    heap = [(weight, node) for node, weight in enumerate(weights)]
    heapq.heapify(heap)
    parents = [0] * (2 * leaves - 1)
    for node in range(leaves, 2 * leaves - 1):
        (one, left), (other, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[left] = parents[right] = node
        heapq.heappush(heap, (one + other, node))
    depth = [0] * (2 * leaves - 1)
    for node in range(2 * leaves - 3, -1, -1):
        depth[node] = depth[parents[node]] + 1
    return depth[:leaves]


def _canonical(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the codes: shorter ones first, equally long ones in the symbols' order."""
    codes = np.zeros(len(lengths), np.int64)
    code = before = 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda each: (lengths[each], each)):
        code <<= int(lengths[symbol]) - before
        codes[symbol], before = code, int(lengths[symbol])
        code += 1
    return codes
