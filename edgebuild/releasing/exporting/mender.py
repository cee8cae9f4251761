"""A Mender artifact, format version 3, for the update module ``directory``, which every Mender client brings.

The module's payload are two files: ``dest_dir``, which names a folder, and ``update.tar``, whose content replaces what
lies there. ``persistent-app`` isn't used: it puts all files flat into one folder and leaves those of the last release
there. Nothing is compressed: weights hardly shrink, and no two zlibs write the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.values import canonical_json
from edgebuild.releasing.exporting.archives import Member, sums_of, tar_chunks, tar_member, text_member
from edgebuild.releasing.exporting.payload import payload

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.releasing.exporting.values import Wish

MODULE = "directory"
#: What a client's update of the root filesystem doesn't clear from what a device says that it has.
FILESYSTEM = "data-partition"


def write(wish: Wish, to: Path) -> tuple[str, ...]:
    """Write the artifact as a file, and return what the user should know of it."""
    deployed, notes = payload(wish)
    files = (text_member("dest_dir", f"{wish.folder}\n".encode()), tar_member("update.tar", deployed))
    version = text_member("version", canonical_json({"format": "mender", "version": 3}).encode())
    header = tar_member("header.tar", _header(wish))
    listed = {**{f"data/0000/{each.name}": each for each in files}, header.name: header, version.name: version}
    lines = "".join(f"{sums_of(member).sha256}  {name}\n" for name, member in sorted(listed.items()))
    parts = (version, text_member("manifest", lines.encode()), header, tar_member("data/0000.tar", files))
    with to.open("xb") as out:
        for chunk in tar_chunks(parts):
            out.write(chunk)
    return notes


def _header(wish: Wish) -> tuple[Member, ...]:
    name, version = wish.called, wish.version
    about = {
        "payloads": [{"type": MODULE}],
        "artifact_provides": {"artifact_name": f"{name}-{version}"},
        "artifact_depends": {"device_type": [wish.board]},
    }
    kind = {
        "type": MODULE,
        "artifact_provides": {f"{FILESYSTEM}.{name}.version": version},
        "clears_artifact_provides": [f"{FILESYSTEM}.{name}.*"],
    }
    return (
        text_member("header-info", canonical_json(about).encode()),
        text_member("headers/0000/type-info", canonical_json(kind).encode()),
    )
