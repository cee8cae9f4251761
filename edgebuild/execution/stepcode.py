"""The digest of a step's code, so that a change without a raised ``version``, or the reverse, is noticed.

``tests/execution/step_versions.json`` holds, for each step, its version and this digest. ``make step-lock`` rewrites it
(``python tests/execution/step_lock.py``): after a change that alters what a step makes, raise its version first.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import io
import pkgutil
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.steps import Step
from edgebuild.core.values import digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

#: What decides nothing that a step makes, with the reason; it isn't followed further. A package stands for all in it,
#: the top one only for itself.
NEUTRAL = {
    "edgebuild": "names of the public API, imported when they are asked for",
    "edgebuild.errors": "sentences and exit codes: what raises is never stored",
    "edgebuild.execution": "keeps what steps make; how keys are made has a version of its own",
    "edgebuild.devices": "how a device is reached; what runs there is part of the keys by its digest",
}
#: The exception: a board's code of which a step on the host calls a function or two.
RUNS_HERE_TOO = "edgebuild.devices.runner."


def discover_steps(package: ModuleType, skip: Callable[[str], bool]) -> list[type[Any]]:
    """Import the modules of ``package`` that ``skip`` doesn't exclude, and return the steps they define."""
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
    """Whether a class is a step; ``Step`` itself and bases of steps have no kind and aren't."""
    return issubclass(value, Step) and hasattr(value, "kind")


def step_name(step: type[Any]) -> str:
    """Return the name of a step's class, with its module."""
    return f"{step.__module__}.{step.__qualname__}"


def code_digest(step: type[Any]) -> str:
    """Return the digest of the module that defines ``step`` and of all that it imports from its own top package.

    That is every file that decides what the step makes, but ``NEUTRAL`` ones. Comments, docstrings, blank lines and
    indentation width of continued lines don't count.
    """
    return digest_json({name: bare_source(path.read_text("utf-8")) for name, path in code_of(step)})


def code_of(step: type[Any]) -> Iterator[tuple[str, Path]]:
    """Yield each module that decides what ``step`` makes, with its file.

    Those that its module reaches by imports, also by those inside functions. What is imported for types alone doesn't
    run. A ``host`` module brings the ``device`` module of its folder along: the one lets the device run the other.
    """
    module = inspect.getmodule(step)
    if module is None:
        raise TypeError(f"{step!r} has no module")
    package = module.__name__.partition(".")[0]
    waiting, seen = [module.__name__], set()
    while waiting:
        name = waiting.pop()
        path = None if name in seen or _neutral(name) else source_of(name)
        seen.add(name)
        if path is None:
            continue
        yield name, path
        folder, _, last = name.rpartition(".")
        waiting += [f"{folder}.device"] if last == "host" else []
        parent = name if path.name == "__init__.py" else folder
        waiting += [each for each in _imports(path.read_text("utf-8"), parent) if each.partition(".")[0] == package]


def _neutral(name: str) -> bool:
    return not f"{name}.".startswith(RUNS_HERE_TOO) and any(
        name == each or (name.startswith(f"{each}.") and each.count(".")) for each in NEUTRAL
    )


def source_of(name: str) -> Path | None:
    """Return the file of a module; None for a thing inside one, and for what isn't there."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # ``name`` is a thing inside a module, not a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@functools.cache
def _imports(source: str, parent: str) -> tuple[str, ...]:
    """Return what a module in the package ``parent`` imports when it runs: modules, and things that may be modules."""
    found: list[str] = []
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, parent) if node.level else relative
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those under ``if TYPE_CHECKING:``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        typing_only = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        waiting += node.orelse if typing_only and isinstance(node, ast.If) else ast.iter_child_nodes(node)


@functools.cache
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
