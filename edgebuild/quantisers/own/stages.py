"""The graph in parts, so that all frames pass one op before any reaches the next.

What is done layer by layer costs one run of the model in all, and not one per layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.models.onnx_graphs import reads_of
from edgebuild.quantisers.own.sessions import make_session, run_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.parallel import Workers
    from edgebuild.quantisers.own.placement import WeightedOp

    Arrays = dict[str, NDArray[Any]]


class Stages:
    """A graph cut before each of ``ops``, which are in graph order. What comes after the last is left out."""

    def __init__(self, model: Any, ops: Sequence[WeightedOp], library: Path | None) -> None:
        nodes = model.graph.node
        makers = {name: index for index, node in enumerate(nodes) for name in node.output}
        cuts = [makers[op.output] for op in ops]
        self._made = makers.keys()
        self.reads = tuple(str(nodes[cut].input[0]) for cut in cuts)
        self._parts = [nodes[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True)]
        self._model, self._library = model, library
        self._inputs = {value.name: value for value in model.graph.input}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sessions: dict[int, Any] = {}
        wanted = set(self.reads[-1:])
        self._wanted: list[frozenset[str]] = []
        for part, read in zip(reversed(self._parts), reversed(self.reads), strict=True):
            wanted.add(read)
            self._wanted.insert(0, frozenset(wanted))
            wanted.update(name for node in part for name in reads_of(node))

    def run(self, index: int, parameters: Arrays, live: Arrays) -> Arrays:
        """Run one part; return all that the op after it, or anything later, reads."""
        part, wanted = self._parts[index], self._wanted[index]
        kept = {name: value for name, value in live.items() if name in wanted}
        outputs = [name for node in part for name in node.output if name in wanted]
        if not outputs:
            return kept
        reads = self._outside(part)
        if index not in self._sessions:
            model = self._cut_out(part, reads, outputs, live)
            self._sessions[index] = make_session(model, self._library, 1, arena=False)
        feeds = {name: live[name] if name in live else parameters[name] for name in reads}
        return {**kept, **run_session(self._sessions[index], outputs, feeds)}

    def _outside(self, part: Sequence[Any]) -> list[str]:
        """Return what a part reads that was made before it."""
        inside = {name for node in part for name in node.output}
        read = {name for node in part for name in reads_of(node)} - inside - self._constants.keys()
        return sorted(name for name in read if name in self._inputs or name in self._made)

    @property
    def only_tensors(self) -> bool:
        """Whether the graph can be cut anywhere: sequences and optional values can't be handed on."""
        kinds = (node.op_type for node in self._model.graph.node)
        return not any("Sequence" in kind or "Optional" in kind for kind in kinds)

    def _cut_out(self, part: Sequence[Any], reads: list[str], outputs: list[str], live: Arrays) -> Any:
        import onnx
        from onnx import helper

        source = self._model
        model = onnx.ModelProto(
            ir_version=source.ir_version, opset_import=source.opset_import, functions=source.functions
        )
        graph = model.graph
        graph.name = "stage"
        graph.node.extend(part)
        for name in reads:
            kind = helper.np_dtype_to_tensor_dtype(live[name].dtype) if name in live else None
            typed = self._inputs[name] if kind is None else helper.make_tensor_value_info(name, kind, None)
            graph.input.append(typed)
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
        read = {name for node in part for name in reads_of(node)}
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in read)
        return model


class Walk:
    """All frames on their way through the stages. What later stages read is kept in memory for each."""

    def __init__(self, stages: Stages, frames: Iterable[Mapping[str, NDArray[Any]]], workers: Workers) -> None:
        self._stages, self._workers, self._next = stages, workers, 0
        self._live: list[Arrays] = [dict(feeds) for feeds in frames]

    def step(self, parameters: Arrays) -> list[NDArray[Any]]:
        """Bring all frames to the next op with ``parameters``; return what it reads, batch by batch."""
        at = self._next
        self._live[0] = self._stages.run(at, parameters, self._live[0])  # makes the session, before threads want it
        rest = self._workers.in_order(lambda live: self._stages.run(at, parameters, live), self._live[1:])
        for index, live in enumerate(rest, start=1):
            self._live[index] = live
        self._next += 1
        return [live[self._stages.reads[at]] for live in self._live]

    @property
    def live_bytes(self) -> int:
        """What is kept at present."""
        return sum(value.nbytes for live in self._live for value in live.values())
