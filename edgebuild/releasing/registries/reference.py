"""How a release is named: ``registry.example:5000/doors:1.4.0``, or a folder, ``/share/doors:1.4.0``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgebuild.errors import UsageError

_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(f"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FOLDER = ("/", "./", "../", "~", "oci:")
_MAX_NAME = 255
_HINT = "Write REGISTRY/NAME:TAG, as in registry.example/doors:1.4.0, or a folder, as in ./releases:1.4.0."


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A release by tag or digest, or its repository alone where both are missing.

    ``host`` is empty where ``repository`` is a folder.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def where(self) -> str:
        """The repository as the user writes it."""
        return f"{self.host}/{self.repository}" if self.host else self.repository

    @property
    def name(self) -> str:
        """What is asked for: the digest where there is one, otherwise the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.where}{tag}{'@' if self.digest else ''}{self.digest}"


def parse_reference(text: str) -> Reference:
    """Return what a text names; raises ``UsageError`` that says what is wrong with it.

    A text that begins with ``/``, ``./``, ``../``, ``~`` or ``oci:`` is a folder; otherwise what stands before the
    first slash is always the registry, so that no registry is ever chosen for the user.
    """
    if "://" in text:
        raise UsageError(f"{text!r} is a URL, and a release is named without one.", hint=_HINT)
    place, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(
            f"{text!r} names no digest after the @.", hint="Write sha256: and 64 digits in lower-case hex."
        )
    if place in (".", "..") or place.startswith(_FOLDER):
        folder, tag = _without_tag(place.removeprefix("oci:"))
        return Reference(host="", repository=folder, tag=tag, digest=digest)
    host, slash, rest = place.partition("/")
    repository, tag = _without_tag(rest)
    if not slash or not _HOST.fullmatch(host):
        raise UsageError(f"{text!r} names no registry before its first slash.", hint=_HINT)
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _MAX_NAME:
        raise UsageError(
            f"{repository!r} can't be the name of a repository.",
            hint="Use lower-case letters, digits and single . _ or - between them, with slashes between parts.",
        )
    return Reference(host=host, repository=repository, tag=tag, digest=digest)


def require_tag(tag: str) -> str:
    """Return a tag; raises ``UsageError`` for what can't be one."""
    if not is_tag(tag) or is_fallback_tag(tag):
        raise UsageError(
            f"{tag!r} can't be a tag.", hint="A tag is up to 128 letters, digits and . _ -, and begins with no . or -."
        )
    return tag


def is_tag(text: str) -> bool:
    """Whether registries take a text as a tag."""
    return _TAG.fullmatch(text) is not None


def fallback_tag(digest: str) -> str:
    """Return the tag under which registries without the referrers API list what refers to a digest."""
    return digest.replace(":", "-", 1)


def is_fallback_tag(tag: str) -> bool:
    """Whether a tag is one of those, and so no release's."""
    return re.fullmatch("sha256-[0-9a-f]{64}", tag) is not None


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by its name alone."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_tag(place: str) -> tuple[str, str]:
    before, colon, tag = place.rpartition(":")
    if not colon or "/" in tag:
        return place, ""
    return before, require_tag(tag)
