"""What a set of samples is, without the samples: how many, of which groups, and a digest of each one's inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.models.checked_samples import checked_samples
from edgebuild.models.dataset import Dataset
from edgebuild.models.digests import sample_digest, samples_digest
from edgebuild.models.steps import call_for_samples, unsteady

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.data import Sample


#: Bytes of an input's digest that are kept: no two of a trillion samples are the same by chance.
KEPT_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Described:
    """What was found in samples.

    ``units`` is what is resampled: groups where there are some, a sample without one being its own. ``one_label`` says
    that every frame has one whole number as its target. ``whole`` is false where reading stopped before the end.
    """

    samples: int
    frames: int
    units: int
    groups: frozenset[str]
    inputs: frozenset[bytes]
    one_label: bool
    identity: str
    whole: bool = True

    @property
    def grouped(self) -> bool:
        """Whether units are groups of several frames, not frames."""
        return self.units != self.frames


def describe(
    samples: Iterable[tuple[Mapping[str, NDArray[Any]], str | None, str | None]], *, limit: int | None = None
) -> Described:
    """Describe samples (see ``Dataset.__iter__``), the first ``limit`` of them."""
    digests: list[bytes] = []
    inputs: set[bytes] = set()
    groups: set[str] = set()
    count = frames = alone = 0
    one_label, whole = True, True
    for arrays, group, slice_ in samples:
        if limit is not None and count == limit:
            whole = False
            break
        own = {name: array for name, array in arrays.items() if name != "target"}
        target, length = arrays.get("target"), len(next(iter(own.values())))
        inputs.add(sample_digest(own)[:KEPT_BYTES])
        digests.append(sample_digest(arrays, group, slice_))
        one_label = one_label and target is not None and target.dtype.kind in "iub" and target.size == length
        alone += group is None
        groups |= set() if group is None else {group}
        count, frames = count + 1, frames + length
    return Described(
        samples=count,
        frames=frames,
        units=len(groups) + alone,
        groups=frozenset(groups),
        inputs=frozenset(inputs),
        one_label=one_label,
        identity=samples_digest(digests),
        whole=whole,
    )


class DescribeData(Step):
    """Describes a materialised split. Input: ``data`` (dataset folder). Writes ``described.json``, ``inputs.npy``."""

    kind: ClassVar[str] = "describe-data"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        ctx.check()
        write_described(describe(Dataset.open(inputs["data"])), out_dir)


class DescribeFirst(Step):
    """Describes the first ``samples`` of what a data callable yields. Writes what ``DescribeData`` does.

    ``content`` is the identity of those samples when they were read before: it decides what is reused. Raises
    ``DataError`` when the callable now yields other samples.
    """

    source: str
    specs: tuple[TensorSpec, ...]
    stateful: bool
    samples: int
    content: str
    kind: ClassVar[str] = "describe-first"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        del inputs
        samples = call_for_samples(ctx.load(self.source), self.source)
        checked = checked_samples(samples, self.specs, self.stateful, self.source, ctx.check)
        found = describe(labelled(checked), limit=self.samples)
        if found.identity != self.content:
            raise unsteady(self.source)
        write_described(found, out_dir)


def labelled(
    samples: Iterable[tuple[Sample, Mapping[str, NDArray[Any]]]],
) -> Iterator[tuple[Mapping[str, NDArray[Any]], str | None, str | None]]:
    """Yield checked samples as ``describe`` takes them."""
    return ((arrays, sample.group, sample.slice) for sample, arrays in samples)


def write_described(found: Described, out_dir: Path) -> None:
    """Write what ``read_described`` reads."""
    facts = {
        "samples": found.samples,
        "frames": found.frames,
        "units": found.units,
        "groups": sorted(found.groups),
        "one_label": found.one_label,
        "identity": found.identity,
        "whole": found.whole,
    }
    (out_dir / "described.json").write_text(json.dumps(facts))
    rows = np.frombuffer(b"".join(sorted(found.inputs)), dtype=np.uint8).reshape(-1, KEPT_BYTES)
    np.save(out_dir / "inputs.npy", rows, allow_pickle=False)


def read_described(folder: Path) -> Described:
    """Read what ``write_described`` wrote."""
    facts = json.loads((folder / "described.json").read_bytes())
    rows = np.load(folder / "inputs.npy", allow_pickle=False)
    return Described(
        samples=facts["samples"],
        frames=facts["frames"],
        units=facts["units"],
        groups=frozenset(facts["groups"]),
        inputs=frozenset(row.tobytes() for row in rows),
        one_label=facts["one_label"],
        identity=facts["identity"],
        whole=facts.get("whole", True),  # older entries are all of whole splits
    )
