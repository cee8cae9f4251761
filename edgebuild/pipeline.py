"""Read this first: a build is these calls, in this order, and nothing else.

::

    edgebuild.toml → inspect → plan → prepare → make candidates → race → open the test set → conclude

``inspect`` reads, ``plan`` is pure, the rest is cached work. No stage sees a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.building.bench import BenchReport, BenchRequest
    from edgebuild.building.world import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.core.steps import Progress
    from edgebuild.core.verdict import BuildRecord
    from edgebuild.planning.plan import Plan


def build(
    project: Project,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> tuple[BuildRecord, ...]:
    """Build for every target and return one record each, written to disk with its evidence.

    A missed budget or an inconclusive verdict is a record like any other: look at ``outcome``. The sealed test set is
    opened once, for the finalists of all targets together. Raises ``EdgebuildError``; whatever was finished until
    then is kept, and a second call goes on from there.
    """
    from edgebuild.building import candidates, conclude, plans, prepare, race, world

    with world.open_world(project, options or world.Options(), progress=progress or NoProgress(), check=check) as w:
        common = prepare.prepare(w)
        planned = [plans.plan_target(w, common, target) for target in world.targets_of(w.project, w.options)]
        built = [candidates.make_candidates(plan, common, w) for plan in planned]
        races = [race.run_race(made, common, w) for made in built]
        opened = conclude.open_test_set(races, common, w)
        return tuple(
            conclude.conclude(plan, made, raced, opened, w)
            for plan, made, raced in zip(planned, built, races, strict=True)
        )


def plan(project: Project, options: Options | None = None) -> tuple[Plan, ...]:
    """Return what a build would try for each target, what is refused and why, and about how long it takes.

    Writes nothing and runs nothing but the probe.
    """
    from edgebuild.building import plans, world

    return plans.plan_only(project, options or world.Options())


def bench(
    request: BenchRequest, *, progress: Progress | None = None, check: Callable[[], None] = never_stop
) -> BenchReport:
    """Measure any ONNX file, OpenVINO IR or artifact on this machine under the certify protocol; no project needed."""
    from edgebuild.building import bench as benching

    return benching.run_bench(request, progress=progress or NoProgress(), check=check)
