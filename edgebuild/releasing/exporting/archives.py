"""Writes tar and cpio archives as a stream, the same bytes each time: no times, owners or modes of this machine."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edgebuild.errors import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_TAR_RECORD = tarfile.RECORDSIZE
_CPIO_MAGIC, _CPIO_END, _CPIO_BLOCK = b"070702", "TRAILER!!!", 512
#: What the eight hex digits of a cpio header hold.
MAX_CPIO_BYTES = (1 << 32) - 1


@dataclass(frozen=True)
class Member:
    """A file of an archive; ``chunks`` begins its content anew at each call. Without content it is a folder."""

    name: str
    size: int = 0
    chunks: Callable[[], Iterable[bytes]] | None = None


class Sums(NamedTuple):
    """What was read: its SHA-256 in hex, and the sum of its bytes modulo 2**32."""

    sha256: str
    total: int


def text_member(name: str, data: bytes) -> Member:
    """Return a small file."""
    return Member(name, len(data), lambda: (data,))


def tar_member(name: str, members: Sequence[Member]) -> Member:
    """Return a file that is a tar of other files, never held anywhere as a whole."""
    return Member(name, tar_size(members), lambda: tar_chunks(members))


def sums_of(member: Member) -> Sums:
    """Read a file once, in bounded memory."""
    import numpy as np

    hasher, total = hashlib.sha256(), 0
    for chunk in _content(member):
        hasher.update(chunk)
        total += int(np.frombuffer(chunk, np.uint8).sum(dtype=np.uint64))
    return Sums(hasher.hexdigest(), total & MAX_CPIO_BYTES)


def tar_size(members: Sequence[Member]) -> int:
    """Return how many bytes ``tar_chunks`` yields."""
    used = sum(len(_tar_header(each)) + _padded(each.size, tarfile.BLOCKSIZE) for each in members)
    return _padded(used + 2 * tarfile.BLOCKSIZE, _TAR_RECORD)


def tar_chunks(members: Sequence[Member]) -> Iterator[bytes]:
    """Yield a tar archive: POSIX pax, which has no limit on names and sizes."""
    written = 0
    for member in members:
        header = _tar_header(member)
        yield header
        yield from _content(member)
        yield bytes(_padded(member.size, tarfile.BLOCKSIZE) - member.size)
        written += len(header) + _padded(member.size, tarfile.BLOCKSIZE)
    yield bytes(_padded(written + 2 * tarfile.BLOCKSIZE, _TAR_RECORD) - written)


def cpio_chunks(members: Sequence[tuple[Member, Sums]]) -> Iterator[bytes]:
    """Yield a cpio archive in the "new" ASCII form with checksums; raises ``ReleaseError`` for a file of 4 GiB."""
    written = 0
    for number, (member, sums) in enumerate(members, 1):
        if member.size > MAX_CPIO_BYTES:
            raise ReleaseError(
                f"{member.name} has {member.size:,} bytes, and a cpio archive holds less than 4 GiB in a file.",
                hint="Leave out --whole, or ship this target in another format.",
            )
        header = _cpio_header(member.name, number, member.size, sums.total)
        yield header
        yield from _content(member)
        yield bytes(_padded(member.size, 4) - member.size)
        written += len(header) + _padded(member.size, 4)
    end = _cpio_header(_CPIO_END, 0, 0, 0)
    yield end
    yield bytes(_padded(written + len(end), _CPIO_BLOCK) - written - len(end))


def _content(member: Member) -> Iterator[bytes]:
    """Yield a file's content; raises ``ReleaseError`` where it isn't as long as it was said to be."""
    left = member.size
    for chunk in member.chunks() if member.chunks else ():
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise ReleaseError(f"{member.name} changed while it was exported.", hint="Export from a bundle at rest.")


def _tar_header(member: Member) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size = member.size
    info.mode = 0o644
    if member.chunks is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _cpio_header(name: str, number: int, size: int, total: int) -> bytes:
    data = name.encode() + b"\0"
    mode, links = (0o100644, 1) if number else (0, 1)
    fields = (number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(data), total)
    header = _CPIO_MAGIC + "".join(f"{each:08X}" for each in fields).encode() + data
    return header + bytes(_padded(len(header), 4) - len(header))


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to
