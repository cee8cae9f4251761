"""A tiny HTML writer in which text is escaped unless it was made here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.reporting.formatting import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "col", "wbr"})


class Html(str):
    """Text that is already HTML. Only this module and the style sheet make it from plain text."""

    __slots__ = ()

    def __html__(self) -> str:
        """Say to templates that this needs no escaping."""
        return self


Child: TypeAlias = "Html | str | None"
Attribute: TypeAlias = "str | int | float | bool | None"


def text(value: str) -> Html:
    """Return ``value`` escaped, and without control or direction characters; ``Html`` passes through."""
    return value if isinstance(value, Html) else Html(escape(clean(value), quote=True))


def join(children: Iterable[Child]) -> Html:
    """Return the children one after the other, plain strings escaped, ``None`` left out."""
    return Html("".join(text(child) for child in children if child is not None))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """Return one element. ``class_`` is ``class``, ``data_label`` ``data-label``; ``None`` and ``False`` stay out."""
    head = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(head) if name in _VOID else Html(f"{head}{join(children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else clean(str(value))
    return f' {name}="{escape(shown, quote=True)}"'
