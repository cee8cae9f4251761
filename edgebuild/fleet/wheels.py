"""The wheels that bring a runtime to a board's Python: chosen for it, fetched here by pip, kept under a lock."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from email import message_from_bytes
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebuild.core.checked_json import read_with_digest, with_digest
from edgebuild.core.values import Value, digest_file, digest_json
from edgebuild.errors import DeviceError, EnvironmentGap, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from email.message import Message

PIP_LIMIT_S = 1800.0
#: The oldest glibc that a manylinux tag names, by architecture, and the names from before there were numbers (PEP 600).
OLDEST_GLIBC = {"x86_64": 5, "i686": 5}
OLDEST_GLIBC_ELSEWHERE = 17
NAMED_TAGS = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
#: pip reads markers on this machine; what the board's own ask for in addition is asked for by name, so many times.
MARKER_ROUNDS = 5
#: No wheel holds more files, a larger description of itself, or swells more when it is unpacked (zeros: 1,000 times).
MAX_MEMBERS = 100_000
MAX_PART_BYTES = 16 << 20
MAX_RATIO = 100
TRUSTED = "Is its index to be trusted?"
OFFLINE = "the index doesn't answer"
#: What may stand in a line of requirements: no option of pip's can be smuggled in.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}")
_WORD = re.compile(r"[a-z0-9_]{1,32}")


@dataclass(frozen=True, kw_only=True)
class BoardPython:
    """What wheels are chosen by."""

    version: tuple[int, int]
    arch: str
    glibc: tuple[int, int]
    markers: tuple[tuple[str, str], ...]
    free_bytes: int

    @classmethod
    def parse(cls, answer: Mapping[str, Any], device: str) -> BoardPython:
        """Read what a board says, as hostile; raises ``EnvironmentGap`` for a Python that no wheels are made for."""
        markers = answer.get("markers")
        try:
            major, minor = (int(part) for part in answer["version"])
            arch, free, bits = str(answer["arch"]), int(answer["free_bytes"]), int(answer["bits"])
            pairs = tuple(sorted((str(name), str(value)) for name, value in dict(markers or {}).items()))
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError(f"{device} doesn't say what its Python is.", hint="Try again.") from error
        libc = re.fullmatch(r"glibc (\d{1,3})\.(\d{1,3})(\.\d+)?", str(answer.get("libc")))
        if answer.get("implementation") != "cpython" or libc is None or bits != 64 or _WORD.fullmatch(arch) is None:
            raise EnvironmentGap(
                f"No wheels of the runtimes are made for the Python of {device}: {str(answer.get('implementation'))!r} "
                f"{major}.{minor}, {bits} bits, {arch!r}, libc {str(answer.get('libc'))!r}.",
                hint="They are made for CPython of 64 bits on a Linux with glibc; --python of `edgebuild device add` "
                "names another Python.",
            )
        return cls(
            version=(major, minor), arch=arch, glibc=(int(libc[1]), int(libc[2])), markers=pairs, free_bytes=free
        )

    def __str__(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]} on {self.arch} with glibc {self.glibc[0]}.{self.glibc[1]}"


class Wheel(Value):
    """One file that pip chose, by its digest."""

    name: str
    version: str
    file: str
    sha256: str


class Lock(Value):
    """All files that go together, in order of their names."""

    wheels: tuple[Wheel, ...]

    @property
    def site(self) -> str:
        """The digest under which a board keeps what they hold."""
        return digest_json([wheel.model_dump(mode="json") for wheel in self.wheels])


def platform_tags(arch: str, glibc: tuple[int, int]) -> tuple[str, ...]:
    """Return the platforms whose wheels run there, newest first: every glibc from the board's down (PEP 600).

    pip takes each of them by name. Another major version of glibc has no tags yet.
    """
    oldest = OLDEST_GLIBC.get(arch, OLDEST_GLIBC_ELSEWHERE)
    major, minor = glibc
    newest = minor if major == 2 else -1
    numbered = [f"manylinux_2_{number}_{arch}" for number in range(newest, oldest - 1, -1)]
    named = [f"{name}_{arch}" for name, number in NAMED_TAGS.items() if oldest <= number <= newest]
    return (*numbered, *named, f"linux_{arch}")


def choose(distributions: Sequence[str], python: BoardPython, cache: Path) -> Lock:
    """Return the wheels of the distributions and of all that they need for a board's Python, and have them here.

    They have the versions that are installed here, as far as there are wheels of them for the board, else the newest
    that pip finds. The choice is kept: the same board gets the same wheels until the versions here change. Raises
    ``EnvironmentGap`` where pip finds none.
    """
    here = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    own = {name: here[name] for name in distributions if name in here}
    about = {"arch": python.arch, "glibc": python.glibc, "python": python.version}
    kept = cache / "locks" / f"{digest_json({'distributions': sorted(distributions), 'pinned': own, **about})}.json"
    with _writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(".fetching-*"):  # by a run that was killed
            if time.time() - left.stat().st_mtime > 2 * PIP_LIMIT_S:
                shutil.rmtree(left, ignore_errors=True)
        lock = _kept_lock(kept)
        if lock is not None:
            _fetch_again(lock, python, cache)
            return lock
        said = ""
        for pinned in (here, own, {}):
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
                said = _download(distributions, pinned, python, Path(scratch))
                if not said:
                    lock = _take(Path(scratch), cache)
                    whole = Path(scratch) / "lock.json"
                    whole.write_text(with_digest(lock.model_dump(mode="json")), encoding="utf-8")
                    kept.parent.mkdir(exist_ok=True)
                    whole.replace(kept)
                    return lock
            if said.startswith(OFFLINE):
                break
    raise EnvironmentGap(
        f"pip finds no wheels of {' and '.join(distributions)} for {python}: {said}.",
        hint="Is there a runtime for that Python at all, and can this machine reach its package index?",
    )


def _kept_lock(path: Path) -> Lock | None:
    """Return a lock that was written; None where there is none or it is damaged: then wheels are chosen again."""
    try:
        return Lock.model_validate(read_with_digest(path.read_bytes()))
    except (FileNotFoundError, IsADirectoryError, ValidationError):
        return None


def places(lock: Lock, cache: Path) -> tuple[Path, ...]:
    """Return where the wheels of a lock lie here."""
    return tuple(cache / "wheels" / wheel.sha256 / wheel.file for wheel in lock.wheels)


def unpacked_bytes(wheel: Path) -> int:
    """Return what a wheel takes once it is unpacked; raises ``EnvironmentGap`` for what is no wheel, or a bomb."""
    with _opened(wheel) as archive:
        return sum(info.file_size for info in archive.infolist())


@contextlib.contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """Open a wheel that an index handed out; raises ``EnvironmentGap`` for one that is damaged or a bomb."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = archive.infolist()
            size = sum(info.file_size for info in infos)
            if len(infos) > MAX_MEMBERS or size > max(MAX_RATIO * wheel.stat().st_size, MAX_PART_BYTES):
                raise EnvironmentGap(f"{wheel.name} holds more than any wheel does.", hint=TRUSTED)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise EnvironmentGap(f"{wheel.name} is no wheel: {error}.", hint=TRUSTED) from error


