"""Templates, and how values look in them. Whatever somebody said is escaped, and can't steer the text around it."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgebuild.reporting.formatting import NONE, bytes_text, clean, number, with_interval
from edgebuild.reporting.markup import Html, join, tag, text

if TYPE_CHECKING:
    from fastapi import Request

    from edgebuild.farm.server.farm import Farm
    from edgebuild.farm.server.pages.access import Visitor

HERE = Path(__file__).parent
#: More of a document than this isn't shown on a page.
MOST_CHARACTERS = 20_000
ASSETS = {path.name: path.read_bytes() for path in sorted((HERE / "static").iterdir())}
#: What a browser keeps is asked for under what it holds: another version is another address.
_DAY_S = 86_400.0
#: No figure of a board is as large; such are shown by their size only.
_ODD = 1e15
#: How what a board reads off itself is shown, by the unit at the end of its name.
_UNITS = {"_ms": "\u00a0ms", "_s": "\u00a0s", "_c": "\u00a0°C", "_mhz": "\u00a0MHz", "_percent": "\u00a0%"}
_VERSIONS = {name: hashlib.sha256(data).hexdigest()[:12] for name, data in ASSETS.items()}


def page(request: Request, template: str, visitor: Visitor, *, status: int = 200, **shown: Any) -> HTMLResponse:
    """Return a page; ``shown`` is what its template shows."""
    farm: Farm = request.app.state.farm
    made = _templates.get_template(template).render(
        visitor=visitor, path=request.url.path, now=farm.now, trouble=farm.trouble, status=status, **shown
    )
    return HTMLResponse(made, status)


def asset(name: str) -> str:
    """Return the address of a file that pages need."""
    return f"/static/{name}?v={_VERSIONS[name]}"


def span(seconds: float) -> str:
    """Return a duration for people: ``42 s``, ``3 min``, ``2 h 05 min``, ``5 d``."""
    whole = int(min(max(seconds, 0.0), 1e12))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400:,} d"


def utc(at: float) -> str:
    """Return a time, in words where no calendar reaches it."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return "in another age"


def when(at: float | None, now: float) -> Html:
    """Return how long ago something was, or how soon it is; the exact time is its title."""
    if at is None:
        return Html(NONE)
    said = "just now" if abs(at - now) < 1 else f"in {span(at - now)}" if at > now else f"{_coarse(now - at)} ago"
    exact = utc(at)
    machine = exact.removesuffix(" UTC").replace(" ", "T") + "Z" if exact.endswith("UTC") else None
    return tag("time", said, datetime=machine, title=exact)


def _coarse(seconds: float) -> str:
    return span(seconds) if seconds < 3600 or seconds >= _DAY_S else f"{int(seconds // 3600)} h"


def document(value: Any) -> Html:
    """Return a JSON value over several lines."""
    whole = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)
    lines = whole[:MOST_CHARACTERS].split("\n") + ["… more than is shown here"] * (len(whole) > MOST_CHARACTERS)
    return Html("\n".join(text(line) for line in lines))


def plain(value: Any) -> str:
    """Return a value as one line."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        whole = isinstance(value, int) and abs(value) < _ODD
        return f"{value:,}" if whole else number(value) if abs(value) < _ODD else f"{float(value):.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)[:500]


def reading(name: str, value: Any) -> str:
    """Return what a board read off itself, with its unit: ``temperature 51.2 °C``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name} {plain(value)}"
    if name.endswith("_bytes") and math.isfinite(value):
        return f"{name.removesuffix('_bytes')} {bytes_text(int(value))}".replace("_", " ")
    unit = next((each for each in _UNITS if name.endswith(each)), "")
    return f"{name.removesuffix(unit)} {plain(value)}{_UNITS.get(unit, '')}".replace("_", " ")


def labels(value: dict[str, str]) -> Html:
    """Return labels as a list of marks."""
    return join([tag("span", f"{key}={each}", class_="label") for key, each in sorted(value.items())])


def ms(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a latency with its interval."""
    if value is None:
        return NONE
    odd = any(abs(each) >= _ODD for each in (value, low, high) if each is not None)
    return f"{value:.3g}" if odd else with_interval(value, low, high)


def _finalize(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (span, utc, when, document, plain, labels, ms)
    environment.filters.update({each.__name__: each for each in shown})
    environment.globals |= {"asset": asset, "reading": reading}
    return environment


_templates = _environment()
