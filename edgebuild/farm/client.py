"""Speaks to a farm's server: JSON over HTTP, files by digest. Every answer is checked before it is believed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from edgebuild.core.values import CHUNK_BYTES, digest_file
from edgebuild.errors import DataError, DeviceError, EdgebuildError, EnvironmentGap, UsageError
from edgebuild.farm.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from ssl import SSLContext

T = TypeVar("T")

CONNECT_S = 10.0
#: A host waits for work as long as the server lets it.
READ_S = 60.0
#: So many threads of one client keep a connection each.
MOST_THREADS = 4
#: What one answer may hold; files come in pieces.
MOST_ANSWER_BYTES = 64 << 20
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class FarmAway(DeviceError):
    """The farm's server can't be reached, or can't do its work for the moment: asking again later may help."""


@dataclass(frozen=True, kw_only=True)
class FarmAddress:
    """Where a farm is, and what is needed to speak to it. ``authority`` is the file of its private CA."""

    url: str
    token: str = field(repr=False)
    authority: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.path not in {"", "/"}:
            raise UsageError(f"{self.url!r} is no address of a farm.", hint="Write https://HOST:PORT.")
        if parts.username is not None:
            raise UsageError("A farm's address holds no password.", hint="The token comes from EDGEBUILD_FARM_TOKEN.")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise UsageError(
                f"{self.url} would send the token in the clear.", hint="Write https://, as `edgebuild farm serve` says."
            )


class FarmClient:
    """One user, or one host, of a farm. Safe between threads."""

    def __init__(self, address: FarmAddress) -> None:
        import urllib3

        self.address = address
        self._base = address.url.rstrip("/")
        self._pool = urllib3.PoolManager(
            ssl_context=trusted(address),
            retries=False,
            maxsize=MOST_THREADS,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            headers={"Authorization": f"Bearer {address.token}"},
        )

    def ask(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        """Return the answer to a request as ``kind``; ``body`` is plain data or a value.

        Raises ``FarmAway`` where the server is out of reach, what the farm says is wrong otherwise, and ``DeviceError``
        for an answer that isn't one.
        """
        data = None if body is None else _encoded(body)
        headers = {"Authorization": f"Bearer {self.address.token}", "Content-Type": "application/json"}
        status, answer = self._exchange(method, path, data, headers)
        if status >= 400:
            raise problem_of(status, answer, self._base)
        try:
            made: T = TypeAdapter(kind).validate_json(answer)
        except ValidationError as error:
            raise DeviceError(
                f"{self._base} answers what isn't a farm's: {error.errors()[0]['msg']}.",
                hint="Check its address, and that both sides run the same edgebuild.",
            ) from error
        return made

    def send(self, file: Path) -> str:
        """Keep a file in the farm and return its digest; one that is there isn't sent again."""
        digest = digest_file(file)
        if not self.has(digest):
            headers = {"Authorization": f"Bearer {self.address.token}", "Content-Type": "application/octet-stream"}
            status, answer = self._exchange("PUT", f"/api/blobs/{digest}", _chunks(file), headers)
            if status >= 400:
                raise problem_of(status, answer, self._base)
        return digest

    def has(self, digest: str) -> bool:
        """Whether the farm has a file."""
        headers = {"Authorization": f"Bearer {self.address.token}"}
        status, _ = self._exchange("HEAD", f"/api/blobs/{digest}", None, headers)
        if status not in {204, 404}:
            raise problem_of(status, b"", self._base)
        return status == 204

    def fetch(self, digest: str, destination: Path) -> None:
        """Write a file of the farm to ``destination``, whole or not at all; raises ``DataError`` for a damaged one."""
        self._download(f"/api/blobs/{quote(digest)}", destination, digest)

    def download(self, path: str, destination: Path) -> None:
        """Write the answer to a request to ``destination``, whole or not at all."""
        self._download(path, destination, None)

    def _download(self, path: str, destination: Path, digest: str | None) -> None:
        import urllib3

        partial = destination.with_name(destination.name + ".part")
        try:
            answer = self._pool.request("GET", self._base + path, preload_content=False)
            with contextlib.closing(answer):
                if answer.status >= 400:
                    raise problem_of(answer.status, answer.read(1 << 16), self._base)
                with partial.open("wb") as file:
                    for chunk in answer.stream(CHUNK_BYTES):
                        file.write(chunk)
            if digest is not None and digest_file(partial) != digest:
                raise DataError(f"The file {digest} arrived damaged.", hint="Run the same command again.")
            partial.replace(destination)
        except OSError as error:
            raise UsageError(f"{destination} can't be written: {error.strerror}.", hint="Name another file.") from error
        except urllib3.exceptions.HTTPError as error:
            raise _away(self._base, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the connections back."""
        self._pool.clear()

    def _exchange(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, bytes]:
        import urllib3

        try:
            answer = self._pool.request(method, self._base + path, body=body, headers=headers, preload_content=False)
            data = answer.read(MOST_ANSWER_BYTES + 1)
            answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise _away(self._base, error) from error
        if len(data) > MOST_ANSWER_BYTES:
            raise DeviceError(f"{self._base} answers more than {MOST_ANSWER_BYTES:,} bytes.")
        return answer.status, data


def trusted(address: FarmAddress) -> SSLContext:
    """Return what checks that a server is the farm's; raises ``EnvironmentGap`` for an authority that can't be read."""
    import ssl

    try:
        return ssl.create_default_context(cafile=address.authority or None)
    except OSError as error:
        raise EnvironmentGap(
            f"The farm's authority {address.authority} can't be read: {error.strerror}.",
            hint="Copy ca.pem from the farm's folder; `edgebuild farm serve` says where it is.",
        ) from error


def _encoded(body: Any) -> bytes:
    plain = body.model_dump(mode="json") if hasattr(body, "model_dump") else body
    return json.dumps(plain, allow_nan=False).encode()


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            yield chunk


def problem_of(status: int, answer: bytes, base: str) -> EdgebuildError:
    """Return the error that an answer with this status is."""
    try:
        problem = Problem.model_validate_json(answer)
    except ValidationError:
        problem = Problem(message=f"{base} answers {status}")
    if status in {429, 502, 503, 504}:
        return FarmAway(problem.message, hint=problem.hint)
    if status in {401, 403}:
        hint = problem.hint or "Set EDGEBUILD_FARM_TOKEN to a token that allows it."
        return EnvironmentGap(problem.message, hint=hint)
    return UsageError(problem.message, hint=problem.hint) if status < 500 else DeviceError(problem.message)


def _away(base: str, error: Exception) -> FarmAway:
    reason = str(getattr(error, "reason", error)).split("(Caused by")[0]
    hint = "Check that it runs and can be reached."
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "Its certificate isn't of the authority that you trust: set EDGEBUILD_FARM_CA to the farm's ca.pem."
    return FarmAway(f"The farm {base} can't be reached: {reason[:300]}.", hint=hint)
