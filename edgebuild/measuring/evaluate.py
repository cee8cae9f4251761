"""Evaluates an artifact in its runtime, in the shape that ships, on the device."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from edgebuild.core.artifact import Setting
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.devices.answers import outputs_of
from edgebuild.devices.client import client_of
from edgebuild.measuring.outputs import require_asked, require_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import Task

#: No evaluation takes longer than this on any device that is worth shipping to.
EVALUATION_LIMIT_S = 6 * 3600.0
#: The runner tells of progress twice a second once the model is loaded; loading and one inference take less than this.
SILENCE_S = 600.0


class EvaluateArtifact(Step):
    """Runs an artifact over a data set through the same session code that is timed.

    Inputs: ``artifact`` (folder with artifact.json), ``data`` (dataset folder). Writes an outputs folder, whose
    ``outputs.json`` also says how many values were not finite, and how many samples ended at which exit.
    """

    split: str
    settings: tuple[tuple[str, Setting], ...] = ()
    kind: ClassVar[str] = "evaluate-artifact"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE
    #: What people read; the data itself is an input.
    unkeyed: ClassVar[frozenset[str]] = frozenset({"split"})

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        artifact = read_artifact(inputs["artifact"])
        frames = json.loads((inputs["data"] / "data.json").read_bytes())["frames"]
        client = client_of(ctx)
        with (
            ctx.progress.task(f"Evaluating {artifact.precision.label} on {self.split}", total=frames) as task,
            client.workspace() as remote,
        ):
            answer = client.call(
                "evaluate",
                {
                    "backend": artifact.backend,
                    "artifact": client.put_folder(inputs["artifact"]),
                    "settings": dict(self.settings or artifact.settings),
                    "inputs": client.put_folder(inputs["data"]),
                    "outputs": remote,
                    "batch": artifact.contract.batch,
                },
                on_event=_Follow(task),
                time_limit_s=EVALUATION_LIMIT_S,
                silence_s=SILENCE_S,
                check=ctx.check,
            )
            require_asked(answer, artifact, frames, client.device.id)
            client.fetch(remote, outputs_of(answer), out_dir)
        require_outputs(out_dir, answer, client.device.id)
        names = [spec.name for spec in artifact.contract.outputs]
        kept = {"frames": frames, "outputs": names, "non_finite": answer["non_finite"]}
        kept |= {"exits": answer["exits"]} if "exits" in answer else {}
        (out_dir / "outputs.json").write_text(json.dumps(kept, sort_keys=True))


class _Follow:
    """Turns the runner's count of frames into progress."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._done: float = 0

    def __call__(self, event: Mapping[str, object]) -> None:
        count = event.get("done")
        if isinstance(count, int | float) and count > self._done:
            self._task.advance(count - self._done)
            self._done = count
