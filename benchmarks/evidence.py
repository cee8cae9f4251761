"""Writes what a benchmark found to docs/results/: a page for people and the numbers beside it."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    versions = {name: _version(name) for name in ("edgebuild", "numpy", "nncf", "onnxruntime", "openvino", "torch")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": f"{model}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def write_results(
    name: str, title: str, command: str, text: str, numbers: dict[str, Any], *, where: dict[str, str] | None = None
) -> Path:
    """Write ``docs/results/<name>.md`` and ``.json``; return the page's path.

    ``where`` is the machine that the numbers are from. Default: this one, now.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = where or machine()
    facts = ", ".join(f"{key} {value}" for key, value in where.items())
    page = RESULTS / f"{name}.md"
    page.write_text(f"# {title}\n\nMade by `{command}` on: {facts}.\n\n{text.strip()}\n", encoding="utf-8")
    data = json.dumps({"machine": where, "command": command, **numbers}, indent=1, sort_keys=True)
    (RESULTS / f"{name}.json").write_text(data + "\n", encoding="utf-8")
    return page
