"""The job ``bench``: checks the device, fetches the models, measures as `edgebuild bench` does, keeps the evidence."""

from __future__ import annotations

import random
import shutil
import time
from typing import TYPE_CHECKING, TypeVar

from edgebuild.errors import UsageError
from edgebuild.farm.arguments import read_arguments
from edgebuild.farm.client import FarmAway, FarmClient
from edgebuild.farm.evidence import pack
from edgebuild.farm.host.checking import examine
from edgebuild.farm.host.orders import Outcome
from edgebuild.farm.host.speaking import LogProgress
from edgebuild.farm.results import BenchResult, MeasuredArm
from edgebuild.farm.values import JobEnd
from edgebuild.fleet.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.benching.bench import BenchReport
    from edgebuild.devices.transport import Device
    from edgebuild.farm.arguments import BenchArguments, SentModel
    from edgebuild.farm.host.orders import Assignment
    from edgebuild.fleet.inventory import DeviceEntry

T = TypeVar("T")

#: A farm that is away is asked again after so long at most.
LONGEST_PAUSE_S = 10.0


class OneDevice:
    """The device that a job was lent, and no other."""

    def __init__(self, entry: DeviceEntry) -> None:
        self._entry = entry

    def entries(self) -> Mapping[str, DeviceEntry]:
        """See ``DeviceProvider``."""
        return {self._entry.name: self._entry}

    def connect(self, entry: DeviceEntry) -> Device:
        """See ``DeviceProvider``."""
        return connect(entry)


def bench(assignment: Assignment) -> Outcome:
    """Do a bench job; raises what ``pipeline.bench`` does."""
    from edgebuild.benching.bench import BenchRequest
    from edgebuild.pipeline import bench as measure

    order = assignment.order
    given = read_arguments(order.job.spec.arguments)
    if given.native_libraries and not order.native_libraries:
        raise UsageError(
            "Artifacts with native code aren't run here.", hint="The host's owner may allow that where it joins."
        )
    checked = examine(assignment)
    if checked.how is not JobEnd.SUCCEEDED:
        return checked
    paths = _fetched(assignment, given)
    report = measure(
        BenchRequest(
            model=paths[0],
            against=paths[1] if len(paths) > 1 else None,
            backend=given.backend,
            shape=given.shape,
            threads=given.threads,
            quick=given.quick,
            device=order.entry.name,
            native_libraries=given.native_libraries,
        ),
        progress=LogProgress(assignment.say),
        check=assignment.check,
        devices=OneDevice(order.entry),
    )
    evidence = pack(report.folder, assignment.blobs)
    shutil.rmtree(report.folder)
    return Outcome(
        result=result_of(report, given, order.entry, evidence).model_dump(mode="json"),
        readings=checked.readings,
        anchor_ms=checked.anchor_ms,
    )


def result_of(report: BenchReport, given: BenchArguments, entry: DeviceEntry, evidence: str) -> BenchResult:
    """Return what a bench job answers."""
    models = [model for model in (given.model, given.against) if model is not None]
    return BenchResult(
        session=report.folder.name,
        protocol="screen" if given.quick else "certify",
        device=entry.name,
        target=entry.target,
        comparison=report.comparison,
        arms=tuple(
            MeasuredArm(
                model=model.name,
                artifact=measured.artifact_digest,
                backend=measured.backend,
                settings=dict(measured.settings),
                size_bytes=measured.size_bytes,
                summary=measured.summary,
                memory=measured.memory,
                energy=measured.energy,
                layers=measured.layers,
            )
            for model, measured in zip(models, report.results, strict=True)
        ),
        environment={fact.name: fact.value for fact in report.configuration},
        anchor_ms=report.anchor_ms,
        evidence=evidence,
    )


def _fetched(assignment: Assignment, given: BenchArguments) -> list[Path]:
    client = FarmClient(assignment.order.farm.address())
    try:
        return [
            _model(client, model, assignment.scratch / name, assignment.check)
            for name, model in (("model", given.model), ("against", given.against))
            if model is not None
        ]
    finally:
        client.close()


def _model(client: FarmClient, model: SentModel, folder: Path, check: Callable[[], None]) -> Path:
    """Fetch a model's files into a folder that holds nothing else; return what a bench is given."""
    folder.mkdir()
    for file in model.files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        patiently(lambda sha256=file.sha256, to=place: client.fetch(sha256, to), check)  # type: ignore[misc]
    return folder / model.entry if model.entry else folder


def patiently(work: Callable[[], T], check: Callable[[], None]) -> T:
    """Return what ``work`` returns, trying again while the farm is away; ``check`` ends that."""
    pause = 0.5
    while True:
        check()
        try:
            return work()
        except FarmAway:
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  nobody gains by guessing it
            pause = min(2 * pause, LONGEST_PAUSE_S)
