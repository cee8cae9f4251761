"""What is concluded about a candidate."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from edgebuild.core.values import Value


class Outcome(StrEnum):
    """What a verdict says."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"


class Drop(Value):
    """The metric of reference and artifact on identical samples, and the paired interval of their difference.

    ``drop`` is in the metric's own units, positive when the artifact is worse; ``low``/``high`` bound it at ``level``.
    ``needed_samples`` is set when the interval straddles the budget: about how many more samples would decide.
    """

    metric: str
    split: Literal["validation", "test"]
    samples: int
    groups: int | None = None
    reference: float
    artifact: float
    drop: float
    low: float
    high: float
    level: float
    method: str
    budget: float
    needed_samples: int | None = None


class SliceDrop(Value):
    """The drop inside one slice or class."""

    slice: str
    samples: int
    reference: float
    artifact: float
    drop: float
    low: float
    high: float
    limit: float | None = None


class LimitCheck(Value):
    """One limit against what was measured; ``measured`` is ``None`` for a missing sensor, which never passes."""

    name: str
    limit: float
    measured: float | None
    outcome: Outcome


class Verdict(Value):
    """One candidate against budget and limits. ``emulated``: its outputs came from an emulated CPU."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    emulated: bool = False
    drop: Drop | None = None
    slices: tuple[SliceDrop, ...] = ()
    limits: tuple[LimitCheck, ...] = ()


class Closeness(Value):
    """How near the artifact's outputs are to the reference's: signal-to-noise in dB, and KL in nats for classifiers."""

    sqnr_db: float | None = None
    kl_nats: float | None = None
    agreement: float | None = None


class LayerGap(Value):
    """A layer of an int8 artifact that makes something else of its inputs than the unoptimised graph does.

    ``steps`` is the largest difference in codes of the quantised tensor ``tensor`` (in steps of the output for a float
    one), ``share`` that of its elements which differ by more than one, ``why`` the reason where one can be shown.
    """

    node: str
    op: str
    tensor: str
    steps: float
    share: float
    why: str = ""


class CrossCheck(Value):
    """An int8 artifact's outputs on the target's kernels against the unoptimised Q/DQ graph.

    ``steps`` is the largest gap in quantisation steps at ``output``, ``share`` that of the output's elements beyond one
    step. ``reach`` is the largest gap as a multiple of what rounding alone makes of that output; None where the gap is
    at most one step, or the layers decided.
    """

    cause: Literal["agrees", "rounding", "layer", "unexplained", "not checked"]
    explanation: str
    sample: str = ""
    frames: int = 0
    output: str | None = None
    steps: float | None = None
    share: float | None = None
    reach: float | None = None
    layer: LayerGap | None = None

    @property
    def counts(self) -> bool:
        """Whether the candidate is ranked behind those whose kernels do what the graph says."""
        return self.cause == "layer"

    @property
    def refuses(self) -> bool:
        """Whether the candidate is refused: nobody knows what its outputs will be on the next device of the family."""
        return self.cause == "unexplained"


class SealedSetAccess(Value):
    """One opening of a test set: ``number`` counts from 1, ``level`` is the confidence of its verdicts.

    ``artifacts`` are the digests of what was scored, ``others`` counts the openings of other test sets of the project.
    """

    number: int = Field(ge=1)
    opened_at: str
    artifacts: tuple[str, ...]
    others: int = 0
    level: float

    @property
    def text(self) -> str:
        """How it is printed."""
        made = f"opening {self.number} of the test set ({self.opened_at[:10]}, {len(self.artifacts)} artifacts)"
        return made if not self.others else f"{made}; {self.others} of other test data are on record"
