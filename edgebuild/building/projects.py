"""Loads a project with everything that it may name: its recipes are checked against the techniques that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.catalogue import project as catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from edgebuild.catalogue.project import Project


def load_project(path: str | Path) -> Project:
    """Return the project whose folder or ``edgebuild.toml`` is ``path``; imports no user code.

    Raises ``ConfigError`` with every problem found: syntax, unknown keys, types, contradictions between tables, missing
    files, and recipes with techniques or parameters that don't exist.
    """
    return catalogue.load_project(path, techniques=_techniques)


def _techniques() -> Mapping[str, type[BaseModel]]:
    from edgebuild.techniques.registry import parameter_models

    return parameter_models()
