"""A Q/DQ graph computed on the host call by call: from samples, from codes that a device gave, with codes moved."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.verdict import LayerGap
from edgebuild.crosscheck.conclusion import gap_in_steps
from edgebuild.models import qdq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Contract
    from edgebuild.core.steps import StepContext

#: Random draws, of the codes before an output and of the rounding of all tensors.
DRAWS = 8
#: Right kernels round another way than the graph only where a value lies at a tie but for float noise: this near to
#: the middle between two codes. One that cuts off instead of rounding is off by one all over.
TIE = 0.01
#: Of a layer's elements, so many at most may be off by one elsewhere.
MOST_ASTRAY = 0.001


class Walk:
    """The layers of an artifact, each recomputed from the codes that it was fed."""

    def __init__(
        self,
        graph: qdq.QdqGraph,
        loop: Loop,
        found: Mapping[str, NDArray[Any]],
        library: Path | None,
        ctx: StepContext,
    ) -> None:
        self.graph, self._loop, self._library, self._ctx = graph, loop, library, ctx
        self._shapes = qdq.shapes_of(graph.model)
        self.shown = [name for name in graph.quantised if graph.shown_as(name) in found and name in self._shapes]
        self._cut = frozenset(self.shown)
        self._found = found
        #: How many codes of each layer are another than its recomputation's without lying at a tie.
        self._astray = dict.fromkeys(self.shown, 0)
        self._calls = [(call, {**feeds, **self._given(call)}) for call, feeds in loop.calls()]

    def _given(self, call: Any) -> dict[str, NDArray[Any]]:
        given = {}
        for name in self.shown:
            reals = self._found[self.graph.shown_as(name)][call.rows].reshape(self._shapes[name])
            given[self.graph.given[name]] = self.graph.quantised[name].codes_of(reals)
        return given

    def first_fault(self) -> LayerGap | None:
        """Return the first layer in the graph's order whose codes, or outputs, are off by more than one step."""
        for name, flat in self._gaps.items():
            index = self.graph.layer(name, self._cut)
            if flat.max(initial=0.0) > 1 and index is not None:
                return LayerGap(
                    node=self.graph.node_name(index),
                    op=self.graph.nodes[index].op_type,
                    tensor=name,
                    steps=float(flat.max()),
                    share=float((flat > 1).mean()),
                    why=self._saturation(name, index, int((flat > 1).sum())),
                )
        return None

    def composes(self, own: Mapping[str, NDArray[Any]]) -> bool:
        """Whether these layers, all right, are what the artifact computes: ``own``, its own outputs of these frames.

        Every quantised tensor was seen and every output compared; codes differ by one at most, and where values lie at
        ties; and the model that shows its layers answers as the artifact does, but for float noise.
        """
        if len(self.shown) < len(self.graph.quantised) or any(not flat.size for flat in self._gaps.values()):
            return False
        if any(flat.max() > 1 for flat in self._gaps.values()):
            return False
        if any(self._astray[name] > MOST_ASTRAY * self._gaps[name].size for name in self.shown):
            return False
        return all(
            gap_in_steps(array, np.asarray(self._found[name]), np.zeros(array.shape)).max(initial=0.0) <= 1
            for name, array in own.items()
        )

    @cached_property
    def _gaps(self) -> dict[str, NDArray[np.float64]]:
        """How far each layer's codes, and each output, are from their recomputation, in steps; empty: not compared."""
        real = {name: self.graph.nodes[self.graph.quantised[name].node].input[0] for name in self.shown}
        run = session(qdq.with_given(self.graph, self.shown, reals=real.values()), self._library)
        steps = Steps(self.graph, self._loop.outputs, self._library, self._ctx.seed)
        gaps: dict[str, list[NDArray[Any]]] = {name: [] for name in (*self.shown, *self._loop.outputs)}
        for call, feeds in self._calls:
            self._ctx.check()
            values = run(feeds)
            for name in self.shown:
                gaps[name].append(_apart(values[name], feeds[self.graph.given[name]]))
                exact = self.graph.quantised[name].exact_codes_of({**feeds, **values}[real[name]])
                between = np.abs(exact - np.floor(exact) - 0.5) <= TIE
                self._astray[name] += int(((gaps[name][-1] > 0) & ~between.reshape(gaps[name][-1].shape)).sum())
            if set(steps.last) <= self._cut:
                codes = {name: feeds[self.graph.given[name]] for name in steps.last}
                for name, step in steps.of({**values, **codes}, feeds).items():
                    mine, theirs = self._loop.kept(call, values[name]), np.asarray(self._found[name])[call.rows]
                    gaps[name].append(gap_in_steps(mine, theirs[: len(mine)], self._loop.kept(call, step)))
        return {
            name: np.concatenate([part.reshape(-1) for part in parts]) if parts else np.zeros(0)
            for name, parts in gaps.items()
        }

    def _saturation(self, name: str, index: int, beyond: int) -> str:
        """Say so where 16-bit saturation in the layer makes the very codes that the artifact has; else nothing."""
        from edgebuild.crosscheck import saturation

        layer = saturation.layer_of(self.graph, index)
        if layer is None or name not in self._cut or layer.source not in self._cut:
            return ""
        output = layer.node.output[0]
        run = session(qdq.with_given(self.graph, self.shown, replace=[output]), self._library)
        for channels_last in (True, False):
            left = 0
            for _, feeds in self._calls:
                self._ctx.check()
                codes = feeds[self.graph.given[layer.source]]
                real = saturation.saturated(layer, codes, channels_last=channels_last)
                if real is None:
                    return ""
                values = run({**feeds, self.graph.given[output]: real})
                left += int((_apart(values[name], feeds[self.graph.given[name]]) > 1).sum())
            if left <= beyond // 10:
                return "its sums saturate in 16 bits: with that simulated, the codes are those of the device"
        return ""


