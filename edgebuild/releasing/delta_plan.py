"""The form of a delta bundle, and zstd patches of bounded memory: see ``delta`` for how it is made and applied.

::

    oci-layout, index.json          those of the new bundle
    blobs/sha256/HEX                its manifests and signatures, and the blobs that travel whole
    patches/HEX.zst                 what makes the blob HEX of an old one
    delta.json                      canonical JSON: a ``Plan``

``delta.json`` names two release indexes, the one that is there at the ``start`` and the one at the ``end``, and for
every blob of the new bundle how it comes about: ``take`` it from the old bundle, it travels ``whole``, or ``patch`` the
blob ``base`` of the old bundle. It isn't signed and needn't be: what comes out is held against the digests of the new
manifests, and the signatures are over those.

A patch is one zstd frame for each 16 MiB of the new blob, one after another; ``frames`` holds their sizes in bytes. The
frame of the part at byte p refers to at most 32 MiB of the old blob, those from 8 MiB before p on, moved back where the
blob ends before (``reference``). A frame is what ``zstd --patch-from=REFERENCE`` makes of the part, and
``zstd -d --patch-from=REFERENCE`` reads it: for blobs up to 16 MiB whose old one has up to 32 MiB, the patch and the
old blob as they are. Applying takes at most ``APPLY_BYTES`` of memory, however large the blobs are.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from edgebuild.core.artifact import is_digest
from edgebuild.core.files import read_plain
from edgebuild.core.values import CHUNK_BYTES, canonical_json
from edgebuild.errors import EnvironmentGap, ReleaseError
from edgebuild.releasing.layout import MAX_BLOB_BYTES, MAX_DESCRIPTORS, MAX_JSON_BYTES, SHA256, Document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

PLAN_FILE, PATCHES = "delta.json", "patches"
#: What one frame makes, and what of the old blob it may refer to before and after the same place.
PART_BYTES = 16 << 20
MARGIN_BYTES = 8 << 20
REFERENCE_BYTES = PART_BYTES + 2 * MARGIN_BYTES
#: Twice the reference, the decoder's window, and buffers.
APPLY_BYTES = 96 << 20
#: Part and reference lie in a window of 64 MiB; what asks for more is refused before memory is.
_WINDOW_LOG = 26
#: Takes half a second a MB, once; scattered changes come out a third smaller than at the levels that are quick.
_LEVEL = 17
#: A shorter reference is none to zstd.
_LEAST_BYTES = 8
#: More than zstd ever adds to what it can't compress.
_MAX_OVERHEAD_BYTES = 1 << 17
_COPY = "Copy the delta again, or make it again from the same two bundles."


class PlannedBlob(Document):
    """How one blob of the new bundle comes about; ``base`` and ``frames`` are of patches only."""

    digest: str
    size: int = Field(ge=0, le=MAX_BLOB_BYTES)
    how: Literal["take", "whole", "patch"]
    base: str = ""
    frames: tuple[int, ...] = ()

    def part_sizes(self) -> Iterator[int]:
        """Yield the size of each part."""
        for begin in range(0, self.size, PART_BYTES):
            yield min(PART_BYTES, self.size - begin)

    def problem(self) -> str:
        """Return what can't be in an entry, or nothing."""
        digests = (self.digest, self.base) if self.how == "patch" else (self.digest,)
        if not all(each.startswith(SHA256) and is_digest(each.removeprefix(SHA256)) for each in digests):
            return "a digest is no SHA-256"
        if self.how != "patch":
            return "what isn't patched has a base" if self.base or self.frames else ""
        if len(self.frames) != -(-self.size // PART_BYTES) or not all(
            0 < frame <= part + _MAX_OVERHEAD_BYTES for frame, part in zip(self.frames, self.part_sizes(), strict=True)
        ):
            return "frames don't fit the size of what they make"
        return ""


class Plan(Document):
    """What ``delta.json`` holds; ``start`` and ``end`` are the digests of the two release indexes."""

    schema_version: Literal[1] = 1
    start: str
    end: str
    blobs: tuple[PlannedBlob, ...] = Field(max_length=MAX_DESCRIPTORS)

    def text(self) -> bytes:
        """Return its one JSON."""
        return canonical_json(self.model_dump(mode="json")).encode()


