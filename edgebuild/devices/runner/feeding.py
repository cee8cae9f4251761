"""From a folder of data to what each call is fed: batches in the shipped shape, constants, and the state loop."""

from __future__ import annotations

import os

from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .protocol import Fields


class Call:
    """One call: the frame of each place in the batch, the places that count, and whether state starts again."""

    def __init__(self, rows: list[int], keep: list[int], first: bool) -> None:
        self.rows = rows
        self.keep = keep
        self.first = first


def tensor_file(name: str) -> str:
    """Return the file of a tensor in a data folder; a slash in a name can't leave the folder."""
    return name.replace("%", "%25").replace("/", "%2F") + ".npy"


def batch_of(contract: Fields) -> int:
    """Return the shipped batch size: the first axis of the first input, 1 where it is dynamic or absent."""
    shape = contract["inputs"][0]["shape"]
    return shape[0] if shape and isinstance(shape[0], int) else 1


def constants(contract: Fields) -> dict[str, Any]:
    """Return the inputs that never change, by name."""
    import numpy as np

    return {
        c["name"]: np.broadcast_to(np.array(c["value"], dtype=c["dtype"]), tuple(c["shape"])).copy()
        for c in contract["constants"]
    }


def zero_state(contract: Fields) -> dict[str, Any]:
    """Return the state that every sample starts with; named axes count as 1."""
    import numpy as np

    return {
        s["name"]: np.zeros([d if isinstance(d, int) else 1 for d in s["shape"]], dtype=s["dtype"])
        for s in contract["state_specs"]
    }


def example(contract: Fields, folder: str | None) -> dict[str, Any]:
    """Return one call's inputs by name: the first frames of a data folder, or zeros where there is none."""
    import numpy as np

    inputs = {**constants(contract), **zero_state(contract)}
    for spec in contract["inputs"]:
        if folder:
            rows = [0] * batch_of(contract)
            inputs[spec["name"]] = np.ascontiguousarray(_load(folder, spec)[rows])
        else:
            shape = [d if isinstance(d, int) else 1 for d in spec["shape"]]
            inputs[spec["name"]] = np.zeros(shape, dtype=spec["dtype"])
    return inputs


class Data:
    """A data folder mapped, not loaded, and checked against the contract."""

    def __init__(self, folder: str, contract: Fields) -> None:
        import numpy as np

        self.contract = contract
        self.batch = batch_of(contract)
        self.arrays = {spec["name"]: _load(folder, spec) for spec in contract["inputs"]}
        lengths = os.path.join(folder, "lengths.npy")
        self.frames = len(next(iter(self.arrays.values())))
        counts = (
            np.load(lengths, allow_pickle=False) if os.path.exists(lengths) else np.ones(self.frames, dtype=np.int64)
        )
        self.lengths = [int(n) for n in counts]
        uneven = [name for name, array in self.arrays.items() if len(array) != self.frames]
        if uneven or sum(self.lengths) != self.frames or self.frames == 0:
            raise Problem("data", "The data in %s is empty, or its inputs hold different numbers of frames." % folder)

    def calls(self) -> Iterator[Call]:
        """Yield every call: the last batch padded by repeating; stateful samples side by side, step by step."""
        if not self.contract["state"]:
            for start in range(0, self.frames, self.batch):
                yield self.window(start)
            return
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        for group in range(0, len(self.lengths), self.batch):
            members = [min(group + i, len(self.lengths) - 1) for i in range(self.batch)]
            count = min(self.batch, len(self.lengths) - group)
            for step in range(max(self.lengths[m] for m in members)):
                rows = [starts[m] + min(step, self.lengths[m] - 1) for m in members]
                keep = [i for i in range(count) if step < self.lengths[members[i]]]
                yield Call(rows, keep, step == 0)

    def window(self, start: int) -> Call:
        """Return the call for the frames from ``start`` on."""
        rows = [min(start + i, self.frames - 1) for i in range(self.batch)]
        return Call(rows, list(range(min(self.batch, self.frames - start))), True)

    def inputs(self, call: Call) -> dict[str, Any]:
        """Return the arrays of one call, copied out of the map."""
        rows = call.rows
        if rows[-1] - rows[0] == len(rows) - 1:
            return {name: array[rows[0] : rows[-1] + 1].copy() for name, array in self.arrays.items()}
        return {name: array[rows] for name, array in self.arrays.items()}


class Loop:
    """Calls a session with its inputs by name, feeding state back.

    A session's outputs are its caller's to keep, so a state is fed back without a copy of ours.
    """

    def __init__(self, session: Any, contract: Fields) -> None:
        self._fixed = constants(contract)
        self._zeros = zero_state(contract)
        self._names = list(session.input_names)
        self._run = session.run
        known = {s["name"] for s in contract["inputs"]} | set(self._fixed) | set(self._zeros)
        strange = [name for name in self._names if name not in known]
        absent = [s["name"] for s in contract["outputs"] if s["name"] not in session.output_names]
        if strange or absent:
            raise Problem("model", "The compiled model and its contract differ in %s." % ", ".join(strange + absent))
        self._links = [(link["input"], session.output_names.index(link["output"])) for link in contract["state"]]
        self._starts = [self._zeros[link["input"]] for link in contract["state"]]
        self._state = self._starts
        self.call = self._stateful if self._links else session.run

    def feed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return one call's argument; state is filled in by the call."""
        return {name: inputs.get(name, self._fixed.get(name)) for name in self._names}

    def reset(self) -> None:
        """Start the state again."""
        self._state = self._starts

    def _stateful(self, feed: dict[str, Any]) -> list[Any]:
        for (name, _), value in zip(self._links, self._state):
            feed[name] = value
        outputs: list[Any] = self._run(feed)
        self._state = [outputs[index] for _, index in self._links]
        return outputs


def _load(folder: str, spec: Fields) -> Any:
    import numpy as np

    name, path = spec["name"], os.path.join(folder, tensor_file(spec["name"]))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Problem("data", "Input %r: can't read %s (%s)." % (name, path, error)) from error
    # By dtype, not by its name: a big-endian array has the same name and other bytes.
    if array.dtype != np.dtype(spec["dtype"]):
        raise Problem("data", "Input %r is %s, the model takes %s." % (name, array.dtype, spec["dtype"]))
    want = spec["shape"][1:]
    fits = len(array.shape) == len(spec["shape"]) and all(
        not isinstance(w, int) or w == got for w, got in zip(want, array.shape[1:])
    )
    if not fits:
        raise Problem(
            "data", "Input %r: a frame has shape %s, the model takes %s." % (name, list(array.shape[1:]), want)
        )
    return array
