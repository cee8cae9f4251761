"""Puts Python packages on this machine without pip and without a network: from wheels that lie here under digests."""

from __future__ import annotations

import base64
import compileall
import csv
import errno
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import struct
import sys
import zipfile
import zlib

from .artifact import backend_module
from .folders import digest_of, inside
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

    from .protocol import Fields, Wire

#: Lists a site's files, so that one which lost some is known for damaged.
LISTING = ".edgebuild.json"
PARTIAL = ".part"
CHUNK_BYTES = 1 << 20
#: Files of a wheel that its RECORD doesn't vouch for: itself and its signatures.
UNRECORDED = frozenset({"RECORD", "RECORD.jws", "RECORD.p7s"})
#: A line of RECORD is about 100 bytes: no wheel has more files.
MAX_RECORD_BYTES = 16 << 20
MAX_MEMBERS = 100000
#: What a damaged or odd zip makes the standard library raise.
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    csv.Error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    struct.error,
)


def python(request: Fields) -> Fields:
    """Return what wheels are chosen by (PEP 425, PEP 508), and how much of the disk is free."""
    disk = os.statvfs(request["root"])
    number = "%d.%d.%d" % sys.version_info[:3]
    return {
        "version": list(sys.version_info[:2]),
        "implementation": sys.implementation.name,
        "bits": 8 * struct.calcsize("P"),
        "arch": platform.machine(),
        "libc": _libc(),
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "markers": {
            "implementation_name": sys.implementation.name,
            "implementation_version": number,
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": platform.release(),
            "platform_system": platform.system(),
            "platform_version": platform.version(),
            "python_full_version": platform.python_version(),
            "python_version": "%d.%d" % sys.version_info[:2],
            "sys_platform": sys.platform,
        },
    }


def site(request: Fields) -> Fields:
    """Return whether a site is there whole, and how many bytes of its wheels are."""
    there = 0
    for wheel in request["wheels"]:
        for name in (_blob(request, wheel), _blob(request, wheel) + PARTIAL):
            there += os.path.getsize(name) if os.path.exists(name) else 0
    return {"complete": _complete(_folder(request)), "there_bytes": there}


def install(request: Fields, wire: Wire) -> Fields:
    """Unpack the wheels into ``<root>/site/<digest>``: all checked, loaded once, and in place whole or not at all.

    Whoever installs holds this device: what a killed run left is removed. The wheels are removed at the end.
    """
    folder = _folder(request)
    partial = folder + PARTIAL
    for left in os.listdir(os.path.dirname(folder)) if os.path.isdir(os.path.dirname(folder)) else ():
        if left.endswith(PARTIAL):
            shutil.rmtree(os.path.join(os.path.dirname(folder), left), ignore_errors=True)
    try:
        os.makedirs(partial)
        _unpack_all(request, partial, wire)
        compileall.compile_dir(partial, quiet=2, force=True)
        _load(request["load"], partial)
        # So that a board which loses power has the whole of it, or the old one.
        os.sync()
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
        os.sync()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Problem("device", "The disk is full.", "Free some space on the board and try again.") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for wheel in request["wheels"]:
        os.unlink(_blob(request, wheel))
    return {"path": folder}


def _unpack_all(request: Fields, partial: str, wire: Wire) -> None:
    wheels = request["wheels"]
    files: Dict[str, int] = {}
    left = request["unpacked_bytes"]
    for number, wheel in enumerate(wheels):
        wire.progress("unpacking", number, len(wheels))
        blob = _blob(request, wheel)
        if not os.path.exists(blob) or digest_of(blob) != wheel["sha256"]:
            if os.path.exists(blob):
                os.unlink(blob)
            raise Problem("device", "%s was damaged on its way or on the disk." % wheel["file"], "Try again.")
        try:
            written = _Wheel(blob, wheel["file"]).unpack(partial, left)
        except BAD_ZIP as error:
            raise Problem("environment", "%s is no wheel: %s." % (wheel["file"], error)) from error
        left -= sum(written.values())
        files.update(written)
    wire.progress("unpacking", len(wheels), len(wheels))
    with open(os.path.join(partial, LISTING), "w") as listing:
        json.dump(files, listing)


