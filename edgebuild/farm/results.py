"""What finished jobs answer: the shape of ``Job.result``, and of what a check's readings hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebuild.core.measurement import Comparison, Energy, LatencySummary, Layer, Memory
from edgebuild.farm.values import NAMED, Message

#: The SHA-256 of a file among the farm's blobs, or of an artifact's manifest.
DIGEST = r"^[0-9a-f]{64}$"


class MeasuredArm(Message):
    """What was measured of one model. ``model`` is its name as its sender gave it, ``artifact`` the digest of what ran.

    Launches of it are found in the evidence by that digest (``Launch.arm``).
    """

    model: str = Field(max_length=200)
    artifact: str = Field(pattern=DIGEST)
    backend: str = Field(max_length=64)
    settings: dict[str, bool | int | str] = Field(default_factory=dict, max_length=64)
    size_bytes: int = Field(ge=0)
    summary: LatencySummary
    memory: Memory
    energy: Energy | None = None
    layers: tuple[Layer, ...] = Field(default=(), max_length=20_000)


class BenchResult(Message):
    """One session of one or two models on one device; ``comparison`` holds the first against the second.

    ``session`` is the name of the session's folder, unique by device and time. ``environment`` is the device's
    configuration while it was measured. ``anchor_ms`` are the medians of the anchor's launches, in their order; none
    where the anchor couldn't run. ``evidence`` is an archive of the session's folder: raw samples, launches with their
    environment, the plan.
    """

    schema_version: Literal[1] = 1
    session: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    protocol: Literal["screen", "certify"]
    device: str = Field(pattern=NAMED)
    target: str = Field(max_length=64)
    comparison: Comparison | None = None
    arms: tuple[MeasuredArm, ...] = Field(min_length=1, max_length=2)
    environment: dict[str, str] = Field(default_factory=dict, max_length=400)
    anchor_ms: tuple[float, ...] = Field(default=(), max_length=16)
    evidence: str = Field(pattern=DIGEST)
