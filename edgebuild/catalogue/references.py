"""Whether ``module:function`` can be right, seen without importing anything: a name that is missing is said early."""

from __future__ import annotations

import ast
import importlib.util
from typing import TYPE_CHECKING

from edgebuild.catalogue.tables import suggestion

if TYPE_CHECKING:
    from pathlib import Path


def reference_problem(reference: str, project_folder: Path) -> str | None:
    """Return what is certainly wrong with a reference to the project's code, or None.

    A module of the project's is read, not run: names that only running it would make are taken as given.
    """
    module, _, attribute = reference.partition(":")
    base = project_folder.joinpath(*module.split("."))
    path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    if path is None:
        top = module.partition(".")[0]
        if importlib.util.find_spec(top) is None and not (project_folder / top).is_dir():
            return f'"{reference}": there is no module "{top}" in {project_folder} or installed'
        return None
    names, first = _names(path), attribute.partition(".")[0]
    if names is None or first in names:
        return None
    return f'"{reference}": there is no "{first}" in {path}; {suggestion(first, names)}'


def _names(path: Path) -> set[str] | None:
    """Return every name that a module defines somewhere; None where reading doesn't tell."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return None if "*" in names or "__getattr__" in names else names
