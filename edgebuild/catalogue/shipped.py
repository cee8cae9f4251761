"""Find TOML files of one kind: those that ship with edgebuild, and those next to a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from edgebuild.catalogue.tables import Table, collect, read_toml, unknown
from edgebuild.core.files import resolved
from edgebuild.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind: TypeAlias = Literal["targets", "profiles"]
F = TypeVar("F", bound=Table)
T = TypeVar("T", bound=Table)

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(kind: Kind) -> Path:
    """Return where the shipped files of a kind lie: inside the installed package, or at the top of a checkout."""
    packaged = _PACKAGE / "_data" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def load_all(kind: Kind, model: type[F], make: Callable[[str, F], T], project_folder: Path | None) -> Mapping[str, T]:
    """Return all files of a kind by name (the file name without ``.toml``), shipped ones first, each by ``make``.

    Raises ``ConfigError`` with every problem of every file, and for a name that ships and lies next to the project.
    """
    found: dict[str, T] = {}
    problems: list[str] = []
    sources: dict[str, Path] = {}
    # A command run inside edgebuild's own checkout finds the shipped files as the "project's".
    own = resolved(project_folder / kind) if project_folder else None
    for folder in dict.fromkeys(folder for folder in (shipped_folder(kind).resolve(), own) if folder):
        for path in sorted(folder.glob("*.toml")):
            if path.stem in sources:
                problems.append(f'{path}: "{path.stem}" ships with edgebuild; give the file another name')
                continue
            sources[path.stem] = path
            value, wrong = collect(model, read_toml(path))
            problems += [f"{path}: {problem}" for problem in wrong]
            if value is not None:
                found[path.stem] = make(path.stem, value)
    if problems:
        raise ConfigError(kind, tuple(problems), hint=f"The files that ship are in {shipped_folder(kind)}.")
    return found


def pick(kind: Kind, name: str, known: Mapping[str, T]) -> T:
    """Return the file called ``name``; raises ``UsageError`` with the nearest name."""
    if name not in known:
        what = unknown(kind.removesuffix("s"), name, known)
        raise UsageError(f"{what[0].upper()}{what[1:]}", hint=f"`edgebuild targets` lists the {kind}.")
    return known[name]
