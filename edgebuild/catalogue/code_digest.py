"""What a project's own code is, as a digest: its Python files, and the versions of what they import."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.core.files import read_plain
from edgebuild.core.values import digest_json
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


#: One file of Python that anybody wrote is smaller.
MAX_CODE_BYTES = 64 << 20


def project_code_digest(project_folder: Path) -> str:
    """Return the SHA-256, in hex, of all that can change what a project's callables do.

    That is: path and content of every module and package in the folder (what ``load_callable`` can import from it) and
    the version of every distribution that one of them imports, ``missing`` where it isn't installed. Where the folder
    lies doesn't matter, nor what lies in folders that are no packages. A file that can't be parsed counts by its
    content. Raises ``ConfigError`` for a file that can't be read or isn't a plain one.
    """
    folder = project_folder.resolve()
    files: dict[str, str] = {}
    imported: set[str] = set()
    for path in _python_files(folder):
        try:
            content = read_plain(path, MAX_CODE_BYTES)
        except OSError as error:
            raise ConfigError(str(path), (f"the file can't be read: {error.strerror}",)) from error
        if len(content) > MAX_CODE_BYTES:
            raise ConfigError(str(path), (f"the file is larger than {MAX_CODE_BYTES >> 20} MiB",))
        files[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
        imported |= _imported_tops(content)
    own = {Path(name).parts[0].removesuffix(".py") for name in files}
    foreign = sorted(imported - own - sys.stdlib_module_names)
    versions = {name: version for top in foreign for name, version in _versions(top)}
    return digest_json({"files": files, "versions": versions})


def _python_files(folder: Path) -> Iterator[Path]:
    """Yield what can be imported: modules, and whatever lies inside packages. Other folders hold data."""
    yield from sorted(folder.glob("*.py"))
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from sorted(path for path in package.rglob("*.py") if path.is_file())


def _imported_tops(content: bytes) -> set[str]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    tops: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            tops.add(node.module.partition(".")[0])
    return tops


def _versions(top: str) -> list[tuple[str, str]]:
    """Return the distributions that provide a top-level module, each with its version."""
    try:
        # Most are called as what they provide; reading every installed distribution takes a tenth of a second.
        return [(top, importlib.metadata.version(top))]
    except importlib.metadata.PackageNotFoundError:
        names = _distributions().get(top, ())
        return [(name, importlib.metadata.version(name)) for name in names] or [(top, "missing")]


@cache
def _distributions() -> dict[str, tuple[str, ...]]:
    found = importlib.metadata.packages_distributions()
    return {top: tuple(sorted(set(names))) for top, names in found.items()}
