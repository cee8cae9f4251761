"""Tells a farm what was measured through a relay: whole sessions, with their raw samples."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebuild.errors import DeviceError
from edgebuild.farm.evidence import pack
from edgebuild.measuring import statistics
from edgebuild.measuring.protocols import Protocol
from edgebuild.measuring.samples import samples_reader
from edgebuild.measuring.session_folder import SessionFolder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgebuild.farm.client import FarmClient

_DIGEST = 64
_MOST_ARMS = 16
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Used:
    """A lease that was held here, and since when by this machine's own clock, as sessions have it."""

    lease: str
    since_s: float


def finished(root: Path) -> frozenset[str]:
    """Return the names of the sessions below ``root`` that came to their end."""
    return frozenset(path.parent.name for path in root.glob("*/result.json"))


def report_sessions(
    client: FarmClient, root: Path, model: str, leases: Mapping[str, Sequence[Used]], before: Collection[str]
) -> int:
    """Have a farm keep the sessions below ``root`` that were measured under these ``leases``; return how many.

    ``leases`` are those of each device, by the id that it has in sessions, in their order. A
    candidate's name is ``model/CANDIDATE``. Sessions ``before`` are known already. Left out are those with several
    requests in flight, and of single layers. Raises what the farm refuses.
    """
    told = 0
    for name in sorted(finished(root) - set(before)):
        folder = SessionFolder(path=root / name, whole=True)
        plan = folder.extras("session") or {}
        lease = _under(leases.get(plan.get("device", ""), ()), plan.get("started_at"))
        said = None if lease is None else _said(folder, plan, model)
        if said is None:
            continue
        with tempfile.TemporaryDirectory(prefix="edgebuild-report-") as scratch:
            digest = pack(folder.path, Path(scratch))
            client.send(Path(scratch) / digest)
        client.ask("POST", "/api/records", list[dict[str, Any]], {**said, "evidence": digest, "lease": lease})
        told += 1
    return told


def _under(leases: Sequence[Used], started_at: Any) -> str | None:
    """Return the lease under which a session began; the first one for a session that another run began."""
    try:
        began_s = datetime.fromisoformat(started_at).timestamp()
    except (TypeError, ValueError, OverflowError):
        began_s = 0.0
    before = [each.lease for each in leases if each.since_s <= began_s]
    return before[-1] if before else leases[0].lease if leases else None


def _said(folder: SessionFolder, plan: Mapping[str, Any], model: str) -> dict[str, Any] | None:
    """Return what is said of a session; None for one whose figures aren't those of a model alone."""
    try:
        protocol = Protocol.model_validate(plan.get("protocol"))
    except ValidationError:
        return None
    if protocol.mode != "single" or protocol.name == "layers":
        return None
    launches = folder.launches()
    arms: list[dict[str, Any]] = []
    for arm, label in plan.get("labels", {}).items():
        mine = [launch for launch in launches if launch.arm == label]
        if len(label) != _DIGEST or len(arms) == _MOST_ARMS:
            continue
        try:
            summary = statistics.summarise(mine, samples_reader(folder.path))
        except DeviceError:
            continue  # none of its launches counts
        memory, energy = (folder.extras(f"{kind}-{label[:16]}") for kind in ("memory", "energy"))
        arms.append(
            {
                "model": f"{model}/{arm}"[:_LONGEST_NAME],
                "artifact": label,
                "summary": summary.model_dump(mode="json"),
                "memory": memory,
                "energy": None if energy is None or "sensor" in energy else energy,
            }
        )
    environment = plan.get("configuration", {})
    return {"session": folder.path.name, "arms": arms, "environment": environment} if arms else None
