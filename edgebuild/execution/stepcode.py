"""The digest of a step's code, so that a change without a raised ``version``, or the reverse, is noticed.

``tests/execution/step_versions.json`` holds, for each step, its version and this digest. ``make step-lock`` rewrites it
(``python tests/execution/step_lock.py``): after a change that alters what a step makes, raise its version first.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import io
import pkgutil
import tokenize
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.values import digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

#: What the class of a step must have; a field without default shows in the annotations only.
STEP_MEMBERS = ("kind", "version", "place", "tools", "key_fields", "run")


def discover_steps(package: ModuleType, skip: Callable[[str], bool]) -> list[type[Any]]:
    """Import the modules of ``package`` that ``skip`` doesn't exclude, and return the step dataclasses they define."""
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = [importlib.import_module(name) for name in names if not skip(name)]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and is_step(value)
    }
    return sorted(found, key=step_name)


def is_step(value: type[Any]) -> bool:
    """Whether a class is a dataclass with all that a step has (the protocol itself and bases of steps aren't)."""
    if not is_dataclass(value):
        return False
    own = {field.name for field in fields(value)}
    return all(hasattr(value, name) or name in own for name in STEP_MEMBERS)


def step_name(step: type[Any]) -> str:
    """Return the name of a step's class, with its module."""
    return f"{step.__module__}.{step.__qualname__}"


def code_digest(step: type[Any]) -> str:
    """Return the digest of the module that defines ``step`` and of all it imports from its own package.

    Comments, docstrings, blank lines and indentation width of continued lines don't count.
    """
    module = inspect.getmodule(step)
    if module is None:
        raise TypeError(f"{step!r} has no module")
    package = module.__package__ or module.__name__
    return digest_json(
        {name: bare_source(path.read_text("utf-8")) for name, path in _closure(module.__name__, package)}
    )


def _closure(start: str, package: str) -> Iterator[tuple[str, Path]]:
    """Yield each module that ``start`` reaches by imports inside ``package``, also by those inside functions."""
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source_of(name)
        if path is None:
            continue
        yield name, path
        waiting += [each for each in _imports(path, name) if f"{each}.".startswith(f"{package}.")]


def _source_of(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # ``name`` is a thing inside a module, not a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _imports(path: Path, name: str) -> Iterator[str]:
    parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, parent) if node.level else relative
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def bare_source(source: str) -> list[str]:
    """Return the lines of Python source without comments, docstrings, blank lines and outer spaces of joined lines."""
    lines = io.StringIO(source).readlines()
    spans = [*_comments(source), *_docstrings(source)]
    for (first, start), (last, end) in sorted(spans, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]]
    return [line.rstrip() for line in lines if line.strip()]


def _comments(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start, token.end


def _docstrings(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where docstrings lie, in characters (the tree counts bytes)."""
    rows = source.encode().split(b"\n")

    def column(row: int, offset: int) -> int:
        return len(rows[row - 1][:offset].decode())

    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is None:
            continue
        text = node.body[0]
        last, end = text.end_lineno or text.lineno, text.end_col_offset or 0
        yield (text.lineno, column(text.lineno, text.col_offset)), (last, column(last, end))
