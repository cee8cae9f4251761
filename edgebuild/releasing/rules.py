"""What may be released: a pure rule over a build's record, with its reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.objective import OBJECTIVES
from edgebuild.core.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.core.record import CandidateRecord
    from edgebuild.releasing.values import BuildFolder


def unreleasable(build: BuildFolder, changed: Sequence[str]) -> tuple[str, ...]:
    """Return every reason why a build can't be released; none where it can.

    ``changed`` are the folders of its evidence that aren't what they were.
    """
    return tuple(_reasons(build, changed))


def _reasons(build: BuildFolder, changed: Sequence[str]) -> Iterator[str]:
    record, chosen = build.record, build.chosen
    if record.outcome != "ok" or chosen is None:
        yield f"it ended as {record.outcome}: {record.summary}"
        return
    if record.emulated is not None:
        yield f"it was checked on an emulated {record.emulated.cpu}, and measured nowhere"
    yield from _of_accuracy(build, chosen)
    if OBJECTIVES[record.objective].timed and chosen.measured.latency is None and chosen.measured.throughput is None:
        yield f"it is to be fast, and {chosen.id} was never measured"
    if chosen.crosscheck is not None and chosen.crosscheck.refuses:
        yield f"the cross-check of {chosen.id}: {chosen.crosscheck.explanation}"
    for path in changed:
        yield f"its evidence {path} is gone or was changed since"
    for name in build.missing:
        yield f"its {name} is missing; a build that is made again keeps it"


def _of_accuracy(build: BuildFolder, chosen: CandidateRecord) -> Iterator[str]:
    test = chosen.test
    if build.record.test_set is None or test is None:
        yield f"{chosen.id} was never scored on the test set"
    elif test.outcome is not Outcome.ACCEPTED:
        yield f"the verdict on {chosen.id} is {test.outcome.value}: {'; '.join(test.reasons)}"
    elif test.emulated:
        yield f"the verdict on {chosen.id} rests on an emulated CPU"
