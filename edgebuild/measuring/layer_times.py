"""Times a layer against its replacement: each in isolation, in fresh processes, in balanced AB/BA order."""

from __future__ import annotations

import json
import shutil
import statistics as stdlib
from typing import TYPE_CHECKING, ClassVar

from edgebuild.core.artifact import Setting
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.measurement import LayerTime
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.devices.client import client_of
from edgebuild.devices.hold import clocks_as_asked
from edgebuild.errors import EnvironmentGap
from edgebuild.measuring import session
from edgebuild.measuring.protocols import Protocol
from edgebuild.techniques.timing.layer_pairs import SIDES
from edgebuild.techniques.timing.layer_times import TIME_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.measuring.session import Arm, SessionResult

#: What each launch said, without its raw samples: a choice was made by it, and nothing is claimed.
LAUNCHES_FILE = "launches.json"


class TimeLayer(Step):
    """Times two compiled models on the device. Inputs: ``before``, ``after`` (artifacts), ``data``.

    Writes ``time.json`` (``LayerTime``) and ``launches.json``. Raises ``EnvironmentGap``
    where too few launches count to compare them: the machine was busy.
    """

    protocol: Protocol
    who: str
    settings: tuple[tuple[str, Setting], ...] = ()
    pin_clocks: bool = False
    kind: ClassVar[str] = "time-layer"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE
    measures: ClassVar[bool] = True
    #: What people read.
    unkeyed: ClassVar[frozenset[str]] = frozenset({"who"})

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        client = client_of(ctx)
        client.device.capabilities.require_clock(client.device.id)
        arms = [self._arm(side, inputs) for side in SIDES]
        bench = session.MeasurementContext(
            client=client, root=ctx.scratch, progress=ctx.progress, check=ctx.check, configuration=(), seed=ctx.seed
        )
        with clocks_as_asked(client, {}, pin=self.pin_clocks, check=ctx.check):
            result = session.measure(bench, self.protocol, arms, title=f"Timing {self.who}")
        (out_dir / TIME_FILE).write_text(_compared(result, self.who).to_json())
        launches = {
            side: [launch.model_dump(mode="json") for launch in measured.launches]
            for side, measured in result.measurements.items()
        }
        (out_dir / LAUNCHES_FILE).write_text(json.dumps(launches, sort_keys=True))

    def _arm(self, side: str, inputs: Mapping[str, Path]) -> Arm:
        artifact = read_artifact(inputs[side])
        # The scratch folder is this step's alone, so that the session's own key need not tell inputs apart.
        return session.Arm(
            id=side,
            artifact=artifact.with_settings(self.settings) if self.settings else artifact,
            folder=inputs[side],
            inputs=inputs["data"],
            inputs_digest="",
            keep=True,
        )


def _compared(result: SessionResult, who: str) -> LayerTime:
    before, after = SIDES
    comparison = session.compare_arms(result, after, before)
    if comparison is None:
        reasons = {why for m in result.measurements.values() for launch in m.launches for why in launch.invalid}
        # A session that says nothing isn't to be found again.
        shutil.rmtree(result.folder.path)
        raise EnvironmentGap(
            f"Too few launches of {who} count: {'; '.join(sorted(reasons)) or 'nothing was timed'}.",
            hint="Build again when the machine is quieter.",
        )
    medians = {side: stdlib.median(result.medians(side).values()) for side in SIDES}
    return LayerTime(before_ms=medians[before], after_ms=medians[after], comparison=comparison)
