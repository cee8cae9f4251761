"""Rewrites ``step_versions.json``: what ``make step-lock`` runs after a step changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import edgebuild
from edgebuild.execution.stepcode import code_digest, discover_steps, step_name

LOCK = Path(__file__).with_name("step_versions.json")


def steps() -> list[type[Any]]:
    """Every step of the product. What is sent to boards isn't imported here: it needs a runtime, and holds no step."""

    def on_boards(name: str) -> bool:
        return name.startswith("edgebuild.devices.runner") or name.rpartition(".")[2] in {"device", "__main__"}

    return discover_steps(edgebuild, on_boards)


def current() -> dict[str, dict[str, Any]]:
    return {step_name(step): {"version": step.version, "code": code_digest(step)} for step in steps()}


if __name__ == "__main__":
    LOCK.write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n")
