"""Sessions that pretend to have been measured: their samples come from a generator, all else follows from them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.checked_json import with_digest
from edgebuild.core.measurement import Launch, Memory
from edgebuild.core.values import digest_bytes, digest_file
from edgebuild.farm import evidence
from edgebuild.farm.results import BenchResult, MeasuredArm
from edgebuild.measuring import statistics
from edgebuild.measuring.protocols import CERTIFY, Protocol
from edgebuild.measuring.samples import burst_medians, samples_reader
from edgebuild.measuring.session import ANCHOR
from edgebuild.measuring.session_folder import SessionFolder, write_atomic
from edgebuild.measuring.statistics import compare_launches

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.values import Json

MEMORY = Memory(baseline_bytes=1, load_peak_bytes=2, inference_peak_bytes=3)
NAME = "certify-0123456789abcdef-00001-20261201T000000000000Z"


def artifact(name: str) -> str:
    return digest_bytes(name.encode())


@dataclass
class PretendSession:
    """A session of models, by name, that take so many ms; launches differ by ``spread``."""

    path: Path
    models: dict[str, float] = field(default_factory=lambda: {"cat": 2.0})
    anchor_ms: float = 1.0
    seed: int = 0
    spread: float = 0.002
    launches: int = 6
    batch: int = 1
    protocol: Protocol = CERTIFY
    device: str = "pi-1"
    started_at: str = "2026-12-01T00:00:00+00:00"

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True)
        self.folder = SessionFolder(path=self.path, whole=False)
        self.generator = np.random.default_rng(self.seed)
        self.made: dict[str, list[Launch]] = {}
        labels = {name: artifact(name) for name in self.models}
        about: dict[str, Json] = {"protocol": self.protocol.model_dump(mode="json"), "title": "pretend"}
        about |= {"arms": [*labels], "labels": {**labels}, "started_at": self.started_at}
        about |= {"device": self.device, "configuration": {"kernel": "6.12"}}
        write_atomic(self.path / "session.json", with_digest(about))
        self._launch(ANCHOR, self.anchor_ms)
        for _ in range(self.launches):
            for name, ms in self.models.items():
                self._launch(artifact(name), ms)
        self._launch(ANCHOR, self.anchor_ms)
        self.folder.finish({"launches": self.count, "dropped": {}, "cut_short": False})

    @property
    def count(self) -> int:
        return sum(map(len, self.made.values()))

    def _launch(self, label: str, ms: float) -> None:
        index, bursts = self.count, (40, 40, 40)
        name = f"launch-{index:04d}.i64"
        middle = ms * 1e6 * np.exp(self.generator.normal(0, self.spread))
        samples = (middle * np.exp(self.generator.normal(0, 0.01, sum(bursts)))).astype("<i8")
        (self.path / name).write_bytes(samples.tobytes())
        ordered = np.sort(samples)
        launch = Launch(
            index=index,
            arm=label,
            samples=name,
            samples_sha256=digest_file(self.path / name),
            count=len(samples),
            median_ns=int((int(ordered[59]) + int(ordered[60])) / 2.0),
            bursts=bursts,
            burst_ns=burst_medians(self.path / name, bursts),
            import_s=0.1,
            load_s=0.01,
            first_inference_s=0.02,
            warmup_inferences=10,
            settled=True,
        )
        self.folder.record(launch)
        self.made.setdefault(label, []).append(launch)

    def arm(self, name: str) -> MeasuredArm:
        summary = statistics.summarise(self.made[artifact(name)], samples_reader(self.path), batch=self.batch)
        return MeasuredArm(
            model=name, artifact=artifact(name), backend="onnxruntime", size_bytes=100, summary=summary, memory=MEMORY
        )

    def result(self, archive: Path, device: str = "pi-1", **more: Any) -> BenchResult:
        names = list(self.models)
        compared = None
        if len(names) > 1:
            one, other = (self.made[artifact(name)] for name in names[:2])
            compared = compare_launches(one, other, self.protocol)
        return BenchResult(
            session=self.path.name,
            protocol=self.protocol.name if self.protocol.name != "layers" else "screen",
            device=device,
            target="raspberry-pi-5",
            comparison=compared,
            arms=tuple(self.arm(name) for name in names[:2]),
            environment={"kernel": "6.12", "governor": "performance"},
            anchor_ms=tuple(launch.median_ns / 1e6 for launch in self.made[ANCHOR]),
            evidence=digest_file(archive),
            **more,
        )

    def pack(self, archive: Path) -> Path:
        return (archive.parent / evidence.pack(self.path, archive.parent)).replace(archive)


def pack(files: dict[str, bytes], archive: Path, kind: int = zipfile.ZIP_STORED, mode: int = 0o644) -> Path:
    """Pack any files, as a hostile sender may."""
    with zipfile.ZipFile(archive, "w", kind) as opened:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr, entry.compress_type = 3, mode << 16, kind
            opened.writestr(entry, data)
    return archive
