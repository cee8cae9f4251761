"""Says of int8 candidates that screening found no faster than fp32 what their layers really run in."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.results import cost_of, figure_of
from edgebuild.core.record import Note
from edgebuild.execution.faults import Failure
from edgebuild.measuring import side

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgebuild.building.certify import Entrant, Screening
    from edgebuild.building.decisions import Decisions
    from edgebuild.building.results import MeasurementResults
    from edgebuild.core.measurement import Layer, Measurements
    from edgebuild.measuring.session import MeasurementContext

#: About what reading the layers of one candidate takes: in a time box that ends earlier it isn't done.
READING_S = 10.0
#: Of the operators that don't run in int8, a note names this many kinds.
NAMED_OPS = 5


def explain_slow(
    results: MeasurementResults,
    entrants: Mapping[str, Entrant],
    screening: Screening,
    bench: MeasurementContext,
    decisions: Decisions,
) -> MeasurementResults:
    """Return the results with a note on each int8 candidate that lost to fp32, as long as there is time."""
    if screening.session is None:
        return results
    notes = dict(results.notes)
    certified = {finalist.variant.candidate for finalist in results.finalists}
    for name, plain in _losers(entrants, screening.found):
        entrant = entrants[name]
        candidate = entrant.variant.candidate
        if candidate in certified:
            continue
        if not decisions.once(f"layers of {candidate}", lambda: time.monotonic() + READING_S <= bench.deadline_s):
            continue
        arm = replace(entrant.arm, keep=False)
        found = bench.attempt(arm, partial(side.read_layers, bench, screening.session.folder, arm))
        said = why_slow(found, screening.found[name], plain) if not isinstance(found, Failure) else found.sentence
        notes[candidate] = (*notes.get(candidate, ()), Note(topic="layers", text=said))
    return replace(results, notes=notes)


def _losers(
    entrants: Mapping[str, Entrant], screened: Mapping[str, Measurements]
) -> Iterator[tuple[str, Measurements]]:
    """Yield the best variant of every int8 candidate that is no faster than the best fp32 one of its profile."""
    best: dict[str, str] = {}
    plain: dict[str, str] = {}
    for name in sorted(screened, key=lambda name: (cost_of(screened[name]), name)):
        planned = entrants[name].evaluation.planned
        if planned.precision.kind in ("int8", "int8-dynamic"):
            best.setdefault(planned.id, name)
        elif planned.precision.kind == "fp32" and not planned.recipe:
            plain.setdefault(planned.profile, name)
    for name in best.values():
        fp32 = plain.get(entrants[name].evaluation.planned.profile)
        if fp32 is not None and cost_of(screened[name]) >= cost_of(screened[fp32]):
            yield name, screened[fp32]


def why_slow(layers: Sequence[Layer], screened: Measurements, plain: Measurements) -> str:
    """Return in what a candidate's layers run, the most frequent operators outside int8 first."""
    lost = f"no faster than fp32 here ({figure_of(screened)} against {figure_of(plain)})"
    if not layers:
        return f"{lost}; its runtime doesn't say what its layers run in"
    int8 = sum(layer.precision == "int8" for layer in layers)
    others = Counter((layer.op, layer.precision) for layer in layers if layer.precision != "int8")
    named = ", ".join(f"{count} {op} in {precision}" for (op, precision), count in others.most_common(NAMED_OPS))
    more = f" and {len(others) - NAMED_OPS} more kinds" if len(others) > NAMED_OPS else ""
    return f"{lost}: of {len(layers)} layers as they run {int8} are in int8" + (f"; {named}{more}" if named else "")
