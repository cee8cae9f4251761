"""Makes the planned candidates: in a time box what is worth its time, the most valuable first, while there is some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.candidates import make, quantised, within_size
from edgebuild.building.costs import Taken, revised, taken
from edgebuild.building.evaluation import Evaluation, FailedCandidate, evaluations
from edgebuild.core.record import Refusal, notes_on
from edgebuild.errors import OutOfTime
from edgebuild.execution.faults import Failure
from edgebuild.planning.account import TimeAccount, fewer_samples, left_out
from edgebuild.planning.costs import after_s, certified_arms, making_s, more_arms_s, testing_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.building.compress import Models
    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.building.timebox import TimeBox
    from edgebuild.errors import EdgebuildError
    from edgebuild.planning.inputs import UnitCosts
    from edgebuild.planning.plan import Plan, PlannedCandidate


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of the planned candidates, the plan with what was left out, and the time box to measure in."""

    built: tuple[Built, ...]
    plan: Plan
    measuring: TimeBox | None


def make_candidates(
    plan: Plan, models: Models, prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> Made:
    """Build every planned candidate. One that can't be built is a result with its reason, not the end of the build.

    That holds for a runtime that crashes or hangs and for a bug in edgebuild or in a plug-in too, as long as the device
    answers and another candidate can be built there. The device, the data, the metric, the store and the user may
    still end it: those errors aren't the candidate's.

    In a time box what is expected to bring most per second comes first, costs are revised by what was made, and what no
    longer fits is left out with the reason. What outruns its estimate is stopped before it takes the time to measure.
    """
    making = _Making(plan, models, prepared, context)
    with context.progress.task("Building candidates", total=len(plan.candidates)) as task:
        while (planned := making.next()) is not None:
            context.check()
            making.make(planned, validation)
            task.advance(note=planned.id)
    if making.unexpected and not evaluations(making.built.values()):
        raise making.unexpected[0]
    return making.done()


class _Making:
    """Candidates while they are made: what comes next, what was made, what that took, and what is left out."""

    def __init__(self, plan: Plan, models: Models, prepared: ModelInputs, context: BuildContext) -> None:
        self.plan, self.models, self.prepared, self.context = plan, models, prepared, context
        self.built: dict[str, Built] = {}
        self.unexpected: list[EdgebuildError] = []
        self.left_out: list[Refusal] = []
        self._taken: list[Taken] = []
        self._todo = list(plan.candidates)
        if context.box is not None:  # what there is time for is seen anew
            self._todo = [each.model_copy(update={"samples": None}) for each in (*plan.candidates, *plan.spare)]
        for name, why in {m[0]: made.left_out for m, made in models.items() if made.left_out is not None}.items():
            self._drop([each for each in self._todo if each.recipe == name])
            self.left_out.append(Refusal(what=f"recipe {name}", reason=why))

    def next(self) -> PlannedCandidate | None:
        """Return what to make next; None at the end, or where nothing fits the time box any more."""
        box = self.context.box
        if box is None or not self._todo:
            return self._todo.pop(0) if self._todo else None
        account = self._account(box)
        found = account.choose(self._todo, self._measured())
        if found is None:
            late = [Refusal(what=each.id, reason=account.why_not(each, self._measured())) for each in self._todo]
            self.left_out += late
            self._todo.clear()
            return None
        given = next(each for each in self._todo if each.id == found.id)
        if found.samples is not None:
            why = account.why_not(given, self._measured())
            self.left_out.append(Refusal(what=fewer_samples(found.id), reason=why))
        self._todo.remove(given)
        return found

    def make(self, planned: PlannedCandidate, validation: JudgedSplit) -> None:
        """Make one candidate, until the time box needs the rest of the time."""
        context, before = self._concerning(planned), len(self.context.executor.records)
        work = partial(make, planned, self.models, self.prepared, validation, context)
        limit_s = float("inf")
        if context.box is not None and self._measured():
            limit_s = context.box.deadline_s - self._after_s([*self._measured(), planned], least=True)
        started = context.limits.clock()
        with context.limits.until(limit_s):
            made = context.guard.attempt(planned.id, work)
        if isinstance(made, Failure) and isinstance(made.error, OutOfTime):
            reason = f"{made.sentence}, after {context.limits.clock() - started:.0f} s"
            self.left_out.append(Refusal(what=planned.id, reason=reason))
            return
        if isinstance(made, Failure):
            self.unexpected += [made.error] if made.unexpected else []
            made = FailedCandidate(planned=planned, reason=made.sentence, notes=notes_on("bug", made.notes))
        else:
            self._taken.append(taken(planned, context.executor.records[before:]))
        self.built[planned.id] = made

    def done(self) -> Made:
        """Return what was made, in the order of the plan, with as many runtime settings as there is time to race."""
        made = [self.built[name] for name in self.plan.gain if name in self.built]
        found = within_size(made, self.context.project.limits.file_size_mb)
        box, unit = self.context.box, self._unit()
        if box is not None:
            found = self._with_settings(found, box, unit)
            arms = certified_arms(self._measured(), self.plan.max_finalists)
            box = replace(box, unit=unit, reserved_s=testing_s(arms, unit) + unit.report_s)
        gone = {*self.built, *map(fewer_samples, self.built), *(each.what for each in self.left_out)}
        refused = (*(each for each in self.plan.refused if each.what not in gone), *self.left_out)
        return Made(built=found, plan=self.plan.model_copy(update={"refused": refused}), measuring=box)

    def _with_settings(self, built: Sequence[Built], box: TimeBox, unit: UnitCosts) -> tuple[Built, ...]:
        room, raced = box.left_s - self._after_s(self._measured()), sum(each.raced for each in self._measured())
        arms = raced
        found: dict[str, Built] = {}
        for each in sorted(built, key=lambda one: -self.plan.gain[one.planned.id]):
            planned = each.planned
            further = len(planned.settings) - 1 if planned.raced and isinstance(each, Evaluation) else 0
            more = more_arms_s(raced, arms, further, unit)
            if not more or more <= room:
                room, arms = room - more, arms + further
            else:
                what = f"all runtime settings of {planned.id} but the first"
                self.left_out.append(Refusal(what=what, reason=left_out(box.asked_s, more, room)))
                each = replace(each, planned=planned.model_copy(update={"settings": planned.settings[:1]}))
            found[planned.id] = each
        return tuple(found[each.planned.id] for each in built)

    def _account(self, box: TimeBox) -> TimeAccount:
        return TimeAccount(
            box_s=box.asked_s,
            left_s=box.left_s,
            unit=self._unit(),
            max_finalists=self.plan.max_finalists,
            gain=self.plan.gain,
            must=self._must(),
        )

    def _must(self) -> frozenset[str]:
        """Return the first candidate of every recipe that was asked for by name, until one of it was made."""
        made = {each.planned.recipe for each in self.built.values()}
        asked = {name for name in self.context.options.recipes if name not in made}
        firsts = {each.recipe: each.id for each in reversed(self.plan.candidates) if each.recipe in asked}
        return frozenset(firsts.values())

    def _unit(self) -> UnitCosts:
        unit = revised(self.plan.unit, self._taken)
        return unit.model_copy(update={"ready": quantised(self._todo, self.prepared, self.context)})

    def _measured(self) -> list[PlannedCandidate]:
        """Return what will be measured of what was made."""
        return [e.planned for e in evaluations(self.built.values()) if e.verdict is None or e.eligible]

    def _after_s(self, candidates: Sequence[PlannedCandidate], *, least: bool = False) -> float:
        return after_s(candidates, revised(self.plan.unit, self._taken), self.plan.max_finalists, least=least)

    def _concerning(self, planned: PlannedCandidate) -> BuildContext:
        """The context for one candidate's own work; what can be left out of that makes room for planned candidates."""
        context = self.context.concerning(candidate=planned.id)
        if context.box is None:
            return context
        unit, made = self._unit(), [*self._measured(), planned]
        reserved, planned_ids = 0.0, {each.id for each in self.plan.candidates}
        for each in self._todo:
            if each.id in planned_ids:
                reserved += making_s(each, made, unit)
                made.append(each)
        box = replace(context.box, unit=unit, reserved_s=reserved + self._after_s(made))
        return replace(context, box=box)

    def _drop(self, gone: Sequence[PlannedCandidate]) -> None:
        self._todo = [each for each in self._todo if each not in gone]
