"""What there is of one kind: an explicit table, and the entry points of other packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgebuild.errors import EnvironmentGap, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib.metadata import EntryPoint

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Registry(Generic[T]):
    """``accept`` makes of what an entry point loads the thing itself, or returns None for something else.

    ``kind`` is what one of them is called, ``named`` where its name is, if it isn't the entry point's.
    """

    group: str
    kind: str
    table: Mapping[str, T]
    accept: Callable[[Any], T | None]
    named: Callable[[T], str] | None = None

    def load(self, plugins: Iterable[EntryPoint] | None = None) -> dict[str, T]:
        """Return everything by name: the table, then what installed packages bring.

        Raises ``EnvironmentGap`` naming the package for a plug-in that can't be loaded, is something else, or takes a
        name that is taken: a broken plug-in is never skipped silently.
        """
        found = dict(self.table)
        for entry in metadata.entry_points(group=self.group) if plugins is None else plugins:
            owner = entry.dist.name if entry.dist is not None else entry.value
            hint = f"Repair or uninstall {owner!r}."
            try:
                made = self.accept(entry.load())
            except Exception as error:  # a plug-in's import can raise anything
                raise EnvironmentGap(
                    f"The {self.kind} {entry.name!r} of the package {owner!r} can't be loaded: {error!r}", hint=hint
                ) from error
            if made is None:
                raise EnvironmentGap(
                    f"The {self.kind} {entry.name!r} of the package {owner!r} is no {self.kind}.", hint=hint
                )
            name = self.named(made) if self.named else entry.name
            if name in found:
                raise EnvironmentGap(
                    f"The package {owner!r} brings a {self.kind} named {name!r}, which exists already.",
                    hint=f"Uninstall {owner!r}, or ask its authors to rename the {self.kind}.",
                )
            found[name] = made
        return found

    def get(self, name: str) -> T:
        """Return one; raises ``UsageError`` listing the known names."""
        found = self.load()
        if name not in found:
            raise UsageError(f"There is no {self.kind} {name!r}.", hint=f"Known: {', '.join(sorted(found))}.")
        return found[name]
