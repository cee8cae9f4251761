"""The devices of a farm, for a build or a plan of a project."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from edgebuild.cli.console import say_error
from edgebuild.cli.farm_running import installed
from edgebuild.core.steps import never_stop
from edgebuild.core.values import digest_json
from edgebuild.errors import EdgebuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.core.steps import Progress
    from edgebuild.farm.provider import FarmProvider


@contextlib.contextmanager
def devices_of(
    farm: str | None,
    project: Project,
    options: Options,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> Iterator[FarmProvider | None]:
    """Yield the devices of the farm at an address, None without one; raises ``UsageError`` for a target it lacks.

    What is built again in the same place gets the same board.
    """
    if farm is None:
        yield None
        return
    with installed():
        from edgebuild.building.context import HOME, targets_of
        from edgebuild.farm.endpoint import address_of
        from edgebuild.farm.provider import DEFAULT_S, MARGIN_S, FarmProvider
        from edgebuild.farm.reporting import finished

        place = digest_json([socket.gethostname(), str(project.folder.resolve())])[:12]
        provider = FarmProvider(
            address_of(farm),
            device=options.device,
            affinity=f"{project.name}-{place}",
            purpose=options.command,
            duration_s=DEFAULT_S if options.time_s is None else options.time_s + MARGIN_S,
            until_s=float("inf") if options.time_s is None else time.monotonic() + options.time_s,
            progress=progress,
            check=check,
        )
    with contextlib.closing(provider):
        provider.require_targets(targets_of(project, options))
        root = project.folder / HOME / "measurements"
        before = finished(root)
        try:
            yield provider
        finally:
            _report(provider, root, project.name, before)


def _report(provider: FarmProvider, root: Path, model: str, before: frozenset[str]) -> None:
    """A farm that can't keep what was measured is no reason to lose the outcome of a build."""
    try:
        provider.report(root, model, before)
    except EdgebuildError as error:
        say_error(f"The farm doesn't keep all that was measured: {error.message}", error.hint)
