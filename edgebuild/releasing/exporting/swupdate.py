"""A SWUpdate image: a cpio with ``sw-description`` first, its CMS signature where one is asked for, and one tar.

The handler ``archive`` unpacks that into a folder which has the version in its name, since it removes nothing there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgebuild.core.files import read_plain
from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.releasing.exporting.archives import Sums, cpio_chunks, sums_of, tar_member, text_member
from edgebuild.releasing.exporting.payload import payload

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.releasing.exporting.values import Wish

ARCHIVE = "bundle.tar"
#: What libconfig takes as a setting's name.
_BOARD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
#: Settings that SWUpdate reads at the same level as the names of boards.
_TAKEN = frozenset(
    {"version", "description", "name", "images", "files", "scripts", "partitions", "uboot", "bootenv", "properties"}
    | {"embedded-script", "hardware-compatibility", "reboot", "namespace-vars"}
    | {"bootloader_transaction_marker", "bootloader_state_marker"}
)
MAX_KEY_BYTES = 64 << 10
_UNSIGNED = "It isn't signed. A SWUpdate that was built for signed images, as Debian's is, wants --cert and --key."


def write(wish: Wish, to: Path) -> tuple[str, ...]:
    """Write the image as a file, and return what the user should know of it."""
    deployed, notes = payload(wish)
    archive = tar_member(ARCHIVE, deployed)
    sums = sums_of(archive)
    description = _description(wish, sums)
    small = [text_member("sw-description", description)]
    if wish.cert is not None and wish.key is not None:
        small.append(text_member("sw-description.sig", _signature(description, wish.cert, wish.key)))
    elif wish.cert is not None or wish.key is not None:
        raise UsageError("Signing takes both --cert and --key.", hint="Give the other one, or neither.")
    else:
        notes += (_UNSIGNED,)
    with to.open("xb") as out:
        for chunk in cpio_chunks([*((each, sums_of(each)) for each in small), (archive, sums)]):
            out.write(chunk)
    return notes


def _description(wish: Wish, sums: Sums) -> bytes:
    """Return sw-description in libconfig's syntax; every word in it has letters only that need no escape there."""
    board = wish.board
    if not _BOARD.fullmatch(board) or board in _TAKEN:
        raise UsageError(
            f"SWUpdate can't have a board called {board!r}.",
            hint="Name it with --device-type as the device's -H or /etc/hwrevision does: a letter, then letters, "
            "digits, dashes and underscores.",
        )
    return f"""software =
{{
  version = "{wish.version}";
  description = "{wish.called}";
  {board} =
  {{
    hardware-compatibility: [ "#RE:^.+$" ];
    files: (
      {{
        filename = "{ARCHIVE}";
        type = "archive";
        path = "{wish.folder}/{wish.version}";
        sha256 = "{sums.sha256}";
        installed-directly = true;
        properties: {{ create-destination = "true"; }};
      }}
    );
  }};
}}
""".encode()


def _signature(data: bytes, cert: Path, key: Path) -> bytes:
    """Return the detached CMS signature; equal for equal bytes with an RSA key, since it holds no time."""
    try:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.serialization import pkcs7
    except ImportError as error:
        raise EnvironmentGap("cryptography is not installed.", hint="pip install 'edgebuild[release]'") from error

    try:
        private = serialization.load_pem_private_key(read_plain(key, MAX_KEY_BYTES), None)
        signer = x509.load_pem_x509_certificate(read_plain(cert, MAX_KEY_BYTES))
        if signer.public_key() != private.public_key():
            raise ValueError("the certificate is of another key")
        # cryptography's types name RSA and EC keys, and others raise TypeError.
        builder = pkcs7.PKCS7SignatureBuilder().set_data(data).add_signer(signer, private, hashes.SHA256())  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{cert} and {key} can't sign: {error}.", hint="Give a certificate and its RSA or EC key, in PEM."
        ) from error
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoAttributes]
    return builder.sign(serialization.Encoding.DER, options)
