"""What the emulator is made of, and whether it can be made here. Pure over what was found of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.values import digest_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Raised when the recipe changes what is made.
VERSION = 1
DEBIAN = "debian"
GUEST_ARCH = "arm64"
#: Debian's packages for the guest, in addition to its Python; nothing else is linked by Python, numpy and onnxruntime.
GUEST_LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8")
QEMU = "qemu-user"
#: What the runtime needs in the guest's Python. Only ``onnxruntime`` is held to the host's version.
RUNTIME = "onnxruntime"
WHEELS = ("numpy", RUNTIME, "protobuf", "flatbuffers", "packaging")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
NEEDED_TOOLS = ("apt-get", "apt-cache", "dpkg-deb", "dpkg-query")


@dataclass(frozen=True, kw_only=True)
class Host:
    """What was found of this machine. ``tools`` holds those of ``NEEDED_TOOLS`` (and ``pip``) that it lacks."""

    arch: str
    distribution: str
    codename: str
    missing: tuple[str, ...]
    runtime: str | None

    @property
    def key(self) -> str:
        """The name of the folder that the emulator for such a machine lies in."""
        return digest_json([VERSION, self.arch, self.codename, self.runtime or "newest"])[:16]


def refusal(host: Host) -> str | None:
    """Return in one sentence why the emulator can't be set up on this machine, or None."""
    if host.distribution != DEBIAN:
        return f"The emulator is put together from Debian's packages, and this system is {host.distribution}."
    if host.arch != "x86_64":
        return f"The emulator is for x86-64 machines, and this one is {host.arch}."
    if host.missing:
        return f"The emulator is set up with {', '.join(host.missing)}, which this system lacks."
    return None


def guest_packages(python: str) -> tuple[str, ...]:
    """Return the Debian packages that are the guest's whole system; ``python`` is such as ``3.11``."""
    return (*GUEST_LIBRARIES, f"python{python}-minimal", f"libpython{python}-minimal", f"libpython{python}-stdlib")


def wheels(host: Host) -> tuple[str, ...]:
    """Return what pip is asked for."""
    return tuple(f"{name}=={host.runtime}" if name == RUNTIME and host.runtime else name for name in WHEELS)


def python_of(shown: str) -> str | None:
    """Return the Python of a release, such as ``3.11``, from ``apt-cache show python3-minimal``."""
    found = re.search(r"^Version: (\d+\.\d+)\.", shown, re.MULTILINE)
    return found[1] if found else None


def libraries_to_fetch(closure: str, installed: Iterable[str]) -> tuple[str, ...]:
    """Return those packages of ``apt-cache depends --recurse`` that this machine lacks, in order.

    ``installed`` are names without an architecture. The C library always comes from the machine itself.
    """
    have = set(installed) | {"libc6", "libgcc-s1", "gcc-12-base"}
    names = [line.strip() for line in closure.splitlines() if line and not line.startswith((" ", "<", "|"))]
    return tuple(name for name in dict.fromkeys(names) if name.partition(":")[0] not in have)


def sources_of(release: str, files: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return apt's source files (name, content) with nothing but Debian's archive for ``release``.

    Other archives may hold nothing for the guest's architecture, or not be reachable. ``files`` are those of
    /etc/apt, in either of its two formats.
    """
    suites = {release, f"{release}-updates", f"{release}-security", f"{release}/updates"}
    kept = []
    for name, text in files:
        if name.endswith(".sources"):
            stanzas = [s for s in re.split(r"\n\s*\n", text) if _suites(s) & suites and "enabled: no" not in s.lower()]
            content = "\n\n".join(re.sub(r"(?im)^Architectures:.*\n?", "", stanza) for stanza in stanzas)
        else:
            lines = [line for line in text.splitlines() if _one_line_suite(line) in suites]
            content = "\n".join(re.sub(r"\barch=[\w,-]+", "", line).replace("[]", "") for line in lines)
        if content.strip():
            kept.append((name, content.strip() + "\n"))
    return tuple(kept)


def _suites(stanza: str) -> set[str]:
    found = re.search(r"(?im)^Suites:(.*(?:\n[ \t].*)*)", stanza)
    return set(found[1].split()) if found else set()


def _one_line_suite(line: str) -> str:
    found = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)", line.strip())
    return found[1] if found else ""
