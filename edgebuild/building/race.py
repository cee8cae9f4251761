"""Measures the candidates: screens everything that may win, then certifies the finalists."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.certify import Entrant, Screening, certify
from edgebuild.building.evaluation import evaluations
from edgebuild.building.losers import explain_slow
from edgebuild.building.results import MeasurementResults, cost_of, disturbed, summarised
from edgebuild.building.timebox import wait_until
from edgebuild.core.candidate import Variant
from edgebuild.core.measurement import Measurements
from edgebuild.devices.hold import clocks_as_asked, holding
from edgebuild.execution.faults import Failure
from edgebuild.judging.screening import Contender, best_settings, finalists
from edgebuild.measuring import session, side
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import MAX_FINALISTS
from edgebuild.planning.account import gains, left_out
from edgebuild.planning.costs import LEAST_RACED, least_s, raced_in, screened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built, Evaluation
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.core.objective import Objective
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import MeasurementContext, SessionResult


#: The part of the time left that screening may take.
SCREENING_SHARE = 0.4


def run_race(
    built: tuple[Built, ...], prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> MeasurementResults:
    """Screen, choose finalists, certify.

    A runner that crashes or hangs, and a bug that one arm meets, is its candidate's result. Raises ``DeviceError`` when
    the device fails, or the baseline on it; whatever was measured until then is on disk and is resumed.
    """
    del validation
    made = evaluations(built)
    baseline = next((one for one in made if one.planned.baseline), None)
    if baseline is None:
        baseline = next((one for one in sorted(made, key=lambda b: bool(b.planned.recipe)) if one.eligible), None)
    if baseline is None:
        return MeasurementResults()
    # Before the device is held: what it needs may have to be made on the host, which is others' turn perhaps.
    bench = make_bench(context)
    until = partial(wait_until, context.box, _least_s(made, context))
    hold = holding(context.client, context.progress, context.check, context.turn.lent, until)
    with (
        hold(context.project.name, False),
        clocks_as_asked(context.client, context.probe, pin=context.pin_clocks, check=context.check) as probe,
    ):
        held = replace(context, probe=probe)
        # Where nothing may be chosen, the baseline alone is measured, as it was with another budget.
        all_pace = not any(one.eligible for one in made)
        entrants = {
            entrant.arm.id: entrant
            for one in made
            if one.eligible or one is baseline
            for entrant in _entrants(one, baseline, prepared, sets_pace=one.eligible or all_pace)
        }
        bench = replace(bench, configuration=held.configuration)
        there, late = in_time(entrants, context)
        results = _raced(there, baseline, prepared.contract.batch, bench, held)
        return replace(results, dropped={**results.dropped, **late})


def _least_s(made: Sequence[Evaluation], context: BuildContext) -> float:
    if context.box is None:
        return 0.0
    return least_s(min(LEAST_RACED, sum(one.planned.raced for one in made)), context.box.unit)


def in_time(entrants: Mapping[str, Entrant], context: BuildContext) -> tuple[dict[str, Entrant], dict[Variant, str]]:
    """Return whom there is still time to measure, and why the others aren't: the wait for the device took theirs.

    The reference stays, and first settings come before further ones; then what is expected to bring most.
    """
    gain = gains(list({one.variant.candidate: one.evaluation.planned for one in entrants.values()}.values()))
    raced = [name for name, one in entrants.items() if one.evaluation.planned.raced]
    first = {entrants[name].variant.candidate: name for name in reversed(list(entrants))}

    def rank(name: str) -> tuple[bool, bool, float]:
        who = entrants[name].variant.candidate
        return not entrants[name].arm.keep, first[who] != name, -gain[who]

    box, every = context.box, len(raced)
    left_s = 0.0 if box is None else box.left_s
    fitting = context.decisions.once("raced", lambda: every if box is None else min(every, raced_in(left_s, box.unit)))
    gone = sorted(raced, key=rank)[fitting:]
    if box is None or not gone:
        return dict(entrants), {}
    why = left_out(box.asked_s, least_s(every, box.unit), left_s)
    context.say("settings", f"{len(gone)} of {every} artifacts and settings aren't measured: {why}")
    return {name: one for name, one in entrants.items() if name not in gone}, {
        entrants[name].variant: why for name in gone
    }


def _raced(
    entrants: Mapping[str, Entrant], baseline: Evaluation, batch: int, bench: MeasurementContext, context: BuildContext
) -> MeasurementResults:
    """Screen what may win, and certify the finalists alongside the baseline. The device is held.

    What is certified anyway isn't screened.
    """
    raced = {name: entrant for name, entrant in entrants.items() if entrant.evaluation.planned.raced}
    reference = next(name for name, entrant in entrants.items() if entrant.evaluation is baseline)
    each_s = 0.0 if context.box is None else context.box.unit.finalist_s
    screening, names, crashed = Screening(), tuple(raced), dict[str, Failure]()
    if screened(len({one.variant.candidate for one in raced.values()}), len(raced)):
        screening, names = _screened(raced, batch, bench, context, crashed, each_s)
    order = [reference, *(name for name in names if name != reference)]
    brief = replace(bench, deadline_s=bench.deadline_s - len(order) * each_s)
    results = certify(brief, context, order, entrants, batch, screening, crashed)
    return explain_slow(results, entrants, screening, bench, context.decisions)


def _screened(
    raced: Mapping[str, Entrant],
    batch: int,
    bench: MeasurementContext,
    context: BuildContext,
    crashed: dict[str, Failure],
    each_s: float,
) -> tuple[Screening, tuple[str, ...]]:
    """Return the screening, and the finalists by it. Adds to ``crashed``."""
    protocol = context.options.screen
    if context.objective.concurrent:
        protocol = protocol.in_flight()
    brief = replace(bench, deadline_s=time.monotonic() + SCREENING_SHARE * (bench.deadline_s - time.monotonic()))
    screen = session.measure(brief, protocol, [entrant.arm for entrant in raced.values()], title="Screening")
    crashed.update(screen.failed)
    out = disturbed(screen, (name for name in raced if name not in crashed))
    raced = {name: entrant for name, entrant in raced.items() if name not in {**out, **crashed}}
    found = {name: summarised(screen, name, batch) for name in raced}
    costs = _costs(raced, found, context.objective, bench, screen, crashed)
    left_s, protocol = bench.deadline_s - time.monotonic(), context.options.certify
    most = context.decisions.once("finalists", lambda: finalists_that_fit(protocol, found.values(), left_s, each_s))
    return Screening(screen, found, out), finalists(best_settings(_contenders(raced, costs)), most)


def finalists_that_fit(protocol: Protocol, screened: Iterable[Measurements], left_s: float, each_s: float = 0.0) -> int:
    """Return how many finalists can be certified next to the reference in what is left of the time, at least one.

    Each to the first look, and with the time that loading took when screening; ``each_s`` is what else is measured of
    an arm.
    """
    loads_s = [found.latency.load_ms / 1e3 for found in screened if found.latency is not None]
    arm_s = protocol.launches * (protocol.launch_s + 2 * max(loads_s, default=0.0)) + each_s
    return int(max(1, min(MAX_FINALISTS, left_s / arm_s - 1)))


def make_bench(context: BuildContext) -> MeasurementContext:
    """Return the bench of this build's device."""
    return session.MeasurementContext(
        client=context.client,
        root=context.home / "measurements",
        progress=context.progress,
        check=context.check,
        configuration=context.configuration,
        seed=context.project.build.seed,
        remeasure=context.options.remeasure,
        as_it_was=bool(context.decisions.earlier),
        deadline_s=context.measure_until_s,
        anchor=anchor_arm(context.backends, context.executor),
        guard=context.guard,
    )


