"""A part of a data set that stands for the whole: the same classes, slices and groups, and whole samples only."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.devices.runner.feeding import tensor_file
from edgebuild.models.dataset import Dataset, save_target

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path


def choose(
    lengths: Sequence[int],
    strata: Sequence[Hashable],
    groups: Sequence[str | None],
    *,
    frames: int,
    samples: int = 1,
    seed: int,
) -> tuple[int, ...]:
    """Return which samples to take, in their order in the data: at least ``samples`` with ``frames`` frames, or all.

    Deterministic, and a smaller choice is part of every larger one. Every stratum (a class or a slice) is taken in
    proportion, to within one sample of its share; within a stratum groups take turns, so that as many as possible
    are represented. ``lengths``, ``strata`` and ``groups`` are per sample.
    """
    turns: Counter[tuple[str, str]] = Counter()
    members: dict[str, list[tuple[int, int]]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: _shuffled(seed, i)):
        stratum, group = repr(strata[index]), repr(groups[index]) if groups[index] is not None else f"#{index}"
        members.setdefault(stratum, []).append((turns[stratum, group], index))
        turns[stratum, group] += 1
    placed = []
    for stratum, found in sorted(members.items()):
        in_turn = sorted(found, key=lambda member: (member[0], _shuffled(seed, member[1])))
        # The k-th of n members belongs at (k + 1/2) / n of the way: every prefix is then in proportion.
        placed += [((k + 0.5) / len(found), stratum, index) for k, (_, index) in enumerate(in_turn)]
    chosen: list[int] = []
    total = 0
    for _, _, index in sorted(placed):
        if total >= frames and len(chosen) >= samples:
            break
        chosen.append(index)
        total += lengths[index]
    return tuple(sorted(chosen))


def _shuffled(seed: int, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{index}".encode()).digest()


def strata_of(data: Dataset) -> tuple[Hashable, ...]:
    """Return what a sample must be represented as: its slice, and its class where targets are one whole number."""
    slices = data.slices()
    target = data.kept_target
    if target is None or data.frames != data.samples or target.size != len(target) or target.dtype.kind not in "iub":
        return slices
    classes = target.reshape(-1).tolist()
    return tuple(zip(slices, classes, strict=True))


class SampleData(Step):
    """Writes the samples of a data set that ``choose`` takes. Input: ``data``."""

    frames: int
    samples: int = 1
    kind: ClassVar[str] = "sample-data"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        data = Dataset.open(inputs["data"])
        lengths = data.lengths.tolist()
        groups, slices = data.groups(), data.slices()
        chosen = choose(lengths, strata_of(data), groups, frames=self.frames, samples=self.samples, seed=ctx.seed)
        starts = np.concatenate([[0], np.cumsum(data.lengths)])
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
        for name in data.inputs:
            ctx.check()
            source: Any = data.array(name)
            np.save(out_dir / tensor_file(name), np.ascontiguousarray(source[rows]), allow_pickle=False)
        if (target := data.kept_target) is not None:
            save_target(target[rows], out_dir)
        np.save(out_dir / "lengths.npy", data.lengths[list(chosen)], allow_pickle=False)
        (out_dir / "groups.json").write_text(json.dumps([groups[i] for i in chosen]))
        (out_dir / "slices.json").write_text(json.dumps([slices[i] for i in chosen]))
        facts = {"samples": len(chosen), "frames": len(rows), "inputs": list(data.inputs), "labelled": data.labelled}
        if data.structured:
            facts["structured"] = True
        (out_dir / "data.json").write_text(json.dumps(facts, sort_keys=True))


def take_frames(data: Dataset, rows: Sequence[int], lengths: Sequence[int], folder: Path) -> None:
    """Write frames of a data set, without targets, as one of its own: ``rows``, of which ``lengths`` make a sample."""
    for name in data.inputs:
        np.save(folder / tensor_file(name), np.ascontiguousarray(data.array(name)[list(rows)]))
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    facts = {"samples": len(lengths), "frames": len(rows), "inputs": list(data.inputs), "labelled": False}
    (folder / "data.json").write_text(json.dumps(facts, sort_keys=True))