class Loop:
    """A data folder call by call, as the runner feeds it; a state is what the artifact itself had."""

    def __init__(self, folder: Path, contract: Contract, found: Mapping[str, NDArray[Any]]) -> None:
        from edgebuild.devices.runner import feeding

        fields = contract.model_dump(mode="json")
        self._data = feeding.Data(str(folder), fields)
        self._fixed, self._zeros = feeding.constants(fields), feeding.zero_state(fields)
        self._links = contract.state
        self._found = found
        self._batch = contract.batch
        self.frames = self._data.frames
        self.outputs = tuple(spec.name for spec in with_state(contract).outputs)

    def calls(self) -> Iterator[tuple[Any, dict[str, NDArray[Any]]]]:
        """Yield every call and what the model is fed."""
        before: int | None = None
        for call in self._data.calls():
            feeds = {**self._data.inputs(call), **self._fixed}
            for link in self._links:
                start = self._zeros[link.input]
                own = call.first or before is None
                feeds[link.input] = start if own else np.reshape(self._found[link.output][before], start.shape)
            before = call.rows[0]
            yield call, feeds

    def kept(self, call: Any, values: NDArray[Any]) -> NDArray[Any]:
        """Return the frames of a call that count, on axis 0."""
        from edgebuild.models.host_session import frames_of

        kept: NDArray[Any] = frames_of("an output", values, self._batch)[call.keep]
        return kept


class Steps:
    """What one quantisation step is at each output.

    The scale, where the output itself is a dequantised tensor. Else the largest change of each element when all codes
    of the last quantised tensors on the paths to it move by one, up or down by chance, ``DRAWS`` times.
    """

    def __init__(self, graph: qdq.QdqGraph, outputs: tuple[str, ...], library: Path | None, seed: int) -> None:
        self._graph = graph
        self._direct = {name: step for name in outputs if (step := graph.direct_step(name)) is not None}
        self._measured = [name for name in outputs if name not in self._direct and graph.sources(name)]
        self._outputs = outputs
        self.last = sorted(set().union(*(graph.sources(name) for name in self._measured)))
        self._run = session(qdq.tail(graph, self._measured), library) if self._measured else None
        self._random = np.random.default_rng(seed)

    def of(
        self, values: Mapping[str, NDArray[Any]], feeds: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the step of every element of the outputs among ``values``, which also hold the last codes."""
        found = {name: np.zeros(values[name].shape) for name in self._outputs}
        for name, scale in self._direct.items():
            found[name] += float(scale)
        if self._run is None:
            return found
        given = self._graph.given
        rested = self._run({**feeds, **{given[name]: values[name] for name in self.last}})
        for _ in range(DRAWS):
            moved = self._run({**feeds, **{given[name]: self._moved(values[name]) for name in self.last}})
            for name in self._measured:
                found[name] = np.maximum(found[name], change_of(rested[name], moved[name]))
        return found

    def _moved(self, codes: NDArray[Any]) -> NDArray[Any]:
        limits = np.iinfo(codes.dtype)
        step = self._random.choice(np.array([-1, 1], np.int32), codes.shape)
        moved: NDArray[Any] = np.clip(codes.astype(np.int32) + step, limits.min, limits.max).astype(codes.dtype)
        return moved


def with_state(contract: Contract) -> Contract:
    """Return the contract with the states that a call leaves among its outputs."""
    specs = {spec.name: spec for spec in contract.state_specs}
    left = tuple(specs[link.input].model_copy(update={"name": link.output}) for link in contract.state)
    known = {spec.name for spec in contract.outputs}
    return contract.model_copy(
        update={"outputs": (*contract.outputs, *(spec for spec in left if spec.name not in known))}
    )


def nudges(
    graph: qdq.QdqGraph, values: Mapping[str, NDArray[Any]], random: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Return what rounds every quantised tensor up or down by chance: up to half a step added before it is rounded."""
    found = {}
    for name, tensor in graph.quantised.items():
        codes = values[name]
        half = random.uniform(-0.5, 0.5, codes.shape) * tensor.shaped(tensor.scale, codes.ndim)
        found[graph.nudge[name]] = half.astype(np.float32)
    return found


def change_of(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """How far each element moved; what isn't a number counts as moved by one where it changed."""
    if before.dtype.kind in "fiu":
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nan_to_num(np.abs(before.astype(np.float64) - after.astype(np.float64)), nan=0.0))
    return np.asarray(before != after, dtype=np.float64)


def _apart(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.abs(left.astype(np.float64) - right.astype(np.float64)))


def session(model: Any, library: Path | None) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    """The model unoptimised; it is fed what it takes of what it is given."""
    from edgebuild.models.host_session import HostSession

    host = HostSession(model, library=library)
    return lambda feeds: host({name: feeds[name] for name in host.inputs})
