"""One launch of one arm: what the device is asked for, and what of its answer is kept once it was checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.core.measurement import Launch
from edgebuild.devices import answers
from edgebuild.measuring.samples import burst_medians, require_samples

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.artifact import Artifact
    from edgebuild.devices.client import RunnerClient
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.measuring.session import Arm

#: The host stops waiting for a launch after its longest legal duration and this much for loading.
LAUNCH_GRACE_S = 120.0
#: A launch reads the whole artifact first, to hold it against its digest; no board is slower than this.
READ_BYTES_PER_S = 10e6


def grace_s(artifact: Artifact) -> float:
    """Return how long a launch may take in addition to its warm-up and its samples, in seconds."""
    return LAUNCH_GRACE_S + artifact.size_bytes / READ_BYTES_PER_S


def launch_request(client: RunnerClient, protocol: Protocol, arm: Arm, out: str) -> dict[str, Any]:
    """Return the request of a launch whose samples are to lie in the folder ``out`` on the device."""
    return {
        "backend": arm.artifact.backend,
        "artifact": client.put_folder(arm.folder),
        "settings": dict(arm.artifact.settings),
        "inputs": client.put_folder(arm.inputs),
        "out": out,
        "rotate": protocol.rotate,
        "warmup_min_inferences": protocol.warmup_min_inferences,
        "warmup_min_s": protocol.warmup_min_s,
        "warmup_cap_s": protocol.warmup_cap_s,
        "bounds": {
            "waiting_ratio": protocol.waiting_ratio,
            "steal_ratio": protocol.steal_ratio,
            "spread_ratio": protocol.spread_ratio,
        },
    }


def fetch_launch(
    client: RunnerClient, answer: Mapping[str, Any], remote: str, folder: Path, *, index: int, label: str
) -> Launch:
    """Fetch a launch's raw samples into ``folder``, and return it as what its ``answer`` and they say, checked.

    Raises ``DeviceError`` where they don't fit each other; nothing is kept then.
    """
    name = f"launch-{index:04d}.i64"
    samples = answers.samples_of(answer)
    client.fetch(remote, [samples], folder)
    fetched = folder / samples.name
    try:
        require_samples(fetched, answer, client.device.id)
        medians = burst_medians(fetched, answer["bursts"]) if "bursts" in answer else ()
        fetched.replace(folder / name)
    finally:
        fetched.unlink(missing_ok=True)
    return Launch.model_validate({**answer, "burst_ns": medians, "index": index, "arm": label, "samples": name})
