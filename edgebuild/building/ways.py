"""The ways in which a target's candidates are proven: on a device, on an emulated one, or not at all. One table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgebuild.building import emulated, opening, proving, race
from edgebuild.building.splits import JudgedSplit, sampled

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built, CompiledCandidate, Evaluation
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.results import MeasurementResults
    from edgebuild.core.capabilities import Capabilities
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.inputs import UnitCosts

Split: TypeAlias = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """``split`` says what of a split is run there, ``prove`` makes of a compiled candidate what is known of it before
    anything is measured, ``measure`` measures them all, ``expect`` says what work takes. ``opens_test_set`` says that
    finalists are scored on it.
    """

    split: Callable[[Split, StepResult, StepResult, ModelInputs, BuildContext], JudgedSplit]
    prove: Callable[[CompiledCandidate, ModelInputs, JudgedSplit, BuildContext], Evaluation]
    measure: Callable[[tuple[Built, ...], ModelInputs, JudgedSplit, BuildContext], MeasurementResults]
    expect: Callable[[UnitCosts, int | None], tuple[UnitCosts, tuple[str, ...]]]
    opens_test_set: bool = True


def as_on_a_board(costs: UnitCosts, macs: int | None) -> tuple[UnitCosts, tuple[str, ...]]:
    """Work takes what it takes on a board, as far as anybody knows."""
    del macs
    return costs, ()


ON_DEVICE = Way(split=JudgedSplit.whole, prove=proving.judge_candidate, measure=race.run_race, expect=as_on_a_board)
EMULATED = Way(split=sampled, prove=proving.judge_candidate, measure=emulated.profile, expect=emulated.expect)
COMPILE_ONLY = Way(
    split=JudgedSplit.whole,
    prove=opening.open_candidate,
    measure=opening.nothing_measured,
    expect=opening.expect,
    opens_test_set=False,
)


def way_of(can: Capabilities) -> Way:
    """Return how candidates are proven on a device that can be asked this."""
    if not can.runs:
        return COMPILE_ONLY
    return ON_DEVICE if can.times else EMULATED
