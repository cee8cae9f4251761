"""Launches beside a session's rounds, each a process of its own: memory, energy, and what the layers run in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.core.measurement import Energy, Layer, Memory
from edgebuild.measuring.launching import grace_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.measuring.session import Arm, MeasurementContext
    from edgebuild.measuring.session_folder import SessionFolder


#: How long an artifact is run while its memory is watched.
MEMORY_S = 1.0


def measure_memory(bench: MeasurementContext, folder: SessionFolder, arm: Arm) -> Memory:
    """Measure peak memory in a launch of its own, once per session and arm."""
    answer = _side_launch(bench, folder, arm, "memory", {"inferences": 50, "seconds": MEMORY_S})
    return Memory.model_validate(answer)


def measure_energy(bench: MeasurementContext, folder: SessionFolder, arm: Arm) -> Energy | None:
    """Measure energy in a launch of its own; None where the device has no readable sensor."""
    answer = _side_launch(bench, folder, arm, "energy", {})
    return None if "sensor" in answer else Energy.model_validate(answer)


def read_layers(bench: MeasurementContext, folder: SessionFolder, arm: Arm) -> tuple[Layer, ...]:
    """Ask the runtime what precision each layer really runs in, with a time per layer where it has one."""
    answer = _side_launch(bench, folder, arm, "layers", {})
    return tuple(Layer.model_validate(layer) for layer in answer["layers"])


def _side_launch(bench: MeasurementContext, folder: SessionFolder, arm: Arm, op: str, extra: Mapping[str, Any]) -> Any:
    name = f"{op}-{arm.artifact.digest()[:16]}"
    found = folder.extras(name)
    if found is None:
        found = _call(bench, arm, op, extra)
        folder.record_extra(name, found)
    return found


def _call(bench: MeasurementContext, arm: Arm, op: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    client = bench.client
    client.device.capabilities.require_clock(client.device.id)
    return client.call(
        op,
        {
            "backend": arm.artifact.backend,
            "artifact": client.put_folder(arm.folder),
            "settings": dict(arm.artifact.settings),
            "inputs": client.put_folder(arm.inputs),
            **extra,
        },
        time_limit_s=grace_s(arm.artifact) * 2,
        check=bench.check,
    )
