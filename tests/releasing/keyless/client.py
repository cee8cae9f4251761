"""What signs by a pretended Sigstore, and what it is verified by."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.dsse import Statement, statement_bytes
from edgebuild.releasing.keyless import Identity, KeylessSigner, keyless_signer
from edgebuild.releasing.provenance import PREDICATE_TYPE
from edgebuild.releasing.referrers import release_name
from tests.releasing.bundles import PROVENANCE
from tests.releasing.keyless.pretend_sigstore import ALICE, ISSUER, PretendSigstore

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def signer(pretend: PretendSigstore, url: str, identity: str = ALICE, issuer: str = ISSUER) -> KeylessSigner:
    return keyless_signer(pretend.token(identity, issuer), json.dumps(pretend.trust_config(url)))


def known(pretend: PretendSigstore, name: str = ALICE, issuer: str = ISSUER) -> Identity:
    return Identity(name, issuer, json.dumps(pretend.trusted_root()))


def statement(folder: Path) -> bytes:
    release = read_bundle(folder)
    said = Statement(release_name(release), release.descriptor.sha256, PREDICATE_TYPE, PROVENANCE)
    return statement_bytes(said)


def unplug(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("there is no network")

    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
