"""Signing a bundle: the release index by an in-toto statement, and each target's files by OpenSSF Model Signing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.changing import alone, store
from edgebuild.releasing.dsse import BUNDLE_TYPE, Statement, parse_bundle, statement_bytes
from edgebuild.releasing.keyless import hint_of
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


class StatementSigner(Protocol):
    """Whoever signs: a key, or somebody whom an issuer vouches for."""

    def bundle(self, payload: bytes) -> bytes:
        """Return the Sigstore bundle v0.3, in canonical JSON, of a payload that is signed by it."""


@dataclass(frozen=True)
class Signed:
    """What ``sign`` did: one signature was added for the release index, and one for the files of each of ``targets``.

    ``hint`` names the key, or the identity and its issuer; ``replaced`` is how many by the same gave way to them.
    """

    name: str
    index_digest: str
    hint: str
    targets: tuple[str, ...]
    replaced: int


def sign(folder: Path, signer: StatementSigner, *, provenance: dict[str, Any]) -> Signed:
    """Sign a bundle; other people's signatures stay, those of the same key or identity are replaced.

    So signing can be repeated, after a crash or with another provenance, and leaves one signature of a signer over each
    thing. No file of the release is read: what is signed are the digests that it was made with, and verifying holds
    the files against them. A kill at any time leaves a bundle with the old signatures or with the new ones, and perhaps
    files that nothing lists, which signing again removes.

    Raises ``ReleaseError`` for what is no bundle, is being signed by another process or can't be written,
    ``UsageError`` for a provenance that is no plain JSON, and what the signer raises.
    """
    with alone(folder):
        bundle, signatures = read_signed(folder)
        made = [(_signed(each, signer), subject) for each, subject in _statements(bundle, provenance)]
        hint = hint_of(parse_bundle(made[0][0])) or ""
        kept = [each for each in signatures if hint_of(parse_bundle(bundle.layout.read(each.blob))) != hint]
        if len(kept) + len(made) > MAX_SIGNATURES:
            raise ReleaseError(
                f"{release_name(bundle)} has {len(kept)} signatures; {MAX_SIGNATURES} is the most there may be."
            )
        blobs = [EMPTY]
        listed = [each.descriptor for each in kept]
        for data, subject in made:
            manifest = signature_manifest(descriptor_of(data, BUNDLE_TYPE), subject)
            blobs += [data, oci_bytes(manifest)]
            listed.append(descriptor_of(blobs[-1], manifest.mediaType, artifactType=BUNDLE_TYPE))
        store(folder, blobs, [bundle.descriptor, *sorted(listed, key=lambda each: each.digest)])
    targets = tuple(part.release.target for part in bundle.targets)
    replaced = len(signatures) - len(kept)
    return Signed(release_name(bundle), bundle.descriptor.sha256, hint, targets, replaced)


def _statements(bundle: Bundle, provenance: dict[str, Any]) -> Iterator[tuple[Statement, Descriptor]]:
    index = bundle.descriptor
    yield Statement(release_name(bundle), index.sha256, PREDICATE_TYPE, provenance), index
    for part in bundle.targets:
        yield model_statement(part.release.target, digests_of(part)), part.descriptor


def _signed(statement: Statement, signer: StatementSigner) -> bytes:
    try:
        payload = statement_bytes(statement)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The provenance is no plain JSON: {error}.") from error
    data = signer.bundle(payload)
    if len(data) > MAX_JSON_BYTES:
        raise ReleaseError(
            f"A signature of {len(data):,} bytes would be read by nobody: {statement.name} has too much."
        )
    return data
