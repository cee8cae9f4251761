"""Runs an ONNX file on the host, unoptimised: the reference that artifacts are judged against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.chunks import let_go
from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.onnx_files import first_line
from edgebuild.models.onnx_graphs import serialised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from edgebuild.core.artifact import ConstantInput, Contract, StateLink
    from edgebuild.models.dataset import Dataset


class HostSession:
    """One ONNX file (or model in memory) in onnxruntime, threads as many as there are cores.

    Graph optimisation is off: what is ``optimised`` serves estimates of time only.
    """

    def __init__(self, model: Path | Any, *, library: Path | None = None, optimised: bool = False) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EnvironmentGap(
                "onnxruntime is not installed.", hint="pip install 'edgebuild[onnxruntime]'"
            ) from error
        options = onnxruntime.SessionOptions()
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        if library is not None:
            options.register_custom_ops_library(str(library))
        source = str(model) if isinstance(model, Path) else serialised(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no root of their own
            raise ModelError(f"onnxruntime can't load the model: {first_line(error)}") from error
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; raises ``ModelError`` with the runtime's first line."""
        try:
            values = self._session.run(list(self.outputs), dict(feeds))
        except Exception as error:  # as above
            raise ModelError(f"onnxruntime can't run the model: {first_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))


def run_dataset(
    call: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    dataset: Dataset,
    contract: Contract,
    *,
    batch: int,
    limit: int | None = None,
    check: Callable[[], None],
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the outputs of a data set, batch by batch, padding the last; stateful samples step by step.

    ``limit`` stops after that many samples. State starts at zeros with every sample.
    """
    arrays = {spec.name: dataset.array(spec.name) for spec in contract.inputs}
    constants = {c.name: constant_array(c) for c in contract.constants}
    if contract.state:
        yield from _run_stateful(call, dataset, contract, arrays, constants, limit, check)
        return
    frames = dataset.frames if limit is None else min(limit, dataset.frames)
    names = [spec.name for spec in contract.outputs]
    for start in range(0, frames, batch):
        check()
        stop = min(start + batch, frames)
        feeds = {name: _padded(array[start:stop], batch) for name, array in arrays.items()}
        outputs = call({**feeds, **constants})
        yield {name: frames_of(name, outputs[name], batch)[: stop - start] for name in names}
        let_go(*arrays.values())


def _run_stateful(
    call: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    dataset: Dataset,
    contract: Contract,
    arrays: Mapping[str, NDArray[Any]],
    constants: Mapping[str, NDArray[Any]],
    limit: int | None,
    check: Callable[[], None],
) -> Iterator[dict[str, NDArray[Any]]]:
    start = 0
    names = [spec.name for spec in contract.outputs]
    for length in dataset.lengths[:limit]:
        state = zero_state(contract)
        steps: list[dict[str, NDArray[Any]]] = []
        for frame in range(start, start + int(length)):
            check()
            feeds = {name: np.asarray(array[frame : frame + 1]) for name, array in arrays.items()}
            outputs = call({**feeds, **constants, **state})
            state = next_state(contract.state, outputs)
            steps.append(outputs)
        start += int(length)
        yield {name: np.concatenate([frames_of(name, step[name], 1) for step in steps]) for name in names}
        let_go(*arrays.values())


def frames_of(name: str, output: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return an output with its frames on axis 0; one without a batch axis (possible at batch 1) is one frame."""
    if output.ndim and len(output) == batch:
        return output
    if batch != 1:
        raise ModelError(
            f"Output {name!r} has no batch axis: its shape is {list(output.shape)} for a batch of {batch}.",
            hint="Set batch = 1 under [freeze], or let the model keep the batch axis.",
        )
    return output[np.newaxis]


def zero_state(contract: Contract) -> dict[str, NDArray[Any]]:
    """Return the state that every sample starts with; named axes count as 1."""
    return {
        spec.name: np.zeros([d if isinstance(d, int) else 1 for d in spec.shape], dtype=spec.dtype)
        for spec in contract.state_specs
    }


def next_state(links: tuple[StateLink, ...], outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what the next call is fed."""
    return {link.input: outputs[link.output] for link in links}


def constant_array(constant: ConstantInput) -> NDArray[Any]:
    """Return a constant input as an array of the caller's own."""
    flat: NDArray[Any] = np.array(constant.value, dtype=constant.dtype)
    return flat.reshape(constant.shape) if flat.ndim else np.full(constant.shape, flat)


def _padded(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """Repeat the last frame until the batch is full: the shipped shape is static."""
    missing = batch - len(array)
    return np.asarray(array) if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
