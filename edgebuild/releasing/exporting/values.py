"""What an export is asked for, and the rules for the words that end up in formats with a syntax of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.bundle import require_version

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.releasing.bundle import Bundle, TargetPart

#: No quotes, blanks, globs or separators: such words need no escaping in any shell or format.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FOLDER = re.compile(r"(/[A-Za-z0-9._-]{1,128}){2,32}")
#: Where systems keep themselves, and where the second level is still everybody's.
_SYSTEM = frozenset({"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "usr"})
_SHARED = frozenset({"home", "var"})


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One target of a bundle, and what the user said of the export; None where nothing was said.

    ``device_type`` is what the tool calls the device, ``dest`` the folder on it; with ``whole`` all targets go along;
    ``cert`` and ``key`` sign.
    """

    bundle: Bundle
    part: TargetPart
    name: str | None = None
    device_type: str | None = None
    dest: str | None = None
    whole: bool = False
    cert: Path | None = None
    key: Path | None = None

    @property
    def called(self) -> str:
        """The name that the export has with the tool; default: the project. Raises ``UsageError``."""
        return _word(self.name or self.bundle.project, "name", "--name")

    @property
    def board(self) -> str:
        """What the tool calls the device; default: the target. Raises ``UsageError``."""
        return _word(self.device_type or self.part.release.target, "device type", "--device-type")

    @property
    def version(self) -> str:
        """The release's version. Raises ``UsageError`` for one that was made up."""
        return require_version(self.bundle.version)

    @property
    def folder(self) -> str:
        """The absolute folder on the device. Raises ``UsageError`` for one whose loss would hurt, or with odd names."""
        found = self.dest or f"/data/edgebuild/{self.called}"
        parts = found.split("/")[1:] or [""]
        lost = parts[0] in _SYSTEM or (parts[0] in _SHARED and len(parts) < 3) or {".", ".."} & set(parts)
        if lost or not _FOLDER.fullmatch(found):
            raise UsageError(
                f"{found!r} can't be the folder on the device.",
                hint="Name a folder of its own such as /data/edgebuild/doors: absolute, at least two levels deep, "
                "of letters, digits, dots, dashes and underscores. What lies in it may be removed.",
            )
        return found


def _word(text: str, what: str, option: str) -> str:
    if not _WORD.fullmatch(text):
        raise UsageError(
            f"{text!r} can't be the {what} of an export.",
            hint=f"Name one with {option}: letters, digits, dots, dashes and underscores, at most 128.",
        )
    return text


def strange(what: str) -> ReleaseError:
    """Return the error for a bundle that says what no release of ours says."""
    return ReleaseError(what, hint="It wasn't made by `edgebuild release create`.")
