"""Reads artifact.json as if a stranger had written it: whatever it says is checked before anything acts on it."""

from __future__ import annotations

import hashlib
import json
import os

from .folders import AGAIN, is_digest, plain_path
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .folders import Listing
    from .protocol import Fields

NAME = "artifact.json"
#: For people; no manifest lists it.
NOTES = "notes.json"
MAX_AXIS = 1 << 48
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("float16", "float32", "float64", "bool", *INTEGERS)


def read_manifest(folder: str, found: Listing, stage: str = "") -> Fields:
    """Return the manifest in ``folder``, or in its part ``stage``, whose files were ``found``.

    It and the files that it lists are what was found, nothing else lies there, and every field that the runner uses has
    its type. Raises ``Problem``.
    """
    prefix = stage + "/" if stage else ""
    manifest = _parsed(os.path.join(folder, prefix + NAME), found.get(prefix + NAME))
    try:
        _check(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise Problem("model", "%s%s is not an artifact's manifest: %s." % (prefix, NAME, error)) from error
    there = {path[len(prefix) :]: entry for path, entry in found.items() if path.startswith(prefix)}
    for entry in manifest["files"]:
        known = there.pop(entry["path"], {})
        if (known.get("sha256"), known.get("size_bytes")) != (entry["sha256"], entry["size_bytes"]):
            what = "isn't what %s lists" % NAME if known else "is missing"
            raise Problem("model", "The artifact's file %s%s %s." % (prefix, entry["path"], what), AGAIN)
    unlisted = sorted(set(there) - {NAME, NOTES})
    if unlisted:
        raise Problem("model", "The artifact's folder holds %s%s, which %s doesn't list." % (prefix, unlisted[0], NAME))
    return manifest


def libraries(manifest: Fields) -> list[str]:
    """Return the files of native code that opening the artifact runs."""
    return [name for name in dict(manifest["load"]).get("libraries", "").split(",") if name]


def _parsed(path: str, entry: Fields | None) -> Fields:
    try:
        with open(path, "rb") as file:
            data = file.read()
        if entry is None or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise Problem("device", "%s changed while it was read." % path, AGAIN)
        fields = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise Problem("model", "Can't read the artifact in %s: %s." % (os.path.dirname(path), error)) from error
    if not isinstance(fields, dict):
        raise Problem("model", "%s is not an object of JSON." % path)
    return fields


def _refuse(name: str) -> None:
    raise ValueError("%s is no number of JSON" % name)


def _need(condition: object, what: str) -> None:
    if not condition:
        raise ValueError("wrong %s" % what)


def _check(manifest: Fields) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` for the first thing that isn't as it should be."""
    _need(isinstance(manifest["backend"], str), "backend")
    _need(isinstance(manifest["precision"], dict), "precision")
    paths = []
    for entry in _list(manifest["files"]):
        _need(plain_path(entry["path"]) and is_digest(entry["sha256"]), "file %r" % (entry["path"],))
        _need(_whole(entry["size_bytes"]), "size_bytes")
        paths.append(entry["path"])
    _need(len(set(paths)) == len(paths), "files")
    _check_contract(manifest["contract"])
    for field in ("settings", "load"):
        for name, value in _list(manifest[field]):
            _need(isinstance(name, str) and isinstance(value, (bool, int, str)), field)
    load = dict(manifest["load"])
    _need(isinstance(load.get("libraries", ""), str), "libraries")
    _need("weights" not in load or _whole(load["weights_bytes"]), "weights_bytes")
    stages = _list(manifest.get("stages", []))
    for number, stage in enumerate(stages):
        _need(plain_path(stage["folder"]), "stage")
        _check_exit(stage.get("exit"), last=number == len(stages) - 1)
    opened = [manifest["entry"]] + libraries(manifest) + ([load["weights"]] if "weights" in load else [])
    for path in opened + [stage["folder"] + "/" + NAME for stage in stages]:
        _need(path in paths, "path %r: none of the files" % (path,))


def _check_contract(contract: Fields) -> None:
    """See ``_check``."""
    _need(contract["inputs"] and contract["outputs"], "contract")
    for field in ("inputs", "outputs", "state_specs", "constants"):
        for spec in _list(contract[field]):
            _need(isinstance(spec["name"], str) and spec["dtype"] in DTYPES, "%s: name or dtype" % field)
            _need(all(map(_axis, _list(spec["shape"]))), "%s: shape" % field)
    for constant in contract["constants"]:
        _need(all(_whole(axis) for axis in constant["shape"]) and "value" in constant, "constants")
    for link in _list(contract["state"]):
        _need(isinstance(link["input"], str) and isinstance(link["output"], str), "state")


def _check_exit(way_out: Any, *, last: bool) -> None:
    _need((way_out is None) == last, "exit: every stage but the last has one")
    if way_out is not None:
        _need(all(isinstance(way_out[name], str) for name in ("name", "output", "confidence")), "exit")
        _need(isinstance(way_out["threshold"], (int, float)), "threshold")


def _list(value: Any) -> list[Any]:
    _need(isinstance(value, list), "type: a list was expected")
    return value  # type: ignore[no-any-return]


def _axis(value: object) -> bool:
    return isinstance(value, str) or (_whole(value) and value < MAX_AXIS)  # type: ignore[operator]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