def _download(wanted: Sequence[str], pinned: Mapping[str, str], python: BoardPython, into: Path) -> str:
    """Let pip choose and fetch wheels into the folder; return what it says where it can't."""
    (into / "constraints.txt").write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()))
    asked = list(wanted)
    for _ in range(MARKER_ROUNDS):
        said = _pip_download(["--constraint", str(into / "constraints.txt"), *asked], python, into)
        if said:
            return said
        more = _asked_for_there(into, dict(python.markers))
        if not more:
            return ""
        asked += more
    return "what they ask for has no end"


def _fetch_again(lock: Lock, python: BoardPython, cache: Path) -> None:
    """Bring back the wheels of a lock that are gone or damaged, by their digests."""
    wheels = zip(lock.wheels, places(lock, cache), strict=True)
    missing = [wheel for wheel, place in wheels if not place.is_file() or digest_file(place) != wheel.sha256]
    if not missing:
        return
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
        into = Path(scratch)
        lines = (f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in missing)
        (into / "lock.txt").write_text("".join(lines), encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--requirement", str(into / "lock.txt")]
        said = _pip_download(options, python, into)
        if said:
            raise EnvironmentGap(
                f"pip can't fetch the wheels for {python} again: {said}.",
                hint=f"Can this machine reach its package index? Without {cache}/locks they are chosen again.",
            )
        _take(into, cache)


def _take(scratch: Path, cache: Path) -> Lock:
    """Put every wheel of a folder under its digest in the cache."""
    found = []
    for file in sorted(scratch.glob("*.whl")):
        about = _metadata(file)
        wheel = Wheel(name=about["Name"], version=about["Version"], file=file.name, sha256=digest_file(file))
        place = cache / "wheels" / wheel.sha256 / wheel.file
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
        found.append(wheel)
    return Lock(wheels=tuple(found))


def _asked_for_there(folder: Path, markers: Mapping[str, str]) -> list[str]:
    """Return the requirements that hold on the board and that pip, looking at this machine, passed over."""
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion

    about = [_metadata(file) for file in sorted(folder.glob("*.whl"))]
    have = {canonicalize_name(each["Name"]) for each in about}
    more = set()
    for text in (text for each in about for text in each.get_all("Requires-Dist", ())):
        try:
            need = Requirement(text)
            there = need.marker is None or need.marker.evaluate({**markers, "extra": ""})
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, InvalidVersion) as error:
            raise EnvironmentGap(f"A wheel asks for {text[:200]!r}, which can't be read.", hint=TRUSTED) from error
        if there and canonicalize_name(need.name) not in have:
            more.add(f"{need.name}{need.specifier}")
    return sorted(more)


