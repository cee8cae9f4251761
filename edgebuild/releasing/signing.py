"""Signing a bundle: the release index by an in-toto statement, and each target's files by OpenSSF Model Signing."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import is_digest
from edgebuild.core.values import digest_bytes
from edgebuild.errors import ReleaseError, UsageError
from edgebuild.execution.disk import is_folder, sync_folder, write_atomically
from edgebuild.releasing.dsse import (
    BUNDLE_TYPE,
    PAYLOAD_TYPE,
    Statement,
    bundle_bytes,
    pae,
    parse_bundle,
    statement_bytes,
)
from edgebuild.releasing.layout import (
    BLOBS,
    EMPTY,
    INDEX_FILE,
    MAX_JSON_BYTES,
    Descriptor,
    Index,
    descriptor_of,
    oci_bytes,
)
from edgebuild.releasing.model_signing import model_statement
from edgebuild.releasing.provenance import PREDICATE_TYPE
from edgebuild.releasing.referrers import MAX_SIGNATURES, digests_of, read_signed, release_name, signature_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.keys import SigningKey

#: What a kill may leave beside the index (see ``write_staged``).
_LITTER = ".new-"


@dataclass(frozen=True)
class Signed:
    """What ``sign`` did: one signature was added for the release index, and one for the files of each of ``targets``.

    ``replaced`` is how many by the same key gave way to them.
    """

    name: str
    index_digest: str
    hint: str
    targets: tuple[str, ...]
    replaced: int


def sign(folder: Path, key: SigningKey, *, provenance: dict[str, Any]) -> Signed:
    """Sign a bundle; other people's signatures stay, those of the same key are replaced.

    So signing can be repeated, after a crash or with another provenance, and leaves one signature of a key over each
    thing. No file of the release is read: what is signed are the digests that it was made with, and verifying holds
    the files against them. A kill at any time leaves a bundle with the old signatures or with the new ones, and perhaps
    files that nothing lists, which signing again removes.

    Raises ``ReleaseError`` for what is no bundle, is being signed by another process or can't be written, and
    ``UsageError`` for a provenance that is no plain JSON.
    """
    with _alone(folder):
        bundle, signatures = read_signed(folder)
        kept = [each for each in signatures if _hint(bundle, each.blob) != key.public.hint]
        if len(kept) + 1 + len(bundle.targets) > MAX_SIGNATURES:
            raise ReleaseError(
                f"{release_name(bundle)} has {len(kept)} signatures; {MAX_SIGNATURES} is the most there may be."
            )
        blobs = [EMPTY]
        listed = [each.descriptor for each in kept]
        for statement, subject in _statements(bundle, provenance):
            data = _signed(statement, key)
            manifest = signature_manifest(descriptor_of(data, BUNDLE_TYPE), subject)
            blobs += [data, oci_bytes(manifest)]
            listed.append(descriptor_of(blobs[-1], manifest.mediaType, artifactType=BUNDLE_TYPE))
        _store(folder, blobs, [bundle.descriptor, *sorted(listed, key=lambda each: each.digest)])
    targets = tuple(part.release.target for part in bundle.targets)
    replaced = len(signatures) - len(kept)
    return Signed(release_name(bundle), bundle.descriptor.sha256, key.public.hint, targets, replaced)


def _statements(bundle: Bundle, provenance: dict[str, Any]) -> Iterator[tuple[Statement, Descriptor]]:
    index = bundle.descriptor
    yield Statement(release_name(bundle), index.sha256, PREDICATE_TYPE, provenance), index
    for part in bundle.targets:
        yield model_statement(part.release.target, digests_of(part)), part.descriptor


def _signed(statement: Statement, key: SigningKey) -> bytes:
    try:
        payload = statement_bytes(statement)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The provenance is no plain JSON: {error}.") from error
    data = bundle_bytes(payload, key.sign(pae(PAYLOAD_TYPE, payload)), key.public.hint)
    if len(data) > MAX_JSON_BYTES:
        raise ReleaseError(
            f"A signature of {len(data):,} bytes would be read by nobody: {statement.name} has too much."
        )
    return data


def _hint(bundle: Bundle, blob: Descriptor) -> str | None:
    return parse_bundle(bundle.layout.read(blob)).hint


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from signing the bundle meanwhile: one of two new indexes would be lost."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReleaseError(f"{folder} is no bundle: it can't be opened as a folder ({reason}).") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ReleaseError(
            f"{folder} is being signed by another process.", hint="Sign again when it is done."
        ) from error
    except OSError as error:
        raise ReleaseError(
            f"{folder} can't be locked: {error.strerror or error}.", hint="Sign a copy on another file system."
        ) from error


def _store(folder: Path, blobs: Sequence[bytes], listed: Sequence[Descriptor]) -> None:
    """Write blobs, then the index that lists them: each whole or not at all, and nothing through a link."""
    into = folder / BLOBS / "sha256"
    if not is_folder(folder / BLOBS) or not is_folder(into):
        raise ReleaseError(f"{into} is a link or no folder, and isn't followed.")
    try:
        for data in dict.fromkeys(blobs):
            write_atomically(into / digest_bytes(data), data, staging=folder)
        write_atomically(folder / INDEX_FILE, oci_bytes(Index(manifests=tuple(listed))), staging=folder)
        _sweep(folder)
    except OSError as error:
        raise ReleaseError(f"The signature can't be written into {folder}: {error.strerror or error}.") from error


def _sweep(folder: Path) -> None:
    """Remove blobs that nothing lists any more, and what a killed signing left."""
    listed = {each.sha256 for each in read_signed(folder)[0].descriptors()}
    into = folder / BLOBS / "sha256"
    for path in into.iterdir():
        if is_digest(path.name) and path.name not in listed and not is_folder(path):
            path.unlink()
    for path in folder.glob(f"{_LITTER}*"):
        if not is_folder(path):
            path.unlink()
    sync_folder(into)
