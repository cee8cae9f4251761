"""A shared store at an fsspec URL: contents first, the manifest last, and nothing believed before it is verified.

Object stores show an object only when it is complete. Elsewhere a file is written under another name and then moved, so
that a kill never shows a part under the real name.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.files import home_folder
from edgebuild.core.values import CHUNK_BYTES, digest_bytes, digest_file
from edgebuild.errors import EdgebuildError, StoreError
from edgebuild.execution.layout import VERSION_NAME, check_version, version_text
from edgebuild.execution.manifest import MAX_MANIFEST_BYTES, Damaged, Manifest, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edgebuild.core.artifact import FileEntry

#: Where an upload is visible only when it is complete.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss"})


def is_url(where: str | Path) -> bool:
    """Whether ``where`` is an fsspec URL rather than a path."""
    return isinstance(where, str) and "://" in where


def cache_folder(url: str) -> Path:
    """Return the local folder that keeps what was fetched from ``url``."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache")
    return base / "edgebuild" / "stores" / digest_bytes(url.encode())[:32]


class Remote:
    """The contents and manifests at one URL. Every failure of its file system is a ``StoreError``."""

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.url = url
        self._fs = fs
        self._root = root.rstrip("/")
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self._complete_or_absent = protocol in OBJECT_STORES

    @classmethod
    def open(cls, url: str) -> Remote:
        """Connect, and create the store at ``url`` if there is none."""
        from fsspec.core import url_to_fs

        with _url_errors(url, "opening it"):
            fs, root = url_to_fs(url, use_listings_cache=False)
            remote = cls(url, fs, root)
            try:
                check_version(fs.cat_file(remote._at(VERSION_NAME)), url)
            except FileNotFoundError:
                remote._refuse_others()
                remote._put(version_text(), VERSION_NAME)
        return remote

    def _refuse_others(self) -> None:
        """Raise ``StoreError`` where something lies that no store is; another may just be making one, in ``tmp``."""
        try:
            names = [str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)]
        except FileNotFoundError:
            return
        others = sorted({name for name in names if name} - {"tmp", VERSION_NAME})
        if others:
            raise StoreError(
                f"{self.url} isn't empty ({others[0]!r} lies there) and isn't an edgebuild store",
                hint="name an empty folder, or one that doesn't exist yet",
            )

    def fetch(self, key: str, into: Path) -> tuple[Manifest, dict[str, Path]] | None:
        """Bring an entry's verified contents into ``into``, by digest; None when there is no such entry.

        Raises ``Damaged`` when the manifest or a content isn't what it should be.
        """
        with _url_errors(self.url, "a look-up"):
            try:
                with self._fs.open(self._at("entries", key), "rb") as file:
                    data = file.read(MAX_MANIFEST_BYTES + 1)
            except FileNotFoundError:
                return None
            manifest = decode(data, key)
            return manifest, {file.sha256: self._download(file, into / file.sha256) for file in manifest.files}

    def _download(self, file: FileEntry, target: Path) -> Path:
        if target.exists():
            return target
        missing = file.size_bytes + 1  # one byte more than promised is enough to see that it is wrong
        try:
            with self._fs.open(self._blob(file.sha256), "rb") as source, target.open("xb") as out:
                while missing and (chunk := source.read(min(CHUNK_BYTES, missing))):
                    out.write(chunk)
                    missing -= len(chunk)
        except FileNotFoundError as error:
            raise Damaged(f"the content of {file.path} is missing", (file.sha256,)) from error
        if missing != 1 or digest_file(target) != file.sha256:
            raise Damaged(f"the content of {file.path} doesn't match its digest", (file.sha256,))
        return target

    def push(self, manifest: Manifest, contents: Mapping[str, Path]) -> None:
        """Upload the contents that aren't there, then the manifest."""
        with _url_errors(self.url, "keeping a result"):
            for file in manifest.files:
                if self._size(self._blob(file.sha256)) != file.size_bytes:
                    self._put(contents[file.sha256], "blobs", file.sha256[:2], file.sha256)
            self._put(encode(manifest), "entries", manifest.key)

    def drop(self, key: str, blobs: tuple[str, ...]) -> None:
        """Remove a damaged entry, as far as this user may: whoever finds it next would only find the same."""
        for path in (self._at("entries", key), *(self._blob(sha256) for sha256 in blobs)):
            with suppress(Exception):
                self._fs.rm_file(path)

    def _put(self, source: Path | bytes, *names: str) -> None:
        final = self._at(*names)
        path = final if self._complete_or_absent else self._at("tmp", secrets.token_hex(8))
        for folder in {os.path.dirname(path), os.path.dirname(final)}:  # noqa: PTH120  (a URL path, not a local one)
            self._fs.makedirs(folder, exist_ok=True)
        try:
            if isinstance(source, bytes):
                self._fs.pipe_file(path, source)
            else:
                self._fs.put_file(str(source), path)
            if path != final:
                self._fs.mv(path, final)
        except BaseException:
            with suppress(Exception):
                self._fs.rm_file(path)
            raise

    def _size(self, path: str) -> int | None:
        try:
            return int(self._fs.info(path)["size"])
        except FileNotFoundError:
            return None

    def _blob(self, sha256: str) -> str:
        return self._at("blobs", sha256[:2], sha256)

    def _at(self, *names: str) -> str:
        return "/".join((self._root, *names))


@contextmanager
def _url_errors(url: str, doing: str) -> Iterator[None]:
    """Every file system behind fsspec has errors of its own: all of them leave as ``StoreError``."""
    try:
        yield
    except (EdgebuildError, Damaged):
        raise
    except ImportError as error:
        raise StoreError(
            f"the store {url} needs another package: {error}", hint="install the package it names"
        ) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise StoreError(
            f"the store {url} can't be used: {doing} failed ({reason})",
            hint="check the URL, the network and your permissions, or use a local folder as store",
        ) from error
