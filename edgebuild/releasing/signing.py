"""Signing a bundle: the release index by an in-toto statement, and each target's files by OpenSSF Model Signing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.changing import alone, store
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
    EMPTY,
    MAX_JSON_BYTES,
    Descriptor,
    descriptor_of,
    oci_bytes,
)
from edgebuild.releasing.model_signing import model_statement
from edgebuild.releasing.provenance import PREDICATE_TYPE
from edgebuild.releasing.referrers import MAX_SIGNATURES, digests_of, read_signed, release_name, signature_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.keys import SigningKey


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
    with alone(folder):
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
        store(folder, blobs, [bundle.descriptor, *sorted(listed, key=lambda each: each.digest)])
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
