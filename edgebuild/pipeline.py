"""Read this first: a build is these calls, in this order, and nothing else.

::

    edgebuild.toml → read data → prepare → plan → compress → make candidates → race → open the test set → conclude

``inspect`` reads, ``plan`` is pure, the rest is cached work; ``compress`` carries out recipes. No stage sees a later
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.steps import NoProgress, never_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.benching.bench import BenchReport, BenchRequest
    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.core.record import BuildRecord
    from edgebuild.core.steps import Progress
    from edgebuild.fleet.provider import DeviceProvider
    from edgebuild.planning.plan import Plan


def build(
    project: Project,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
    devices: DeviceProvider | None = None,
) -> tuple[BuildRecord, ...]:
    """Build for every target and return one record each, written to disk with its evidence.

    ``devices`` is where devices come from. Default: the user's inventory.

    A missed budget or an inconclusive verdict is a record like any other: look at ``outcome``. The sealed test set is
    opened once, for the finalists of all targets together. Raises ``EdgebuildError``; whatever was finished until
    then is kept, and a second call resumes from there.
    """
    from edgebuild.building import (
        conclude,
        context,
        early,
        inspect,
        plans,
        prepare,
        scoring,
        target_build,
        targets,
        timebox,
    )
    from edgebuild.building.ways import way_of
    from edgebuild.execution import turns

    stopping = turns.Stopping(check)
    progress = progress or NoProgress()
    with context.open_build(
        project, options or context.Options(), progress=progress, check=stopping, devices=devices
    ) as w:
        inspect.check_recipes(w.project, w.options)
        with targets.open_targets(w, context.targets_of(w.project, w.options)) as there:
            given = prepare.import_model(w)
            early.tell(w, opens_test_set=any(way_of(at.can).opens_test_set for at in there))
            common = prepare.prepare(w, given)
            early.tell_reference(w, common)
            planned = [plans.plan_target(at, common) for at in timebox.shared(there)]
            built = target_build.build_targets(planned, common, stopping)
            scored = scoring.open_test_set(built, common)
            return tuple(conclude.conclude(each, scores) for each, scores in zip(built, scored, strict=True))


def plan(
    project: Project, options: Options | None = None, *, devices: DeviceProvider | None = None
) -> tuple[Plan, ...]:
    """Return what a build would try for each target, what is refused and why, and about how long it takes.

    Writes nothing; runs this machine's probe and, for their first samples, the data callables. A device is what it was
    when it was enrolled, and a target without one is what its facts say.
    """
    from edgebuild.building import context, plans
    from edgebuild.fleet import provider

    return plans.plan_only(project, options or context.Options(), devices or provider.InventoryProvider())


def bench(
    request: BenchRequest,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
    devices: DeviceProvider | None = None,
) -> BenchReport:
    """Measure any ONNX file, OpenVINO IR or artifact on this machine under the certify protocol; no project needed."""
    from edgebuild.benching import bench as benching

    return benching.run_bench(request, progress=progress or NoProgress(), check=check, devices=devices)
