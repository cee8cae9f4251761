"""On PYTHONPATH this makes Python start without the packages that HIDDEN names: neither imported nor installed."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Any

HIDDEN = frozenset(os.environ["HIDDEN"].split())
_found = importlib.metadata.Distribution.from_name.__func__  # type: ignore[attr-defined]


def _from_name(cls: Any, name: str) -> Any:
    if name in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return _found(cls, name)


importlib.metadata.Distribution.from_name = classmethod(_from_name)  # type: ignore[assignment]
for _name in HIDDEN:
    sys.modules[_name] = None  # type: ignore[assignment]
