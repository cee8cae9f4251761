"""A candidate as it is planned: what is built, and what this build does with it."""

from __future__ import annotations

from edgebuild.core.candidate import CandidateSpec, Settings


class PlannedCandidate(CandidateSpec):
    """A candidate that a build will make, with the settings to race.

    ``raced`` is false where a precision only saves space on this profile: it is then judged on size and memory.
    ``samples`` is how many calibration samples there is time for; None for as many as its quantiser takes.
    """

    settings: tuple[Settings, ...]
    raced: bool
    baseline: bool = False
    samples: int | None = None

    @property
    def spec(self) -> CandidateSpec:
        """What is built, without what this build does with it."""
        return CandidateSpec(**{name: getattr(self, name) for name in CandidateSpec.model_fields})
