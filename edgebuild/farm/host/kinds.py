"""What a job can be: each kind is a function that does one on the host, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from edgebuild.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.farm.host.orders import Assignment, Outcome

Work: TypeAlias = "Callable[[Assignment], Outcome]"


def _bench(assignment: Assignment) -> Outcome:
    from edgebuild.farm.host.benching import bench

    return bench(assignment)


def _check(assignment: Assignment) -> Outcome:
    from edgebuild.farm.host.checking import check

    return check(assignment)


def _work(loaded: Any) -> Work | None:
    made: Work | None = loaded if callable(loaded) else None
    return made


#: Packages that a host's owner installed may bring more; nobody else can.
KINDS: Registry[Work] = Registry(
    group="edgebuild.jobs", kind="kind of job", table={"bench": _bench, "check": _check}, accept=_work
)