class _Wheel:
    """A wheel (PEP 427) whose every file is vouched for by its RECORD; one that isn't is refused."""

    def __init__(self, blob: str, name: str) -> None:
        self._blob = blob
        self._name = name

    def unpack(self, target: str, most: int) -> Dict[str, int]:
        """Write the files below ``target``, no more than ``most`` bytes; return them with their sizes."""
        written: Dict[str, int] = {}
        with zipfile.ZipFile(self._blob) as archive:
            record = self._record(archive)
            for info in archive.infolist():
                if info.filename.endswith("/"):
                    continue
                self._requireplain(info)
                if info.file_size > most:
                    raise self._refused("holds more than the host counted")
                most -= info.file_size
                vouched = record.pop(info.filename, None)
                place = _place(info.filename)
                found = _write(archive, info, None if place is None else os.path.join(target, place), vouched)
                if not _unrecorded(info.filename) and (vouched is None or found != vouched[0]):
                    raise self._refused("%r is not what its RECORD says" % info.filename[:200])
                if place is not None:
                    written[place] = info.file_size
        missing = [name for name in record if not _unrecorded(name)]
        if missing:
            raise self._refused("%r of its RECORD is missing" % missing[0][:200])
        return written

    def _record(self, archive: zipfile.ZipFile) -> Dict[str, Tuple[str, str]]:
        """Return digest and kind of digest of every file that RECORD names."""
        names = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
        if len(names) != 1:
            raise self._refused("it has no RECORD")
        with archive.open(names[0]) as file:
            data = file.read(MAX_RECORD_BYTES + 1)
        if len(data) > MAX_RECORD_BYTES or len(archive.infolist()) > MAX_MEMBERS:
            raise self._refused("its RECORD, or the number of its files, is larger than any wheel's")
        rows = csv.reader(io.StringIO(data.decode("utf-8")))
        found = {}
        for row in rows:
            kind, _, digest = (row[1] if len(row) > 1 else "").partition("=")
            if row and (kind in ("sha256", "sha384", "sha512") or _unrecorded(row[0])):
                found[row[0]] = (digest, kind)
        return found

    def _requireplain(self, info: zipfile.ZipInfo) -> None:
        """Refuse a name that would leave the folder, and what isn't a plain file."""
        parts = info.filename.split("/")
        odd = "\\" in info.filename or "\0" in info.filename or any(part in ("", ".", "..") for part in parts)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if odd or kind not in (0, stat.S_IFREG):
            raise self._refused("%r would leave its folder, or is no plain file" % info.filename[:200])

    def _refused(self, reason: str) -> Problem:
        return Problem("environment", "%s is not unpacked: %s." % (self._name, reason), "Is its index to be trusted?")


def _place(name: str) -> Optional[str]:
    """Return where a file of a wheel belongs below the site; None for scripts and C headers: nothing uses them."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    scheme, _, inner = rest.partition("/")
    return None if scheme in ("scripts", "headers") else inner or None


def _unrecorded(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder.endswith(".dist-info") and "/" not in folder and file in UNRECORDED


def _write(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Optional[str], vouched: Optional[Tuple[str, str]]
) -> str:
    """Copy one file out and return its digest as RECORD writes it; without a path only look at it."""
    hasher = hashlib.new((vouched[1] if vouched else "") or "sha256")
    if path is not None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with archive.open(info) as source, open(os.devnull if path is None else path, "wb") as file:
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            hasher.update(chunk)
            file.write(chunk)
    if path is not None:
        os.chmod(path, 0o755 if info.external_attr >> 16 & 0o111 else 0o644)
    return base64.urlsafe_b64encode(hasher.digest()).decode("ascii").rstrip("=")


def _load(names: List[str], folder: str) -> None:
    """Import the runtimes from the folder; one that this machine can't run ends this process or is a problem."""
    sys.path.insert(0, folder)
    name = ""
    try:
        for name in names:
            backend_module(name).load_runtime()
    except ImportError as error:
        raise Problem("environment", "%s doesn't load on this device: %s." % (name, error)) from error


def _complete(folder: str) -> bool:
    try:
        with open(os.path.join(folder, LISTING)) as listing:
            files = json.load(listing)
        return all(os.path.getsize(os.path.join(folder, name)) == size for name, size in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def _folder(request: Fields) -> str:
    return inside(request["root"], os.path.join("site", plain(request["site"])))


def _blob(request: Fields, wheel: Fields) -> str:
    return inside(request["root"], os.path.join("blobs", plain(wheel["sha256"])))


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def plain(name: str) -> str:
    """Return a digest that may be a part of a path; raises for anything else."""
    if not name.isalnum():
        raise Problem("usage", "%r is not a digest." % name)
    return name
