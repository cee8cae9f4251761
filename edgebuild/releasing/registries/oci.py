"""A repository of an OCI registry, spoken to as the distribution specification 1.1 says.

The package ``oras`` (0.2.43) isn't used: it downloads blobs whole, without ranges, bounds or a look at their digest,
and knows neither the fallback tags of referrers nor a registry that is busy. urllib3 does the HTTP.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebuild.core.artifact import is_digest
from edgebuild.core.values import CHUNK_BYTES, canonical_json, digest_bytes
from edgebuild.errors import ReleaseError
from edgebuild.releasing.layout import INDEX_TYPE, MANIFEST_TYPE, MAX_DESCRIPTORS, MAX_JSON_BYTES, SHA256, Descriptor
from edgebuild.releasing.registries.http import TRIES, Http, Unavailable
from edgebuild.releasing.registries.reference import fallback_tag, is_fallback_tag, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

#: A repository with more is no project's.
MAX_TAGS = 10_000
_MAX_PAGES = 200
_MAX_LINK_CHARACTERS = 4096
_DAMAGED = "The bundle was changed since it was made: make it or pull it again."
_ASK_AGAIN = "Ask whoever runs it; nothing of this is believed."


class OciRegistry:
    """One repository of a registry: see ``port.Registry``."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http = http
        self._base = f"/v2/{repository}"

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the registry says that it has the blob."""
        with self._http.request("HEAD", f"{self._base}/blobs/{blob.digest}", expected=(200, 404)) as response:
            return response.status == 200

    def put_blob(self, blob: Descriptor, source: Callable[[], BinaryIO], sent: Callable[[int], None]) -> None:
        """Send a blob in one piece: registries throw away an upload whose connection broke, so it begins anew."""
        for attempt in range(TRIES):
            counted = _Counted(blob, source, sent)
            try:
                return self._upload(blob, counted)
            except Unavailable as error:
                if attempt == TRIES - 1:
                    raise
                sent(-counted.sent)
                self._http.wait(attempt, error.asked)
            finally:
                counted.close()
        return None

    def _upload(self, blob: Descriptor, source: _Counted) -> None:
        with self._http.request(
            "POST", f"{self._base}/blobs/uploads/", headers={"Content-Length": "0"}, expected=(202,)
        ) as response:
            place = response.headers.get("Location", "")
        if not place:
            raise ReleaseError(f"{self._http.host} doesn't say where a blob is sent.", hint=_ASK_AGAIN)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        url = f"{place}{'&' if '?' in place else '?'}digest={blob.digest}"
        with self._http.request("PUT", url, headers=headers, body=source.opened, expected=(201,), tries=1):
            pass

    def read_blob(self, blob: Descriptor, offset: int) -> Iterator[bytes]:
        """Yield a blob from ``offset`` on; goes on by a range request where the connection breaks off."""
        from urllib3.exceptions import HTTPError

        position, fruitless = offset, 0
        while position < blob.size:
            begun, failure = position, Exception()
            try:
                for chunk in self._part(blob, position):
                    position += len(chunk)
                    yield chunk
            except HTTPError as error:
                failure = error
            if position < blob.size:
                fruitless = 0 if position - begun >= CHUNK_BYTES else fruitless + 1
                if fruitless == TRIES:
                    raise self._http.broken(f"Reading {blob.digest} from", failure)
                self._http.wait(fruitless)

    def _part(self, blob: Descriptor, position: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={position}-{blob.size - 1}"} if position else {}
        url = f"{self._base}/blobs/{blob.digest}"
        with self._http.request("GET", url, headers=headers, expected=(200, 206)) as response:
            begins = position if response.status == 206 else 0
            if begins and not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
                raise ReleaseError(f"{self._http.host} sends another part than was asked for.", hint=_ASK_AGAIN)
            while chunk := response.read1(min(CHUNK_BYTES, blob.size - begins + 1)):
                skipped = max(0, min(position - begins, len(chunk)))
                begins += len(chunk)
                if begins > blob.size:
                    raise ReleaseError(
                        f"{self._http.host} sends more of {blob.digest} than its {blob.size:,} bytes.", hint=_ASK_AGAIN
                    )
                if len(chunk) > skipped:
                    yield chunk[skipped:]

    def manifest(self, name: str) -> bytes | None:
        """Return a manifest; what was asked for by digest is that."""
        status, data, _ = self._small(
            f"{self._base}/manifests/{name}", {"Accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"}, (200, 404)
        )
        if status == 404:
            return None
        if name.startswith(SHA256) and SHA256 + digest_bytes(data) != name:
            raise ReleaseError(f"{self._http.host} sends something else than {name}.", hint=_ASK_AGAIN)
        return data

    def put_manifest(self, name: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag, or its digest."""
        self._put(name, data, media_type)

    def _put(self, name: str, data: bytes, media_type: str) -> Mapping[str, str]:
        with self._http.request(
            "PUT",
            f"{self._base}/manifests/{name}",
            headers={"Content-Type": media_type},
            body=lambda: data,
            expected=(200, 201),
        ) as response:
            return response.headers

    def attach(self, manifest: Descriptor, data: bytes, subject: str) -> None:
        """Store a manifest that is about another; where the registry doesn't list those itself, by the fallback tag.

        The tag's index is read again afterwards, since another may have written it at the same time. Registries lock
        nothing: of two who write at once one may still be lost, until that one pushes again.
        """
        if "OCI-Subject" in self._put(manifest.digest, data, manifest.mediaType):
            return
        entry = manifest.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        for _ in range(TRIES):
            known = self._listed(self.manifest(fallback_tag(subject)))
            if any(each.get("digest") == manifest.digest for each in known):
                return
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*known, entry]}
            self._put(fallback_tag(subject), canonical_json(index).encode(), INDEX_TYPE)
        raise ReleaseError(
            f"{self._http.host} doesn't keep that {manifest.digest} signs {subject}.", hint="Push it again."
        )

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Return what refers to a digest, by the API where there is one, otherwise by the fallback tag."""
        found: list[dict[str, Any]] = []
        for page in self._pages(f"{self._base}/referrers/{digest}"):
            found += self._listed(page)
        found = found or self._listed(self.manifest(fallback_tag(digest)))
        fields = ("mediaType", "digest", "size", "artifactType", "annotations")
        descriptors: dict[str, Descriptor] = {}
        for each in found:
            try:
                made = Descriptor.model_validate({name: each[name] for name in fields if name in each})
            except ValidationError:
                continue
            if made.digest.startswith(SHA256) and is_digest(made.sha256):
                descriptors[made.digest] = made
        return tuple(sorted(descriptors.values(), key=lambda each: each.digest))

    def tags(self) -> tuple[str, ...]:
        """Return the tags, page by page, without those that stand for referrers."""
        found: set[str] = set()
        for page in self._pages(f"{self._base}/tags/list?n=1000"):
            tags = self._parsed(page).get("tags") or []
            if not isinstance(tags, list) or not all(isinstance(tag, str) and is_tag(tag) for tag in tags):
                raise ReleaseError(f"{self._http.host} lists what can't be tags.", hint=_ASK_AGAIN)
            found.update(tag for tag in tags if not is_fallback_tag(tag))
            if len(found) > MAX_TAGS:
                raise ReleaseError(f"{self._http.host} lists more than {MAX_TAGS:,} tags.", hint=_ASK_AGAIN)
        return tuple(sorted(found))

    def _pages(self, url: str) -> Iterator[bytes]:
        for _ in range(_MAX_PAGES):
            status, data, headers = self._small(url, {}, (200, 404))
            if status == 404:
                return
            yield data
            following = re.search(r'<([^<>]+)>\s*;[^,]*\brel="?next"?', headers.get("Link", "")[:_MAX_LINK_CHARACTERS])
            if not following:
                return
            url = following[1]
        raise ReleaseError(f"{self._http.host} lists without end.", hint=_ASK_AGAIN)

    def _small(
        self, url: str, headers: Mapping[str, str], expected: tuple[int, ...]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Return status, body and headers of an answer that is bounded."""
        from urllib3.exceptions import HTTPError

        failure: Exception = ReleaseError("")
        for attempt in range(TRIES):
            with self._http.request("GET", url, headers=headers, expected=expected) as response:
                try:
                    data = response.read(MAX_JSON_BYTES + 1) if response.status == 200 else b""
                except HTTPError as error:
                    failure = error
                else:
                    if len(data) > MAX_JSON_BYTES:
                        raise ReleaseError(f"{self._http.host} sends a manifest without end.", hint=_ASK_AGAIN)
                    return response.status, data, response.headers
            self._http.wait(attempt)
        raise self._http.broken("Reading from", failure)

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ReleaseError(f"{self._http.host} answers with what is no JSON.", hint=_ASK_AGAIN) from error
        return found if isinstance(found, dict) else {}

    def _listed(self, data: bytes | None) -> list[dict[str, Any]]:
        """Return the entries of an index that others may have written, as they stand there."""
        found = self._parsed(data).get("manifests") if data is not None else None
        entries = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        if len(entries) > MAX_DESCRIPTORS:
            raise ReleaseError(f"{self._http.host} lists more than {MAX_DESCRIPTORS:,} manifests.", hint=_ASK_AGAIN)
        return entries


class _Counted:
    """The body of an upload: exactly as many bytes as are announced, counted as they are sent."""

    def __init__(self, blob: Descriptor, source: Callable[[], BinaryIO], said: Callable[[int], None]) -> None:
        self._blob, self._source, self._said = blob, source, said
        self._file: BinaryIO | None = None
        self.sent = 0

    def opened(self) -> _Counted:
        """Return the body, from its beginning."""
        self.close()
        self._said(-self.sent)
        self.sent, self._file = 0, self._source()
        return self

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        assert self._file is not None  # noqa: S101
        left = self._blob.size - self.sent
        data = self._file.read(min(left, size) if size >= 0 else left)
        if left and not data:
            raise ReleaseError(
                f"{self._blob.digest} is shorter than its {self._blob.size:,} bytes.", hint="Make it anew."
            )
        self.sent += len(data)
        self._said(len(data))
        return data

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
