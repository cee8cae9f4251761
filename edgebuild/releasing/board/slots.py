"""Installs releases into slots under one folder, and never leaves it without a whole one that was installed before.

::

    blobs/sha256/<hex>        what was installed, by digest
    releases/<16 digits>/     the files of one target of one release: hard links of blobs
    releases/<16 digits>.json its manifest, whose digest begins with these digits
    current, previous         links to a slot; each is switched by one rename
    tmp/                      what is half made

Everything is made in ``tmp``, written to the disk and then renamed; the next command removes what it finds there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Tuple

from .documents import CHUNK_BYTES, LACKING, MAX_JSON_BYTES, USAGE, Blob, Problem, digest_of, open_plain
from .reading import BLOBS, RELEASE_FILE, Bundle, Target, release_of, target_files
from .running import Source, link_or_copy

MARKER = ".edgebuild-releases"
MARKER_TEXT = b"The releases that verify.py installed here. It alone writes in this folder.\n"
RELEASES, TEMPORARY, CURRENT, PREVIOUS = "releases", "tmp", "current", "previous"
NAME_DIGITS = 16
_VERSION = re.compile(r"v?(\d{1,18}(?:\.\d{1,18})*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


class Slot(NamedTuple):
    """One installed release: its name, where its files lie, and what it is."""

    name: str
    folder: Path
    target: Target

    @property
    def source(self) -> Source:
        """Where its files lie."""
        return Source(self.target, {path: self.folder / path for path in self.target.files})

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.target.release["version"])


def version_key(version: str) -> Tuple[Any, ...]:
    """Return what versions are compared by: numbers with dots between; one with a suffix comes before one without.

    Versions of another form come before all others, and are compared as texts.
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        return (0, version)
    numbers = [int(number) for number in found.group(1).split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    suffix = found.group(2)
    parts = suffix.split(".") if suffix else []
    ordered = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
    return (1, tuple(numbers), suffix is None, ordered)


class Slots:
    """The folder of releases, locked for as long as it is open for writing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.releases = root / RELEASES
        self.blobs = root / BLOBS
        self.temporary = root / TEMPORARY

    # What is there

    def pointed(self, link: str) -> str:
        """Return the name of the slot that ``current`` or ``previous`` leads to, or nothing."""
        try:
            to = os.readlink(str(self.root / link))
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise Problem("%s is no link of ours." % (self.root / link), "Remove it.") from error
        name = to[len(RELEASES) + 1 :]
        if to != "%s/%s" % (RELEASES, name) or not is_slot_name(name):
            raise Problem("%s leads to %s, which is no slot." % (self.root / link, to), "Remove it.")
        return name

    def names(self) -> List[str]:
        """Return the slots that have both their files and their manifest."""
        if not self.releases.is_dir():
            return []
        there = {entry.name for entry in self.releases.iterdir()}
        return sorted(name for name in there if is_slot_name(name) and name + ".json" in there)

    def slot(self, name: str) -> Slot:
        """Return a slot; raises where its manifest or release.json is damaged."""
        path = self.releases / (name + ".json")
        try:
            with open_plain(path) as file:
                data = file.read(MAX_JSON_BYTES + 1)
            digest = hashlib.sha256(data).hexdigest()
            if digest[:NAME_DIGITS] != name:
                raise Problem("%s was damaged: it isn't what its name says." % path, "Install the release again.")
            _, files = target_files(data, str(path))
            folder = self.releases / name
            found = Source(
                Target("", Blob("", digest, len(data), {}), files, {}), {RELEASE_FILE: folder / RELEASE_FILE}
            )
            release = release_of(found.read(RELEASE_FILE, MAX_JSON_BYTES), files)
        except OSError as error:
            raise Problem("%s can't be read: %s." % (path, error.strerror or error), "Install it again.") from error
        return Slot(name, folder, Target(release["target"], found.target.manifest, files, release))

    def damage(self, slot: Slot) -> List[str]:
        """Return the paths in a slot that are missing, changed, or not the release's; every byte is read."""
        if slot.folder.is_symlink():
            return sorted(slot.target.files)  # whatever lies behind a link isn't ours
        found = set()
        for path, blob in slot.target.files.items():
            found.add(path)
            with contextlib.suppress(OSError):
                if digest_of(slot.folder / path, blob.size) == blob.sha256:
                    found.remove(path)
        for parent, folders, names in os.walk(str(slot.folder)):
            for place in (Path(parent, name) for name in folders + names):
                relative = place.relative_to(slot.folder).as_posix()
                if not stat.S_ISDIR(place.lstat().st_mode) and relative not in slot.target.files:
                    found.add(relative)
        return sorted(found)

    # What is made

    def add(self, bundle: Bundle, target: Target) -> Slot:
        """Put a target of a bundle into a slot, every byte of it checked on its way and written to the disk."""
        name = target.manifest.sha256[:NAME_DIGITS]
        for blob in {each.sha256: each for each in (*target.files.values(), target.manifest)}.values():
            self._add_blob(bundle.path(blob), blob)
        sync(self.blobs)
        if name in self.names() and name in (self.pointed(CURRENT), self.pointed(PREVIOUS)):
            self._repair(name, target)
        elif name not in self.names() or self.broken(name):
            self.remove(name)
            self._build(name, target)
        return self.slot(name)

    def broken(self, name: str) -> bool:
        """Whether a slot is damaged, or can't be read."""
        try:
            return bool(self.damage(self.slot(name)))
        except Problem:
            return True

    def _add_blob(self, source: Path, blob: Blob) -> None:
        place = self.blobs / blob.sha256
        with contextlib.suppress(OSError):
            if digest_of(place, blob.size) == blob.sha256:
                return
        new = self.temporary / "blob"
        hasher = hashlib.sha256()
        with open_plain(source) as file, new.open("wb") as out:
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                hasher.update(chunk)
                out.write(chunk)
            out.flush()
            os.fchmod(out.fileno(), 0o444)
            os.fsync(out.fileno())
        if hasher.hexdigest() != blob.sha256:
            raise Problem(
                "%s changed while it was installed." % source, "Install it from a folder that nobody writes to."
            )
        new.rename(place)

    def _build(self, name: str, target: Target) -> None:
        new = self.temporary / "slot"
        for path, blob in target.files.items():
            place = new / path
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(self.blobs / blob.sha256, place)
            sync(place)
        for parent, _, _ in os.walk(str(new), topdown=False):
            sync(Path(parent))
        self._link(self.blobs / target.manifest.sha256, self.releases / (name + ".json"))
        new.rename(self.releases / name)
        sync(self.releases)

    def _repair(self, name: str, target: Target) -> None:
        """Put a slot in use right, file by file, so that what was right in it never isn't."""
        self._link(self.blobs / target.manifest.sha256, self.releases / (name + ".json"))
        slot = Slot(name, self.releases / name, target)
        if slot.folder.is_symlink() or not slot.folder.is_dir():
            slot.folder.unlink()
            slot.folder.mkdir()
        for path in self.damage(slot):
            if path not in target.files:
                (slot.folder / path).unlink()
        # Asked again: what lay behind a link to another folder is missing now.
        for path in self.damage(slot):
            place = slot.folder / path
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(str(place))
            place.parent.mkdir(parents=True, exist_ok=True)
            self._link(self.blobs / target.files[path].sha256, place)
            sync(place.parent)

    def _link(self, source: Path, place: Path) -> None:
        new = self.temporary / "link"
        link_or_copy(source, new)
        sync(new)
        os.replace(str(new), str(place))
        with contextlib.suppress(FileNotFoundError):
            new.unlink()  # rename(2) leaves a link where both are the same file already

    def point(self, link: str, name: str) -> None:
        """Have ``current`` or ``previous`` lead to a slot, or to none, from one moment to the next."""
        if not name:
            with contextlib.suppress(FileNotFoundError):
                (self.root / link).unlink()
        else:
            new = self.temporary / link
            new.symlink_to("%s/%s" % (RELEASES, name))
            os.replace(str(new), str(self.root / link))
        sync(self.root)

    # What is removed

    def remove(self, name: str) -> None:
        """Remove a slot that nothing leads to."""
        with contextlib.suppress(FileNotFoundError):
            (self.releases / (name + ".json")).unlink()
        with contextlib.suppress(FileNotFoundError):
            (self.releases / name).rename(self.temporary / name)
            sync(self.releases)
            shutil.rmtree(str(self.temporary / name), ignore_errors=True)

    def clear(self) -> None:
        """Remove what is half made."""
        for each in self.temporary.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(str(each), ignore_errors=True)
            else:
                each.unlink()

    def tidy(self) -> None:
        """Remove what was left half made, and see to it that ``previous`` isn't ``current``."""
        self.clear()
        current, previous, whole = self.pointed(CURRENT), self.pointed(PREVIOUS), self.names()
        for entry in list(self.releases.iterdir()):
            name = entry.name[:NAME_DIGITS]
            if name not in whole and name not in (current, previous) and is_slot_name(name):
                self.remove(name)
        if previous == current or previous not in whole:
            self.point(PREVIOUS, self.fallback(current) if current else "")

    def fallback(self, *others: str) -> str:
        """Return the newest whole slot besides others, or nothing."""
        names = (name for name in reversed(self._by_version()) if name not in others and not self.broken(name))
        return next(names, "")

    def collect(self, keep: int) -> List[str]:
        """Keep the newest releases by version, and the two that are pointed at; return the names of what went."""
        kept = {self.pointed(CURRENT), self.pointed(PREVIOUS)}
        kept.update(self._by_version()[-keep:])
        gone = [name for name in self.names() if name not in kept]
        for name in gone:
            self.remove(name)
        self.sweep()
        return gone

    def sweep(self) -> None:
        """Remove the blobs that no slot has."""
        for blob in list(self.blobs.iterdir()):
            if blob.lstat().st_nlink == 1:
                blob.unlink()

    def _by_version(self) -> List[str]:
        """Return the names of the slots that can be read, the newest version last."""
        found = []
        for name in self.names():
            with contextlib.suppress(Problem):
                found.append((version_key(self.slot(name).version), name))
        return [name for _, name in sorted(found)]


def is_slot_name(name: str) -> bool:
    """Whether it can be the name of a slot."""
    return len(name) == NAME_DIGITS and set(name) <= set("0123456789abcdef")


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    handle = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_everybodys(root: Path) -> bool:
    """Whether a folder is no place for releases, whatever lies there."""
    try:
        return root in (Path("/"), Path.home().resolve())
    except RuntimeError:  # a user without a home
        return root == Path("/")


def root_of(folder: str) -> Path:
    """Return the folder that --root names; raises where it names none, or one that is no place for releases."""
    if not folder.strip():
        raise Problem("--root is empty: it names no folder.", "Name the folder of the installed releases.", USAGE)
    root = Path(folder).resolve()
    if is_everybodys(root):
        raise Problem("%s is no place for releases." % root, "Name a folder of its own with --root.", USAGE)
    return root


def marker_in(root: Path) -> bytes:
    """Return what the marker of a folder holds; raises where there is none, or it is no plain file."""
    try:
        with open_plain(root / MARKER) as file:
            data: bytes = file.read(len(MARKER_TEXT) + 1)
    except OSError as error:
        message = "Nothing was installed in %s: it has no %s of ours." % (root, MARKER)
        raise Problem(message, "Check --root.", USAGE) from error
    return data


def slots_in(folder: str) -> Slots:
    """Return the slots in a folder that is ours; raises for any other one. Nothing is written."""
    root = root_of(folder)
    if marker_in(root) != MARKER_TEXT:
        raise Problem("%s isn't ours: its %s says something else." % (root, MARKER), "Check --root.", USAGE)
    slots = Slots(root)
    for each in (slots.blobs.parent, slots.blobs, slots.releases, slots.temporary):
        if os.path.lexists(str(each)) and not stat.S_ISDIR(each.lstat().st_mode):
            message = "%s is no folder of ours, but a link or a file." % each
            raise Problem(message, "Look at what put it there, and remove it.")
    return slots


def mark(root: Path) -> None:
    """Make an empty folder ours; one with a marker that was cut short, as a power cut leaves it, is empty too."""
    root.mkdir(parents=True, exist_ok=True)
    names = os.listdir(str(root))
    if not names or (names == [MARKER] and MARKER_TEXT.startswith(marker_in(root))):
        with (root / MARKER).open("wb") as file:
            file.write(MARKER_TEXT)
            file.flush()
            os.fsync(file.fileno())
        sync(root.parent)


@contextlib.contextmanager
def opened_slots(folder: str, new: bool = False) -> Iterator[Slots]:
    """Yield the slots in a folder for writing, alone and tidied; with ``new`` it is made where there is none."""
    root = root_of(folder)
    if new:
        mark(root)
    slots = slots_in(folder)
    handle = os.open(str(root / MARKER), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Problem("Another command works in %s." % root, "Wait until it has ended.", LACKING) from error
        for each in (slots.blobs, slots.releases, slots.temporary):
            each.mkdir(parents=True, exist_ok=True)
        sync(root)
        slots.tidy()
        yield slots
    finally:
        os.close(handle)
