"""From a build's record to what a release says of one target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.measurement import UNKNOWN
from edgebuild.errors import ReleaseError
from edgebuild.releasing.values import ARTIFACT, Latency, Requires, TargetRelease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.core.artifact import Artifact
    from edgebuild.core.meaning import Meaning
    from edgebuild.core.record import CandidateRecord
    from edgebuild.releasing.values import BuildFolder

_X86 = (
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16")
#: CPU features by which runtimes choose kernels, as Linux names them. With others the same file may answer otherwise.
KERNEL_FEATURES = frozenset(_X86 + _ARM)
#: Facts of a device that must be equal where it has them: engines are made for one release of them.
EQUAL_FACTS = ("l4t", "jetpack")


def describe(build: BuildFolder, artifact: Artifact, version: str, meaning: Meaning) -> TargetRelease:
    """Return what a release says of a build's target. Raises ``ReleaseError`` where its device wasn't looked at."""
    record, chosen = build.record, build.chosen
    if chosen is None or chosen.contract is None or record.test_set is None:
        raise ReleaseError(f"The build {record.build_id} chose nothing that could be released.")
    facts = {fact.name: fact.value for fact in record.facts if fact.value != UNKNOWN}
    runtime = f"runtime.{artifact.backend}"
    if "arch" not in facts or runtime not in facts:
        raise ReleaseError(f"The build {record.build_id} doesn't say in which runtime, on what device it was measured.")
    latency, memory = chosen.measured.latency, chosen.measured.memory
    return TargetRelease(
        project=record.project,
        version=version,
        target=record.target,
        device=record.device,
        build_id=record.build_id,
        created=record.started_at,
        candidate=chosen.id,
        precision=artifact.precision.label,
        recipe=chosen.spec.recipe,
        settings=dict(artifact.settings),
        artifact=ARTIFACT,
        artifact_digest=artifact.digest(),
        size_bytes=artifact.size_bytes,
        contract=artifact.contract,
        requires=Requires(
            architecture=facts["arch"],
            isa=tuple(sorted(KERNEL_FEATURES & set(facts.get("isa", "").split()))),
            runtime=artifact.backend,
            runtime_version=facts[runtime],
            memory_bytes=None if memory is None else memory.peak_bytes,
            facts={name: facts[name] for name in EQUAL_FACTS if name in facts},
        ),
        latency=None
        if latency is None
        else Latency(
            point_ms=latency.point_ms, low_ms=latency.low_ms, high_ms=latency.high_ms, launches=latency.launches
        ),
        memory_bytes=None if memory is None else memory.peak_bytes,
        budget=record.budget,
        accuracy=None if chosen.test is None else chosen.test.drop,
        test_set=record.test_set,
        meaning=meaning,
        resolution=record.resolution,
        limits=tuple(_limits(build, chosen)),
    )


def _limits(build: BuildFolder, chosen: CandidateRecord) -> Iterator[str]:
    """Say what isn't known, or was only seen on one device."""
    yield f"Measured on one device, {build.record.device}: others of its model may be slower or hotter."
    yield "Accuracy is known for data like the project's test set, and for nothing else."
    yield "Golden vectors are a few samples of the project's validation data: whoever has the release has them."
    if chosen.measured.energy is None:
        yield "Energy is unknown: it wasn't measured."
    checks = () if chosen.test is None else chosen.test.limits
    yield from (f"{check.name}: {check.measured} where the limit is {check.limit}" for check in checks)
    yield from (note.text for note in (*build.record.notes, *chosen.notes) if note.topic in {"data", "opening", "bug"})