def read_plan(folder: Path) -> Plan:
    """Read a delta's plan. Raises ``ReleaseError`` for whatever ``Plan.text`` didn't write."""
    path = folder / PLAN_FILE
    try:
        data = read_plain(path, MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ReleaseError(
            f"{folder} is no delta: its {PLAN_FILE} can't be read ({error.strerror or error}).", hint=_COPY
        ) from error
    return parse_plan(data, str(path))


def parse_plan(data: bytes, where: str) -> Plan:
    """Parse a delta's plan; raises as ``read_plan``."""
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        plan = Plan.model_validate_json(data, strict=True)
        if plan.text() != data:
            raise ValueError("it isn't in the one form that is written")
        if problem := next((said for each in plan.blobs if (said := each.problem())), ""):
            raise ValueError(problem)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{where} is not what was written.", hint=_COPY) from error
    return plan


def reference(begin: int, base_size: int) -> tuple[int, int]:
    """Return where the bytes of an old blob begin and end that the part at ``begin`` of a new one refers to."""
    first = max(0, min(begin - MARGIN_BYTES, base_size - REFERENCE_BYTES))
    return first, min(base_size, first + REFERENCE_BYTES)


def make_patch(base: BinaryIO, base_size: int, new: BinaryIO, size: int, out: BinaryIO) -> tuple[int, ...]:
    """Write the patch that makes ``new`` of ``base``, and return the sizes of its frames."""
    zstd = _zstd()
    settings = zstd.CompressionParameter
    options = {
        settings.compression_level: _LEVEL,
        settings.window_log: _WINDOW_LOG,
        settings.enable_long_distance_matching: 1,
    }
    frames = []
    for begin in range(0, size, PART_BYTES):
        compressor = zstd.ZstdCompressor(options=options, zstd_dict=_prefix(base, begin, base_size))
        frame = compressor.compress(new.read(PART_BYTES), mode=compressor.FLUSH_FRAME)
        frames.append(out.write(frame))
    return tuple(frames)


def patched(blob: PlannedBlob, base: BinaryIO, base_size: int, patch: BinaryIO) -> Iterator[bytes]:
    """Yield what a patch makes, never more than the blob has; raises ``ReleaseError`` for one that makes another size.

    Whether it is the blob is for its digest to say.
    """
    begin = 0
    for frame, part in zip(blob.frames, blob.part_sizes(), strict=True):
        end = patch.tell() + frame
        yield from _part(blob, _prefix(base, begin, base_size), patch, frame, part)
        if patch.tell() != end:
            raise _unusable(blob)
        begin += part
    if patch.read(1):
        raise _unusable(blob)


def _part(blob: PlannedBlob, prefix: Any, patch: BinaryIO, frame: int, part: int) -> Iterator[bytes]:
    """Yield what one frame makes, at most one byte more than it should be."""
    zstd = _zstd()
    decoder = zstd.ZstdDecompressor(zstd_dict=prefix, options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    made = 0
    while made <= part and not decoder.eof:
        data = patch.read(min(CHUNK_BYTES, frame)) if decoder.needs_input else b""
        frame -= len(data)
        if decoder.needs_input and not data:
            break
        try:
            chunk = decoder.decompress(data, min(CHUNK_BYTES, part + 1 - made))
        except zstd.ZstdError as error:
            raise _unusable(blob) from error
        made += len(chunk)
        yield chunk
    if made != part or not decoder.eof or decoder.unused_data:
        raise _unusable(blob)


def _prefix(base: BinaryIO, begin: int, base_size: int) -> Any:
    first, last = reference(begin, base_size)
    base.seek(first)
    data = base.read(last - first)
    if len(data) < _LEAST_BYTES:
        raise ReleaseError("The old file that a patch is for has next to nothing in it.", hint=_COPY)
    return _zstd().ZstdDict(data, is_raw=True).as_prefix


def _unusable(blob: PlannedBlob) -> ReleaseError:
    return ReleaseError(f"The patch of {blob.digest} doesn't make its {blob.size:,} bytes.", hint=_COPY)


def require_zstd() -> None:
    """Raise ``EnvironmentGap`` where patches can neither be made nor applied."""
    _zstd()


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise EnvironmentGap("Deltas need zstd.", hint="Install it: pip install 'edgebuild[release]'.") from error
    return zstd
