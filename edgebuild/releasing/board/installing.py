"""Switches to a release once it answered right in its slot, and back where it doesn't any more."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Dict, Tuple

from .documents import Problem, named
from .reading import Bundle, Target
from .running import How, Runner, require_right_answers
from .slots import CURRENT, NAME_DIGITS, PREVIOUS, Slot, Slots, version_key


def health(slots: Slots, slot: Slot, how: How) -> None:
    """Raise unless a slot is whole and answers its golden vectors right, in the real runtime."""
    damaged = slots.damage(slot)
    if damaged:
        raise Problem("%s was damaged: %s." % (slot.folder, named(damaged)), "Install the release again.")
    with tempfile.TemporaryDirectory(dir=str(slots.temporary)) as scratch:
        require_right_answers(slot.source, Runner(slot.source, how, Path(scratch)))


def install(slots: Slots, bundle: Bundle, target: Target, how: How, allow_downgrade: bool) -> Slot:
    """Make a target of a bundle the current release; raises, with the current one as it was, unless it answers right.

    It is checked in its slot before the switch and again after it.
    """
    before = slots.pointed(CURRENT), slots.pointed(PREVIOUS)
    _require_newer(slots, target, allow_downgrade)
    known = slots.names()
    name = target.manifest.sha256[:NAME_DIGITS]
    try:
        slot = slots.add(bundle, target)
        health(slots, slot, how)
        if name != before[0]:
            switch(slots, name)
            health(slots, slots.slot(slots.pointed(CURRENT)), how)
    except BaseException:
        slots.clear()  # first of all: a full disk has no room for what follows
        restore(slots, before)
        if name not in known and name not in before:
            slots.remove(name)
        slots.sweep()
        raise
    return slot


def switch(slots: Slots, name: str) -> None:
    """Make a slot the current one, and the current one the previous: a whole one, since one rolls back to it."""
    current = slots.pointed(CURRENT)
    if current and not slots.broken(current):
        slots.point(PREVIOUS, current)
    elif slots.pointed(PREVIOUS) == name:
        slots.point(PREVIOUS, slots.fallback(name, current))
    slots.point(CURRENT, name)


def restore(slots: Slots, before: Tuple[str, str]) -> None:
    """Have both links lead to where they led; nothing is written where they do."""
    for link, name in zip((CURRENT, PREVIOUS), before):
        if slots.pointed(link) != name:
            slots.point(link, name)


def _require_newer(slots: Slots, target: Target, allow_downgrade: bool) -> None:
    current = slots.pointed(CURRENT)
    if not current:
        return
    try:
        installed = slots.slot(current)
    except Problem:
        return  # what is installed is damaged beyond its name: any release is better
    project, here = installed.target.release["project"], target.release["project"]
    if project != here:
        raise Problem(
            "%s holds releases of %s, this is one of %s." % (slots.root, project, here), "Name another --root."
        )
    version = str(target.release["version"])
    if version_key(version) < version_key(installed.version) and not allow_downgrade:
        message = "Version %s is older than %s, which is installed." % (version, installed.version)
        raise Problem(message, "Roll back instead, or allow it with --allow-downgrade.")


def roll_back(slots: Slots, how: How) -> Slot:
    """Make the previous release the current one, once it is whole and answers right; the two change places."""
    before = slots.pointed(CURRENT), slots.pointed(PREVIOUS)
    if not before[1]:
        raise Problem("%s has no previous release to roll back to." % slots.root)
    slot = slots.slot(before[1])
    health(slots, slot, how)
    before_it = before[0] if not slots.broken(before[0]) else slots.fallback(*before)
    slots.point(CURRENT, before[1])
    slots.point(PREVIOUS, before_it)
    return slot


def status(slots: Slots) -> Dict[str, Any]:
    """Return what is installed, every byte of the current release read; ``damaged`` holds the paths that are wrong."""
    current = slots.pointed(CURRENT)
    found: Dict[str, Any] = {"root": str(slots.root), "current": _told(slots, current), "damaged": []}
    found["previous"] = _told(slots, slots.pointed(PREVIOUS))
    found["releases"] = [_told(slots, name) for name in slots.names()]
    if current:
        try:
            found["damaged"] = slots.damage(slots.slot(current))
        except Problem as error:
            found["damaged"] = [error.message]
    return found


def _told(slots: Slots, name: str) -> Any:
    if not name:
        return None
    try:
        slot = slots.slot(name)
    except Problem as error:
        return {"slot": name, "damaged": error.message}
    said = {field: slot.target.release[field] for field in ("project", "version", "target", "candidate")}
    return {"slot": name, "digest": slot.target.manifest.sha256, **said}
