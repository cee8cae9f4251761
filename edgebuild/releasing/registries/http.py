"""One registry over HTTP: verified TLS, bounded answers, and credentials that go to no other host.

Plain HTTP is spoken with this machine, and with others only where the user said so. An answer of HTTPS that leads to
plain HTTP is refused. Credentials are sent to the registry, and to the place that it names for tokens, as the
distribution specification has it; where a redirect leads elsewhere they stay behind.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin
from urllib.request import getproxies, parse_http_list, parse_keqv_list, proxy_bypass

from edgebuild.core.steps import never_stop
from edgebuild.errors import EdgebuildError, EnvironmentGap, ReleaseError
from edgebuild.releasing.registries.credentials import PASSWORD, USER, Credentials
from edgebuild.releasing.registries.reference import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from urllib3 import BaseHTTPResponse, PoolManager

TRIES = 5
MAX_REDIRECTS = 5
#: A registry that asks for more patience than that is left alone.
MAX_WAIT_S = 60.0
#: Nothing larger is read of what says why something failed, or of a token.
MAX_WORDS_BYTES = 1 << 16
_CONNECT_S, _READ_S = 10.0, 60.0
_SENT_AT_ONCE_BYTES = 1 << 18
_FOR_EVER_S = 1_000_000_000
_BUSY = frozenset({429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Unavailable(EnvironmentGap):
    """A registry that is busy or out of reach: the same may work later. ``asked`` is its Retry-After."""

    def __init__(self, message: str, *, hint: str = "", asked: str = "") -> None:
        super().__init__(message, hint=hint)
        self.asked = asked


class Http:
    """Requests to one registry. ``check`` is called between tries, and may raise to stop."""

    def __init__(
        self,
        host: str,
        *,
        plain: bool | None = None,
        credentials: Credentials | None = None,
        check: Callable[[], None] = never_stop,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``plain`` is whether HTTP is spoken without TLS; None means with this machine only."""
        self.host = host
        self._plain = is_loopback(host) if plain is None else plain
        self.origin = f"{'http' if self._plain else 'https'}://{host}"
        self._credentials = credentials
        self._check = check
        self._sleep = sleep
        self._authorization = ""
        self._pools = _pools(host, self.origin)

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        expected: tuple[int, ...] = (200,),
        tries: int = TRIES,
    ) -> Iterator[BaseHTTPResponse]:
        """Send a request and hand out its answer, the body unread; it is closed afterwards.

        ``url`` may be relative to the registry. ``body`` makes the body, again for each try: a busy registry is asked
        again after as long as it says, a broken connection is tried anew, ``tries`` times in all. Raises
        ``ReleaseError`` for every status that isn't ``expected``.
        """
        response = self._answer(method, self._joined(self.origin, url), dict(headers or {}), body, tries)
        try:
            if response.status not in expected:
                raise self._refused(method, url, response)
            yield response
        finally:
            _finish(response)

    def broken(self, doing: str, error: Exception) -> Unavailable:
        """Return the error of a connection that didn't hold."""
        return Unavailable(
            f"{doing} {self.host} failed: {_words(error)}.",
            hint="Try again: what has arrived is kept. Where the registry has no TLS, say so on purpose.",
        )

    def wait(self, attempt: int, asked: str = "") -> None:
        """Wait before the next try, as long as a registry asks; raises ``ReleaseError`` where that is too long."""
        seconds = float(1 << attempt) / 2
        with suppress(ValueError):  # nothing, or a date: the default serves
            seconds = float(min(max(0, int(asked)), _FOR_EVER_S))
        if seconds > MAX_WAIT_S:
            raise ReleaseError(f"{self.host} is busy and asks to come back in {seconds:,.0f} s.", hint="Try then.")
        self._check()
        self._sleep(seconds)
        self._check()

    def _answer(
        self, method: str, url: str, headers: dict[str, str], body: Callable[[], Any] | None, tries: int
    ) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError, LocationValueError, SSLError

        attempt, asked_again = 0, False
        while True:
            try:
                response = self._followed(method, url, headers, body)
            except HTTPError as error:
                if attempt >= tries - 1 or isinstance(error, SSLError | LocationValueError):
                    raise self.broken(f"{method} to", error) from error
                self.wait(attempt)
                attempt += 1
                continue
            if response.status == 401 and not asked_again and self._authenticate(response):
                asked_again = True
            elif response.status in _BUSY and attempt < tries - 1:
                self.wait(attempt, response.headers.get("Retry-After", ""))
                attempt += 1
            else:
                return response
            _finish(response)

    def _followed(
        self, method: str, url: str, headers: dict[str, str], body: Callable[[], Any] | None
    ) -> BaseHTTPResponse:
        """Send a request; follow where reading is sent elsewhere."""
        for _ in range(MAX_REDIRECTS + 1):
            sent = {"Accept-Encoding": "identity", "User-Agent": "edgebuild", **headers}
            if self._authorization and _origin(url) == _origin(self.origin):
                sent["Authorization"] = self._authorization
            response = self._send(method, url, sent, body() if body else None)
            target = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD") or not target:
                return response
            response.close()
            url = self._joined(url, target)
        raise ReleaseError(f"{self.host} sends a request round in circles.", hint="Ask whoever runs it.")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Any = None) -> BaseHTTPResponse:
        self._require_safe(url)
        return self._pools.request(
            method, url, headers=headers, body=body, preload_content=False, decode_content=False, redirect=False
        )

    def _require_safe(self, url: str) -> None:
        scheme, name, _ = origin = _origin(url)
        local = is_loopback(self.host) and is_loopback(f"[{name}]" if ":" in name else name)
        ours = self._plain and (local or origin == _origin(self.origin))
        if scheme != "https" and not (scheme == "http" and ours):
            raise ReleaseError(
                f"{self.host} leads to {scheme}://{name}, which isn't followed.",
                hint="Only HTTPS is; plain HTTP only to this machine, or to a registry that was named as such.",
            )

    def _joined(self, base: str, url: str) -> str:
        try:
            return urljoin(base, url)
        except ValueError as error:
            raise ReleaseError(f"{self.host} leads to what is no address.", hint="Ask whoever runs it.") from error

    def _authenticate(self, response: BaseHTTPResponse) -> bool:
        """Get what the registry asks for; False where it asks for nothing that there is."""
        for challenge in response.headers.getlist("WWW-Authenticate"):
            kind, _, rest = challenge.partition(" ")
            if kind.lower() == "basic" and self._credentials:
                given, self._authorization = self._authorization, self._credentials.basic()
                return given != self._authorization
            if kind.lower() == "bearer":
                try:
                    said = parse_keqv_list(parse_http_list(rest))
                except ValueError:
                    continue
                if token := self._token(said):
                    self._authorization = f"Bearer {token}"
                    return True
        return False

    def _token(self, said: Mapping[str, str]) -> str:
        from urllib3.exceptions import HTTPError

        url = self._joined(self.origin, said.get("realm", ""))
        query = urlencode([(name, said[name]) for name in ("service", "scope") if name in said])
        headers = {"Authorization": self._credentials.basic()} if self._credentials else {}
        try:
            response = self._send("GET", f"{url}{'&' if '?' in url else '?'}{query}", headers)
        except HTTPError as error:
            raise self.broken("Logging in to", error) from error
        try:
            found = json.loads(response.read(MAX_WORDS_BYTES)) if response.status == 200 else {}
            token = found.get("token") or found.get("access_token")
            return token if isinstance(token, str) and token.isascii() and token.isprintable() else ""
        except (HTTPError, ValueError, AttributeError, RecursionError):
            return ""
        finally:
            response.close()

    def _refused(self, method: str, url: str, response: BaseHTTPResponse) -> EdgebuildError:
        # Without a query, which may hold a token.
        what = f"{method} {_printable(url.partition('?')[0])} at {self.host}"
        if response.status in (401, 403):
            known = "doesn't take these credentials" if self._credentials else "asks for credentials"
            return ReleaseError(
                f"{what} was refused ({response.status}): the registry {known}.",
                hint=f"Log in with `docker login {self.host}`, or set {USER} and {PASSWORD}. Credential helpers "
                "aren't read.",
            )
        said = _said(response)
        message = f"{what} was answered with {response.status}{f': {said}' if said else ''}."
        if response.status in _BUSY:
            return Unavailable(message, hint="Try again later.", asked=response.headers.get("Retry-After", ""))
        return ReleaseError(message, hint="Check the reference and the registry; what was sent so far is kept.")


