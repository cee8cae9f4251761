"""What an emulated device is asked in addition to outputs: peak memory, and instructions by class. Never a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from edgebuild.core.artifact import Setting
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.measurement import Memory
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.core.values import digest_file
from edgebuild.devices.client import RunnerClient, client_of
from edgebuild.devices.emulator.setup import PLUGIN_SOURCE
from edgebuild.devices.transport import CountsInstructions
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.artifact import Artifact
    from edgebuild.core.values import Json

LIMIT_S = 240.0
MEMORY_INFERENCES = 4


class ProfileEmulated(Step):
    """Runs an artifact a few times under the emulator. Inputs: ``artifact``, ``data``.

    Writes ``memory.json`` and ``counts.json``: the instructions of one inference by class, with ``why`` there are none
    where they can't be counted.
    """

    plugin_digest: str
    settings: tuple[tuple[str, Setting], ...] = ()
    kind: ClassVar[str] = "profile-emulated"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        artifact = read_artifact(inputs["artifact"])
        with ctx.progress.task(f"Memory and instructions of {artifact.precision.label} (emulated)"):
            memory = self._call(client_of(ctx), "memory", inputs, artifact, ctx)
            found = Memory.model_validate({**memory, "emulated": True})
            counts = self._counts(inputs, artifact, ctx)
        (out_dir / "memory.json").write_text(found.to_json())
        (out_dir / "counts.json").write_text(json.dumps(counts, sort_keys=True))

    def _counts(self, inputs: Mapping[str, Path], artifact: Artifact, ctx: StepContext) -> dict[str, Json]:
        client = client_of(ctx)
        device = client.device
        if not isinstance(device, CountsInstructions):
            return {"why": "only an emulator counts instructions"}
        if device.why_no_counts:
            return {"why": device.why_no_counts}
        counting = device.counting()
        # One of its own: every program that it starts is counted, and slower.
        counter = client.on(counting)
        answer = self._call(counter, "count", inputs, artifact, ctx)
        counting.get(counting.counts, ctx.scratch / "counts.json")
        counting.remove(f"{counting.root}/{counting.counts}")
        found = json.loads((ctx.scratch / "counts.json").read_bytes())
        inferences = answer.get("inferences")
        if not isinstance(inferences, int) or inferences < 1:
            raise DeviceError(f"{device.id} says nothing of how many inferences it counted.")
        return {"classes": {name: round(int(total) / inferences) for name, total in found.items()}}

    def _call(
        self, client: RunnerClient, op: str, inputs: Mapping[str, Path], artifact: Artifact, ctx: StepContext
    ) -> dict[str, Json]:
        held = client_of(ctx)
        return client.call(
            op,
            {
                "backend": artifact.backend,
                "artifact": held.put_folder(inputs["artifact"]),
                "settings": dict(self.settings or artifact.settings),
                "inputs": held.put_folder(inputs["data"]),
                "inferences": MEMORY_INFERENCES,
                "seconds": 0.0,
                "rotate": MEMORY_INFERENCES,
                "emulated": True,
            },
            time_limit_s=LIMIT_S,
            check=ctx.check,
        )


def plugin_digest() -> str:
    """Return the digest of the plugin's source."""
    return digest_file(PLUGIN_SOURCE)
