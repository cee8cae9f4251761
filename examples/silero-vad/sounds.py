"""The pinned sound files: found or downloaded, checked, and decoded in memory.

They are three Debian packages of 16 kHz G.722 sounds, which ``apt-get`` downloads and ``dpkg-deb`` unpacks into this
project; nothing is installed and no script of theirs runs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "asterisk"
INSTALLED = Path("/usr/share/asterisk")
FOLDER_VARIABLE = "EDGEBUILD_ASTERISK_SOUNDS"
DIGEST_CHARS = 32  # of a file's SHA-256 in sounds.tsv
MAX_FILE_BYTES = 16 * 1024 * 1024

# Debian package: version, SHA-256 of the .deb. They are the same on every architecture.
PACKAGES = {
    "asterisk-core-sounds-en-g722": ("1.6.1-1", "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806"),
    "asterisk-core-sounds-fr-g722": ("1.6.1-1", "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0"),
    "asterisk-moh-opsound-g722": ("2.03-1.1", "8d6b39d6f2e8feff54a042c4a25e1b72f3e2478d05ee372c92f77446fa0b1671"),
}

_HINT = (
    f"On Debian, run apt-get install {' '.join(PACKAGES)}. Elsewhere, unpack these packages (versions: {__file__}) "
    f"and point {FOLDER_VARIABLE} at their usr/share/asterisk."
)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One pinned file below ``usr/share/asterisk``; ``kind`` is speech or music."""

    split: str
    kind: str
    digest: str
    path: str


@cache
def sounds() -> tuple[Sound, ...]:
    """Every sound of ``sounds.tsv``, in the file's order."""
    with (HERE / "sounds.tsv").open(encoding="utf-8", newline="") as lines:
        return tuple(
            Sound(split=row["split"], kind=row["kind"], digest=row["sha256_32"], path=row["path"])
            for row in csv.DictReader(lines, delimiter="\t")
        )


def folder() -> Path:
    """A folder with every pinned sound, laid out as the packages lay it out below ``usr/share/asterisk``.

    Looked for in ``$EDGEBUILD_ASTERISK_SOUNDS``, where the packages install it, and in ``data/asterisk``; downloaded
    into the latter if it is in none of them. ``decode`` checks each file.

    Raises:
        edgebuild.errors.EnvironmentGap: the sounds can't be had here.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    candidates = [Path(given)] if given else []
    for candidate in (*candidates, INSTALLED, CACHE):
        if _is_complete(candidate):
            return candidate
    _download()
    return CACHE


def _is_complete(folder: Path) -> bool:
    return all((folder / sound.path).is_file() for sound in sounds())


def decode(path: Path, digest: str) -> NDArray[np.float32]:
    """The samples of a G.722 file, 16 kHz, float32 in [-1, 1).

    Raises:
        edgebuild.errors.DataError: the file isn't the pinned one.
        edgebuild.errors.EnvironmentGap: PyAV isn't installed.
    """
    from edgebuild.errors import DataError, EnvironmentGap

    try:
        import av
    except ImportError as error:
        raise EnvironmentGap("PyAV, which decodes the sounds, isn't installed.", hint="pip install av") from error
    with path.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES)
    if hashlib.sha256(content).hexdigest()[:DIGEST_CHARS] != digest:
        raise DataError(
            f"{path} is not the pinned sound: its SHA-256 differs from sounds.tsv.",
            hint="Delete the folder it is in, if that is this project's data/; the next run gets it again.",
        )
    with av.open(io.BytesIO(content), mode="r", format="g722") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    audio: NDArray[np.float32] = (np.concatenate(frames, axis=1)[0] / 32768).astype(np.float32)
    return audio


def _download() -> None:
    """Bring the packages' sounds into the cache: whole and checked, or not at all."""
    from edgebuild.errors import DataError, EnvironmentGap

    CACHE.parent.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {len(PACKAGES)} Debian packages of sounds into {CACHE} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        _fetch_packages(Path(scratch))
        for name, (version, sha256) in PACKAGES.items():
            (package,) = Path(scratch).glob(f"{name}_*.deb")
            if hashlib.sha256(package.read_bytes()).hexdigest() != sha256:
                raise DataError(
                    f"The downloaded {name} {version} is not the pinned one: its SHA-256 differs.",
                    hint="Check where apt-get gets its packages from.",
                )
            try:
                subprocess.run(["dpkg-deb", "--extract", package, Path(scratch) / "root"], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise EnvironmentGap(f"{package.name} can't be unpacked: {error}.", hint=_HINT) from error
        if _is_complete(CACHE):  # another run was faster
            return
        if CACHE.exists():  # a file of it was deleted
            CACHE.replace(Path(scratch) / "incomplete")
        (Path(scratch) / "root/usr/share/asterisk").replace(CACHE)


def _fetch_packages(scratch: Path) -> None:
    """Download the .deb files into ``scratch``, with the system's package lists or else with fresh private ones."""
    from edgebuild.errors import EnvironmentGap

    private = [f"-oDir::State::Lists={scratch}/lists", f"-oDir::Cache={scratch}/cache"]
    for needed in ("lists/partial", "cache/archives/partial"):
        (scratch / needed).mkdir(parents=True)
    download = ["download", *(f"{name}={version}" for name, (version, _) in PACKAGES.items())]
    reason = ""
    attempts = ([download], [[*private, "update"], [*private, *download]])
    for attempt in attempts:
        try:
            for arguments in attempt:
                subprocess.run(["apt-get", "-q", *arguments], cwd=scratch, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            reason = "apt-get isn't here"
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["apt-get gave no reason"])[-1]
        else:
            return
    raise EnvironmentGap(f"The packages of sounds can't be downloaded: {reason}.", hint=_HINT)
