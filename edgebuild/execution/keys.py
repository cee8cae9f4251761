"""What a step's result depends on, in plain parts: hashed they are its key, compared they explain a rebuild."""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

from edgebuild.core.steps import RunsOn
from edgebuild.core.values import digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgebuild.core.steps import Step
    from edgebuild.core.values import Json

SCHEMA_VERSION = 1
NOT_INSTALLED = "not installed"
#: Longer values of a parameter are not spelled out in an explanation.
MAX_SHOWN_CHARACTERS = 40

#: How the groups of parts read in an explanation.
GROUPS = {"parameters": "parameter", "inputs": "input", "tools": "tool", "device": "device configuration"}
SINGLES = {
    "kind": "kind",
    "version": "version of the step",
    "seed": "seed",
    "isa": "instruction set",
    "code": "the project's code",
    "session": "the training data, which have no version,",
}


def key_parts(
    step: Step,
    inputs: Mapping[str, str],
    *,
    seed: int,
    isa: str,
    device_configuration: Mapping[str, str],
    code_digest: str = "",
    version: Callable[[str], str] | None = None,
) -> dict[str, Json]:
    """Return everything that shapes what ``step`` makes. ``inputs`` maps its inputs to their content digests.

    The instruction set counts where the step executes kernels, the device's configuration (and the runner's digest in
    it) where it runs on the device, the user's code where the step uses it. ``version`` says which one of a tool is
    installed (default: ``tool_version``).
    """
    version = version or tool_version
    parts: dict[str, Json] = {
        "schema": SCHEMA_VERSION,
        "kind": step.kind,
        "version": step.version,
        "parameters": dict(step.key_fields()),
        "inputs": dict(inputs),
        "tools": {tool: version(tool) for tool in step.all_tools()},
        "seed": seed,
    }
    if step.runs_on is RunsOn.HOST_KERNELS:
        parts["isa"] = isa
    if step.runs_on is RunsOn.DEVICE:
        parts["device"] = dict(device_configuration)
    if step.uses_code:
        parts["code"] = code_digest
    return parts


def key_of(parts: Mapping[str, Json]) -> str:
    """Return the key: equal exactly for equal parts."""
    return digest_json(parts)


def tool_version(distribution: str) -> str:
    """Return the installed version of a distribution, or ``not installed``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def explain_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in words what differs between two sets of parts; empty when nothing does."""
    changes = [
        _change(words, old.get(name), new.get(name))
        for name, words in SINGLES.items()
        if not _same(old.get(name), new.get(name))
    ]
    for group, words in GROUPS.items():
        before, after = _group(old, group), _group(new, group)
        absent = "default" if group == "parameters" else "none"
        changes += [
            f"{words} {name} changed"
            if group == "inputs"
            else _change(f"{words} {name}", before.get(name, absent), after.get(name, absent))
            for name in sorted(before.keys() | after.keys())
            if not _same(before.get(name), after.get(name)) or (name in before) != (name in after)
        ]
    if old.get("schema") != new.get("schema"):
        changes.append("keys are made in another way")
    return ", ".join(changes)


def _same(before: Any, after: Any) -> bool:
    """Whether two values are the same to a key: 1, 1.0 and true are three."""
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)


def _group(parts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = parts.get(name)
    return group if isinstance(group, dict) else {}


def _change(words: str, before: Any, after: Any) -> str:
    if any(isinstance(value, dict | list) or len(str(value)) > MAX_SHOWN_CHARACTERS for value in (before, after)):
        return f"{words} changed"
    return f"{words} {before} → {after}"
