"""Wheels made by hand, sound and unsound, and a runtime that is one module."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: The device file of a backend whose runtime is the module ``toyrt``.
DEVICE = """
def version():
    try:
        import toyrt
    except ImportError:
        return None
    return toyrt.__version__


def load_runtime():
    import toyrt
"""
PLAIN = 0o100644 << 16
LINK = 0o120777 << 16


def make_wheel(
    folder: Path,
    name: str = "toyrt",
    version: str = "1.0",
    *,
    files: Mapping[str, bytes] | None = None,
    requires: Sequence[str] = (),
    python: str = "py3",
    platform: str = "any",
    unrecorded: Sequence[str] = (),
    false: Sequence[str] = (),
    lost: Sequence[str] = (),
    links: Sequence[str] = (),
) -> Path:
    """Write a wheel and return it.

    Files in ``unrecorded`` are not in its RECORD, those in ``false`` have another digest there, those in ``lost`` are
    only there; those in ``links`` are symbolic links.
    """
    info = f"{name}-{version}.dist-info"
    contents = {f"{name}/__init__.py": f"__version__ = {version!r}\n".encode(), **(files or {})}
    about = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {r}\n" for r in requires)]
    contents[f"{info}/METADATA"] = "".join(about).encode()
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {python}-none-{platform}\n".encode()
    rows = [
        f"{path},sha256={_digest(data + (b'!' if path in false else b''))},{len(data)}"
        for path, data in contents.items()
        if path not in unrecorded
    ]
    rows += [f"{path},sha256={_digest(b'')},0" for path in lost]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-{python}-none-{platform}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in contents.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = LINK if path in links else PLAIN
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return wheel


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
