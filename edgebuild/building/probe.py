"""A timed look at this model on this machine: what loading it and calling it once take. For estimates only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgebuild.errors import EdgebuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.building.prepare import ModelInputs
    from edgebuild.catalogue.project import Project
    from edgebuild.core.artifact import Contract

#: Calls are timed for this long, at most so many.
ENOUGH_S, MOST_CALLS = 2.0, 20
#: A torch module is called with so many frames at once where its batch is free: eager calls cost what no runtime does.
TORCH_BATCH = 16
#: Where nothing can be timed: what a small CPU does in a second, what a call costs in addition, and a load.
ASSUMED_MACS_PER_S = 50e9
ASSUMED_CALL_S, ASSUMED_LOAD_S = 0.0002, 0.2
ASSUMED_MACS = 10_000_000
#: How much longer the unoptimised model takes.
ASSUMED_PLAIN = 2.0


@dataclass(frozen=True, kw_only=True)
class ModelTimes:
    """Seconds: loading the model into a runtime, a call of the optimised model, and one of the unoptimised.

    ``measured`` is false where they are only assumed. A call is one batch of the shipped shape. ``outputs`` is what the
    last call gave for the first frame, where one was made.
    """

    load_s: float
    call_s: float
    plain_s: float
    measured: bool = True
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict, compare=False)


def assumed(macs: int | None) -> ModelTimes:
    """Return what a model of that arithmetic is assumed to take."""
    call_s = ASSUMED_CALL_S + (macs or ASSUMED_MACS) / ASSUMED_MACS_PER_S
    return ModelTimes(load_s=ASSUMED_LOAD_S, call_s=call_s, plain_s=ASSUMED_PLAIN * call_s, measured=False)


def time_frozen(prepared: ModelInputs, library: Path | None) -> ModelTimes | None:
    """Time the frozen model on the first validation samples; None where that can't be done here."""
    from edgebuild.models.dataset import Dataset

    data, contract = Dataset.open(prepared.validation.path), prepared.contract
    feeds = {spec.name: data.array(spec.name)[: contract.batch] for spec in contract.inputs}
    try:
        return time_onnx(prepared.frozen.path / "model.onnx", feeds, contract, library)
    except EdgebuildError:
        return None


def time_onnx(path: Path, feeds: Mapping[str, NDArray[Any]], contract: Contract, library: Path | None) -> ModelTimes:
    """Time an ONNX file, fed with frames of its first inputs, its constants and a zero state; raises ``ModelError``."""
    from edgebuild.models.host_session import HostSession, constant_array, zero_state

    constants = {each.name: constant_array(each) for each in contract.constants}
    whole = {**feeds, **constants, **zero_state(contract)}
    load_s, optimised = timed(lambda: HostSession(path, library=library, optimised=True))
    call_s = call_seconds(lambda: optimised(whole))
    plain = HostSession(path, library=library)
    plain_s = call_seconds(lambda: plain(whole))
    states = {link.output for link in contract.state}
    outputs = _first({name: array for name, array in plain(whole).items() if name not in states})
    return ModelTimes(load_s=load_s, call_s=call_s, plain_s=plain_s, outputs=outputs)


def time_torch(project: Project, frames: Mapping[str, NDArray[Any]]) -> ModelTimes | None:
    """Time the model that the project's factory makes, on one sample; None for one with state.

    Raises ``ModelError`` where it can't be called so.
    """
    import numpy as np

    from edgebuild.building.prepare import batch_is_free
    from edgebuild.catalogue.callables import load_callable
    from edgebuild.models.host_session import constant_array
    from edgebuild.models.torch_models import call_module, make_module

    factory = project.model.factory
    if factory is None or project.stateful:
        return None
    batch = TORCH_BATCH if batch_is_free(project) else 1
    feeds = {name: np.repeat(array, batch, axis=0) for name, array in frames.items()}
    feeds |= {each.name: constant_array(each) for each in project.constants}
    load_s, module = timed(lambda: make_module(load_callable(factory, project.folder), factory, project.weights_path))
    call = call_module(module, tuple(each.name for each in project.inputs), project.model.outputs)
    call_s = ASSUMED_CALL_S + call_seconds(lambda: call(feeds)) / batch
    return ModelTimes(load_s=load_s, call_s=call_s, plain_s=call_s, outputs=_first(call(feeds)))


def _first(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array[:1] for name, array in outputs.items() if array.ndim}


def call_seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the fastest of a few calls, in seconds. The first one also sets up, and is none of them.

    Neighbours on the machine only ever add to a call, for seconds and then not: what work takes among them is found out
    by the work itself.
    """
    call()
    taken = [timed(call, clock)[0]]
    while sum(taken) < ENOUGH_S and len(taken) < MOST_CALLS:
        taken.append(timed(call, clock)[0])
    return min(taken)


def timed(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Return how long a call took, in seconds, and what it returned."""
    start = clock()
    found = call()
    return clock() - start, found
