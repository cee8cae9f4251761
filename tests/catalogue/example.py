"""A small valid project for the tests, as the text of its edgebuild.toml."""

from __future__ import annotations

import copy
import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
[project]
name = "tiny"

[model]
factory = "model:build"

[[inputs]]
name = "image"
shape = ["batch", 1, 28, 28]
dtype = "float32"

[freeze]
batch = 1

[data]
train = "data:train"
calibration = "data:calibration"
validation = "data:validation"
test = "data:test"

[metric]
name = "accuracy"

[budget]
points = 2.0

[build]
targets = ["this-machine"]
"""

TABLES: dict[str, Any] = tomllib.loads(TEXT)


def tables(**changes: Any) -> dict[str, Any]:
    """Return the example's tables with some replaced; ``None`` removes one."""
    changed = copy.deepcopy(TABLES) | changes
    return {name: table for name, table in changed.items() if table is not None}


def write(folder: Path, text: str = TEXT) -> Path:
    """Write an edgebuild.toml into ``folder`` and return its path."""
    path = folder / "edgebuild.toml"
    path.write_text(text)
    return path
