"""What a session decides between rounds, from the launches made so far: who leaves, and whether it goes on. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.measuring import statistics

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgebuild.core.measurement import Launch
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm

#: An arm that is so much slower than the fastest of its contest after a round is not launched again when screening.
HOPELESS = 1.3


def open_questions(
    names: Collection[str], launches: Mapping[str, Sequence[Launch]], protocol: Protocol, count: int
) -> frozenset[str]:
    """Return the arms that are launched again after ``count`` launches of each: the fastest and those tied with it.

    Empty where it is settled who is the fastest, and by how much the others are slower. All looks of a protocol share
    its 5 %, so that several err no more often than one.
    """
    seen = {name: launches.get(name, ())[:count] for name in names}
    fastest = min(names, key=lambda name: (_median_ms(seen[name]), name))
    looks = protocol.looks
    tied = set()
    for name in names:
        pairs = statistics.paired_medians(seen[fastest], seen[name])
        found = statistics.compare(pairs, look=looks.index(count) + 1, looks=len(looks))
        if name != fastest and (found is None or found.outcome == "inconclusive"):
            tied.add(name)
    return frozenset({fastest, *tied}) if tied else frozenset()


def hopeless(
    arms: Sequence[Arm], launches: Mapping[str, Sequence[Launch]], protocol: Protocol, count: int
) -> dict[str, str]:
    """Return the arms that can't win their contest any more after ``count`` launches of each, with the reason."""
    what = "latency" if protocol.mode == "single" else "time per inference"
    found = {}
    for contest in {arm.contest for arm in arms}:
        rivals = [arm for arm in arms if arm.contest == contest]
        # Launches of later rounds are there already when a session is resumed; they don't count yet.
        medians = {arm.id: _fastest(launches.get(arm.id, [])[:count]) for arm in rivals}
        best = min((arm.id for arm in rivals if arm.sets_pace), key=lambda name: (medians[name], name), default=None)
        for arm in rivals:
            if best is None or arm.keep or medians[arm.id] == float("inf"):
                continue
            if medians[arm.id] > HOPELESS * medians[best]:
                found[arm.id] = (
                    f"{medians[arm.id] / medians[best]:.2f}x the {what} of {best} "
                    f"after {count} of {protocol.launches} screening launches"
                )
    return found


def _median_ms(launches: Sequence[Launch]) -> float:
    valid = sorted(launch.cost_ns / 1e6 for launch in launches if launch.valid)
    return valid[len(valid) // 2] if valid else float("inf")


def _fastest(launches: Sequence[Launch]) -> float:
    """The fastest valid launch; infinity where there is none, which says nothing about the arm."""
    return min((launch.cost_ns / 1e6 for launch in launches if launch.valid), default=float("inf"))
