"""What a time box still holds, and which candidate is worth its time next. Pure: a clock is read elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgebuild.planning.costs import LEAST_RACED, after_s, making_s, more_arms_s, spared_s

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgebuild.planning.candidates import PlannedCandidate
    from edgebuild.planning.inputs import UnitCosts

#: What a candidate is expected to bring, where int8 on the profile that is preferred brings 1. Only their order and
#: rough ratios matter: what is tried is measured. What isn't raced only saves space.
GAINS = {"int8": 1.0, "int8-dynamic": 0.6, "bf16": 0.5, "fp16": 0.5, "int8-storage": 0.5, "fp32": 0.4}
STORAGE_GAIN = 0.01
#: Each further profile, and each further quantiser of a profile, is expected to bring less than the one before it.
NEXT_PROFILE, NEXT_QUANTISER = 0.8, 0.9
#: Another one of the same kind on the same profile is only an alternative; a recipe may miss the budget.
ALTERNATIVE, RECIPE = 0.3, 0.7
#: No candidate costs nothing.
LEAST_S = 0.1
#: With so few calibration samples the first int8 is made where there is no time for more: ranges are rough, and judged.
FEW_SAMPLES = 64


def gains(candidates: Sequence[PlannedCandidate]) -> dict[str, float]:
    """Return by id what each candidate is expected to bring. Profiles and quantisers come in order of preference."""
    profiles = list(dict.fromkeys(each.profile for each in candidates))
    quantisers: dict[tuple[str, str], int] = {}
    found = {}
    for each in candidates:
        gain = GAINS[each.precision.kind] * NEXT_PROFILE ** profiles.index(each.profile)
        if each.precision.only_stored and not each.raced:
            gain *= STORAGE_GAIN / GAINS[each.precision.kind]
        if each.precision.kind == "int8":
            rank = quantisers.get((each.profile, each.recipe), 0)
            quantisers[each.profile, each.recipe] = rank + 1
            gain *= NEXT_QUANTISER**rank
        found[each.id] = gain * (RECIPE if each.recipe else 1.0)
    return found


@dataclass(frozen=True, kw_only=True)
class TimeAccount:
    """A time box of ``box_s`` of which ``left_s`` are left, and what work costs.

    What must follow the candidates is reserved: screening, certifying, the test set, the report. For the baseline's
    first rival that is the least that a verdict takes; further ones leave certifying until its first look. What isn't
    raced can't win: it leaves the time that all runtime settings of the others take. ``must`` names candidates that are
    made whatever they take, ``recipe_s`` what carrying out a recipe takes that is still to be carried out.
    """

    box_s: float
    left_s: float
    unit: UnitCosts
    max_finalists: int
    gain: Mapping[str, float]
    must: frozenset[str] = frozenset()
    recipe_s: Mapping[str, float] = field(default_factory=dict)

    def spend(self, seconds: float) -> TimeAccount:
        """Return the account after that much time."""
        return replace(self, left_s=self.left_s - seconds)

    def fits(self, planned: PlannedCandidate, made: Collection[PlannedCandidate]) -> bool:
        """Whether a candidate can be made, and then all that were made can be measured, inside the box."""
        return self.left_s >= self.making_s(planned, made) + self._after_s(planned, made)

    def choose(self, todo: Sequence[PlannedCandidate], made: Collection[PlannedCandidate]) -> PlannedCandidate | None:
        """Return what to make next, None where nothing fits any more.

        First what must be made, the baseline of all; then an int8 of the original, if need be calibrated with few
        samples, then whatever brings most per second. ``made`` are those that may be measured.
        """
        must = [each for each in todo if each.baseline or each.id in self.must]
        if must:
            return min(must, key=lambda each: (not each.baseline, -self._rate(each, made)))
        if not made:
            return max(todo, key=lambda each: self._rate(each, made), default=None)
        fitting = [each for each in todo if self.fits(each, made)]
        first: list[PlannedCandidate] = []
        if not any(_plain_int8(each) for each in made):
            first = [each for each in fitting if _plain_int8(each)]
            first = first or [each for each in map(self._hasty, todo) if each is not None and self.fits(each, made)]
        return max(first or fitting, key=lambda each: self._rate(each, made), default=None)

    def _hasty(self, planned: PlannedCandidate) -> PlannedCandidate | None:
        """Return an int8 of the original with few calibration samples; None where that saves nothing."""
        spares = _plain_int8(planned) and spared_s(planned.precision.quantiser or "", FEW_SAMPLES, self.unit) > 0
        return planned.model_copy(update={"samples": FEW_SAMPLES}) if spares else None

    def why_not(self, planned: PlannedCandidate, made: Collection[PlannedCandidate]) -> str:
        """Return why a candidate that doesn't fit is left out, in seconds."""
        takes, left = self.making_s(planned, made), self.left_s - self._after_s(planned, made)
        return left_out(self.box_s, takes, left)

    def making_s(self, planned: PlannedCandidate, made: Collection[PlannedCandidate]) -> float:
        """Return what making one more candidate takes, its recipe included where that is still to be carried out."""
        begun = {each.recipe for each in made}
        recipe_s = 0.0 if planned.recipe in begun else self.recipe_s.get(planned.recipe, 0.0)
        return recipe_s + making_s(planned, made, self.unit)

    def _after_s(self, planned: PlannedCandidate, made: Collection[PlannedCandidate]) -> float:
        raced = [each for each in made if each.raced]
        least = planned.raced and len(raced) < LEAST_RACED
        further = 0 if planned.raced else sum(len(each.settings) - 1 for each in raced if each.settings)
        settings_s = more_arms_s(len(raced), len(raced), further, self.unit)
        return settings_s + after_s((*made, planned), self.unit, self.max_finalists, least=least)

    def _rate(self, planned: PlannedCandidate, made: Collection[PlannedCandidate]) -> float:
        """What a candidate brings per second that it takes until the end of the build."""
        kind = (planned.profile, planned.recipe, planned.precision.kind)
        again = any((each.profile, each.recipe, each.precision.kind) == kind for each in made)
        more = after_s((*made, planned), self.unit, self.max_finalists) - after_s(made, self.unit, self.max_finalists)
        takes = max(self.making_s(planned, made) + more, LEAST_S)
        return self.gain[planned.id] * (ALTERNATIVE if again else 1.0) / takes


def left_out(box_s: float, takes_s: float, left_s: float) -> str:
    """Return the reason for what doesn't fit a time box."""
    left = f"{left_s:.0f} s are left for it" if left_s >= 1 else "nothing is left for it"
    return f"left out to stay inside {box_s:.0f} s: it takes about {takes_s:.0f} s, and {left}"


def fewer_samples(name: str) -> str:
    """Return what is left out of a candidate, by id, that is calibrated with few samples."""
    return f"all calibration samples of {name} but {FEW_SAMPLES}"


def _plain_int8(planned: PlannedCandidate) -> bool:
    return planned.precision.kind == "int8" and not planned.recipe
