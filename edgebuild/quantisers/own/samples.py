"""Calibration frames: which ones, and what the model is fed for each. Two halves, one to fit on and one to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import DataError
from edgebuild.models.dataset import Dataset
from edgebuild.models.host_session import constant_array, next_state, zero_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Contract

    Feeds = dict[str, NDArray[Any]]

#: Of a sequence, every fifth frame is kept: neighbours are much alike.
STRIDE = 5
#: Frames kept of each sequence, on average, where a sample is a sequence.
FRAMES_PER_SEQUENCE = 10
LEAST_FRAMES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """The chosen frames. Inputs are read from the mapped files when they are needed; only states are kept in memory."""

    dataset: Dataset
    contract: Contract
    chosen: tuple[int, ...]
    states: tuple[Feeds, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def runs(self) -> int:
        """How often the model runs for all frames."""
        return len(self) if self.states else -(-len(self) // self.contract.batch)

    def __iter__(self) -> Iterator[Feeds]:
        """Yield what the model is fed, batch by batch; a frame with a state of its own fills a batch alone."""
        constants = {c.name: constant_array(c) for c in self.contract.constants}
        arrays = {spec.name: self.dataset.array(spec.name) for spec in self.contract.inputs}
        batch = 1 if self.states else self.contract.batch
        for start in range(0, len(self), batch):
            frames = self.chosen[start : start + batch]
            state = self.states[start] if self.states else {}
            yield {**_feed(arrays, frames, self.contract), **constants, **state}

    def first(self, count: int) -> Frames:
        """Return the first ``count`` frames (they are in random order, so any prefix is a fair sample)."""
        return Frames(
            dataset=self.dataset,
            contract=self.contract,
            chosen=self.chosen[:count],
            states=self.states[:count],
        )


def _feed(arrays: Mapping[str, NDArray[Any]], frames: tuple[int, ...], contract: Contract) -> Feeds:
    """Gather frames, the last one repeated until the shipped batch is full."""
    filled = [*frames, *[frames[-1]] * (contract.batch - len(frames))]
    return {name: np.ascontiguousarray(array[filled]) for name, array in arrays.items()}


def choose_frames(
    folder: Path,
    contract: Contract,
    *,
    samples: int,
    seed: int,
    call: Callable[[Feeds], dict[str, NDArray[Any]]],
    check: Callable[[], None],
) -> tuple[Frames, Frames]:
    """Return two halves of at most ``samples`` samples together; a sequence, and a whole group, falls into one half.

    ``call`` runs the float model: it makes the states that each frame of a sequence starts with. Raises ``DataError``
    for fewer than two samples.
    """
    dataset = Dataset.open(folder)
    if dataset.samples < LEAST_FRAMES:
        raise DataError(
            f"The calibration data holds {dataset.samples} sample(s); at least {LEAST_FRAMES} are needed.",
            hint="Let [data].calibration yield a few hundred typical samples.",
        )
    fit, held = _split(dataset.groups(), np.random.default_rng(seed), samples // 2)
    if not contract.state:
        return (
            Frames(dataset=dataset, contract=contract, chosen=fit, states=()),
            Frames(dataset=dataset, contract=contract, chosen=held, states=()),
        )
    lengths = dataset.lengths
    starts = np.concatenate([[0], np.cumsum(lengths)])
    halves: list[Frames] = []
    for visited in (fit, held):
        each = max(samples // 2 * FRAMES_PER_SEQUENCE // len(visited), 1)
        frames: list[int] = []
        states: list[Feeds] = []
        for sequence in visited:
            first, length = int(starts[sequence]), int(lengths[sequence])
            for step, state in _follow(dataset, contract, first, min(length, each * STRIDE), call, check):
                if step % STRIDE == STRIDE - 1 or length < STRIDE:
                    frames.append(first + step)
                    states.append(state)
        mixed = np.random.default_rng(seed + 1).permutation(len(frames))
        halves.append(
            Frames(
                dataset=dataset,
                contract=contract,
                chosen=tuple(frames[i] for i in mixed),
                states=tuple(states[i] for i in mixed),
            )
        )
    return halves[0], halves[1]


def _split(
    groups: tuple[str | None, ...], rng: np.random.Generator, each: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return two disjoint sets of at most ``each`` samples, in random order.

    Samples of a group are alike, so a group is in one half only: else the half that judges would know the answers. A
    single group is split all the same.
    """
    members: dict[str, list[int]] = {}
    for index in rng.permutation(len(groups)):
        name = groups[index]
        members.setdefault(f"sample {index}" if name is None else f"group {name}", []).append(int(index))
    if len(members) == 1:
        (only,) = members.values()
        members = {str(index): [index] for index in only}
    halves: tuple[list[int], list[int]] = ([], [])
    # The largest first, each to the half that has less: the halves end up of like size.
    for some in sorted(members.values(), key=len, reverse=True):
        min(halves, key=len).extend(some)
    fit, held = (tuple(int(half[i]) for i in rng.permutation(len(half))[: max(each, 1)]) for half in halves)
    return fit, held


def _follow(
    dataset: Dataset,
    contract: Contract,
    first: int,
    steps: int,
    call: Callable[[Feeds], dict[str, NDArray[Any]]],
    check: Callable[[], None],
) -> Iterator[tuple[int, Feeds]]:
    """Yield each step of a sequence with the state that it starts with."""
    arrays = {spec.name: dataset.array(spec.name) for spec in contract.inputs}
    constants = {c.name: constant_array(c) for c in contract.constants}
    state = zero_state(contract)
    for step in range(steps):
        check()
        yield step, state
        outputs = call({**_feed(arrays, (first + step,), contract), **constants, **state})
        state = next_state(contract.state, outputs)