def _pools(host: str, origin: str) -> PoolManager:
    try:
        import urllib3
    except ImportError as error:
        raise EnvironmentGap(
            "Registries need the package urllib3.", hint="Install it: pip install 'edgebuild[release]'."
        ) from error

    settings: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
        "retries": False,
        "blocksize": _SENT_AT_ONCE_BYTES,
    }
    proxy = None
    if not is_loopback(host) and not proxy_bypass(host):
        proxy = getproxies().get(origin.partition(":")[0])
    return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)


def _origin(url: str) -> tuple[str, str, int]:
    """Return where a URL leads, in the words of the parser that connects to it."""
    from urllib3.util import parse_url

    parts = parse_url(url)
    scheme = parts.scheme or ""
    return scheme, (parts.host or "").lower().strip("[]"), parts.port or (443 if scheme == "https" else 80)


def _words(error: Exception) -> str:
    """Return what happened without the URL, which may hold a token."""
    from urllib3 import exceptions

    known: tuple[tuple[type[Exception], str], ...] = (
        (exceptions.NameResolutionError, "there is no such host"),
        (exceptions.LocationValueError, "it leads to what is no address"),
        (exceptions.SSLError, "the TLS certificate isn't trusted, or there is no TLS"),
        (exceptions.ProxyError, "the proxy can't be used"),
        (exceptions.NewConnectionError, "the connection was refused"),
        (exceptions.ConnectTimeoutError, "it doesn't answer"),
        (exceptions.ReadTimeoutError, "it stopped answering"),
    )
    return next((words for kind, words in known if isinstance(error, kind)), "the connection broke off")


def _finish(response: BaseHTTPResponse) -> None:
    """Let go of an answer; its connection serves again where next to nothing of it is left."""
    from urllib3.exceptions import HTTPError

    with suppress(HTTPError):
        if response.length_remaining is not None and response.length_remaining <= MAX_WORDS_BYTES:
            response.read(MAX_WORDS_BYTES)
    response.close()


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:200]


def _said(response: BaseHTTPResponse) -> str:
    """Return the registry's own words for a failure, one short line of plain characters."""
    with suppress(Exception):  # they explain an error that is raised anyway
        errors = json.loads(response.read(MAX_WORDS_BYTES))["errors"]
        return _printable(f"{errors[0].get('code', '')} {errors[0].get('message', '')}".strip())
    return ""