def _metadata(wheel: Path) -> Message:
    """Return what a wheel says of itself."""
    with _opened(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        data = b""
        if names:
            with archive.open(names[0]) as file:
                data = file.read(MAX_PART_BYTES + 1)
        found = message_from_bytes(data)
    known = all(_NAME.fullmatch(str(found[field] or "")) for field in ("Name", "Version"))
    if len(data) > MAX_PART_BYTES or not known:
        raise EnvironmentGap(f"{wheel.name} is no wheel: it doesn't say what it is.", hint=TRUSTED)
    return found


def _for_board(python: BoardPython) -> list[str]:
    version = f"{python.version[0]}.{python.version[1]}"
    platforms = [word for tag in platform_tags(python.arch, python.glibc) for word in ("--platform", tag)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *platforms]


def _pip_download(options: Sequence[str], python: BoardPython, into: Path) -> str:
    """Run this Python's pip with the user's own settings (index, certificates, proxy); return its complaint if any.

    What it fetches it holds against the digests of the index.
    """
    # Not by every finder: setuptools has one that warns where distutils was imported before.
    if PathFinder.find_spec("pip") is None:
        raise EnvironmentGap(
            "pip is not installed for this Python, and it is what fetches wheels for boards.",
            hint=f"{sys.executable} -m ensurepip installs it.",
        )
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(
            [*words, "--dest", str(into), *_for_board(python), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentGap(f"pip took longer than {PIP_LIMIT_S:g} s and was stopped.", hint="Try again.") from error
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = (errors or lines or ["it doesn't say why"])[-1].rstrip(".")
    return f"{OFFLINE}; {said}" if "Retrying (" in done.stderr else said


class _writing:  # noqa: N801  a with-block, not a type
    """Turns a cache that can't be written into a sentence."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StoreError(
                f"Can't write {self._cache}: {error.strerror or error}.", hint="XDG_CACHE_HOME names another place."
            ) from error
