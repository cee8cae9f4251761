"""A session's folder as one file: the same bytes for the same contents, wherever and whenever it is packed."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from edgebuild.core.artifact_files import plain_paths
from edgebuild.core.values import digest_file
from edgebuild.errors import StoreError


def pack(folder: Path, into: Path) -> str:
    """Write every plain file below ``folder`` into a zip archive named by its digest in ``into``; return the digest.

    Entries are sorted and stored as they are: the bytes of deflate differ between versions of zlib.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=into, prefix=".pack-")
        try:
            with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name in plain_paths(folder):
                    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                    entry.create_system = 3
                    entry.external_attr = 0o644 << 16
                    with (folder / name).open("rb") as source, archive.open(entry, "w") as target:
                        shutil.copyfileobj(source, target)
            digest = digest_file(Path(scratch))
            Path(scratch).replace(into / digest)
        finally:
            Path(scratch).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{into} can't take the evidence: {error.strerror}.", hint="Make room there.") from error
    return digest