def _entrants(one: Evaluation, baseline: Evaluation, prepared: ModelInputs, *, sets_pace: bool) -> Iterator[Entrant]:
    """One for each runtime setting; the first of the baseline is the reference artifact and always kept."""
    for index, settings in enumerate(one.planned.settings or ((),)):
        variant = Variant(candidate=one.planned.id, settings=settings)
        yield Entrant(
            variant=variant,
            evaluation=one,
            arm=session.Arm(
                id=variant.id,
                artifact=one.artifact.with_settings(settings),
                folder=one.folder,
                inputs=prepared.validation.path,
                inputs_digest=prepared.validation.entry.digest,
                contest=one.planned.profile,
                keep=one is baseline and index == 0,
                sets_pace=sets_pace,
            ),
        )


def _costs(
    raced: Mapping[str, Entrant],
    screened: Mapping[str, Measurements],
    objective: Objective,
    bench: MeasurementContext,
    screen: SessionResult,
    crashed: dict[str, Failure],
) -> dict[str, float]:
    """Return what each arm costs, less is better; measures memory where that is asked for. Adds to ``crashed``."""
    costs = {}
    for name, entrant in raced.items():
        found: Measurements | Failure = screened[name]
        if not objective.timed and not objective.in_files:
            memory = bench.attempt(entrant.arm, partial(side.measure_memory, bench, screen.folder, entrant.arm))
            found = memory if isinstance(memory, Failure) else Measurements(memory=memory)
        if isinstance(found, Failure):
            crashed[name] = found
        elif objective.timed:
            costs[name] = cost_of(found)
        else:
            costs[name] = objective.figure(found, entrant.arm.artifact.size_bytes).value
    return costs


def _contenders(entrants: Mapping[str, Entrant], costs: Mapping[str, float]) -> tuple[Contender, ...]:
    return tuple(
        Contender(
            arm=name,
            candidate=one.planned.id,
            profile=one.planned.profile,
            cost=cost,
            accepted=one.accepted,
            mismatched=one.gap is not None,
        )
        for name, cost in costs.items()
        if (one := entrants[name].evaluation).eligible
    )
