"""What the clock decided: a finished build that is asked for again decides the same, and times nothing anew.

In a time box nearly everything is in the store the second time around, so there would be time for more, and a build
that was finished would go on: further candidates, further finalists, another session. Nobody who repeats a command
expects that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import ValidationError

from edgebuild.core.checked_json import read_with_digest, with_digest
from edgebuild.measuring.session_folder import reusable, write_atomic, writing
from edgebuild.planning.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from edgebuild.core.values import Json
    from edgebuild.planning.candidates import PlannedCandidate

FOLDER = "decided"
Decided = TypeVar("Decided", int, bool, "str | None")


@dataclass
class Decisions:
    """The decisions of one target's build. ``path`` is where they are kept at its end; nowhere without one.

    ``earlier`` are those of the finished build that is asked for again.
    """

    path: Path | None = None
    earlier: Mapping[str, Json] = field(default_factory=dict)
    made: dict[str, Json] = field(default_factory=dict)

    def once(self, what: str, decide: Callable[[], Decided]) -> Decided:
        """Return what was decided earlier, else decide."""
        found = cast("Decided", self.earlier[what]) if what in self.earlier else decide()
        self.made[what] = found
        return found

    def keep(self, plan: Plan, made: Iterable[PlannedCandidate], sessions: Iterable[Path]) -> None:
        """Write down what became of the plan, and what it was measured in; raises ``StoreError``."""
        if self.path is None:
            return
        done = plan.model_copy(update={"candidates": tuple(made), "spare": ()})
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        names: list[Json] = [session.name for session in sessions]
        fields: dict[str, Json] = {"plan": done.model_dump(mode="json"), "decided": self.made, "sessions": names}
        write_atomic(self.path, with_digest(fields))


def recalled(path: Path, measurements: Path) -> tuple[Plan, Decisions] | None:
    """Return the plan and the decisions of the finished build that they were kept of at ``path``.

    None where there is none, or where what it measured isn't there any more or too old: then there is work to do, for
    which the time box holds.
    """
    try:
        fields = read_with_digest(path.read_bytes()) or {}
        plan, decided, sessions = Plan.model_validate(fields["plan"]), fields["decided"], fields["sessions"]
    except (OSError, KeyError, ValidationError):
        return None
    if not isinstance(decided, dict) or not isinstance(sessions, list):
        return None
    if not all(isinstance(name, str) and reusable(measurements, name) for name in sessions):
        return None
    return plan, Decisions(path=path, earlier=decided)
