"""Our quantiser as a step."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.artifact import Contract, Int8Scheme
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.ladder import Ladder
    from edgebuild.quantisers.own.padding import Padding
    from edgebuild.quantisers.own.placement import Placement
    from edgebuild.quantisers.own.samples import Frames
    from edgebuild.quantisers.own.simulator import Simulator
    from edgebuild.quantisers.own.workbench import Calibration

#: What one search may cost, in MACs: about five seconds on two ordinary cores.
BUDGET_MACS = 60_000_000_000
#: What one pass over half of the frames may cost; of larger models fewer are taken, but not below ``LEAST_HALF``.
#: There are some twenty passes, so that large models take about as long as observing a few hundred frames once.
PASS_MACS = 16_000_000_000
LEAST_HALF = 24
#: Frames that are mostly padding tell less, so that up to this many times as many are taken.
MOST_MORE = 2.0
#: What the outputs of one half may fill in memory; frames are left out beyond it, but not below ``LEAST_FRAMES``.
OUTPUT_BYTES, LEAST_FRAMES = 128 * 2**20, 4
#: One operator call costs about as much as this many MACs, in small models more than the arithmetic.
CALL_MACS = 100_000


class Quantise(Step):
    """Writes an 8-bit ``model.onnx`` with explicit Q/DQ, and ``quantise.json`` on what was decided and why.

    What a model was trained to in 8 bits is written as it is: see ``trained``; only the rest is calibrated.

    Inputs: ``model`` (a folder with ``model.onnx``), ``calibration`` (a data folder), ``library`` (custom operators,
    optional). The same inputs and seed give the same file on one instruction set. Raises ``ModelError`` if nothing in
    the model can be quantised, ``DataError`` for fewer than two samples.
    """

    scheme: Int8Scheme
    contract: Contract
    keep_float: tuple[str, ...] = ()
    samples: int = 300
    kind: ClassVar[str] = "quantise"
    version: ClassVar[int] = 11
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime", "scipy")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Quantise the model."""
        from edgebuild.models.onnx_graphs import save
        from edgebuild.quantisers.own.memory import give_back_large_blocks
        from edgebuild.quantisers.own.writer import write

        give_back_large_blocks()
        ladder = self._climb(inputs, ctx)
        bench = ladder.bench
        save(write(bench.graph, bench.placement, ladder.numbers, self.scheme), out_dir / "model.onnx")
        before = sum(f.stat().st_size for f in inputs["model"].glob("model.onnx*"))
        report = _report(ladder, before, (out_dir / "model.onnx").stat().st_size)
        report["keep_float_unmatched"] = self._unmatched(ladder)
        (out_dir / "quantise.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")

    def _unmatched(self, ladder: Ladder) -> list[str]:
        """Return what of ``keep_float`` names nothing in the model: a slip of the pen, or a node folded away."""
        from edgebuild.quantisers.own.graph import is_kept

        graph = ladder.bench.graph
        nodes = [(name, node.op_type) for name, node in zip(graph.names, graph.nodes, strict=True)]
        return [kept for kept in self.keep_float if not any(is_kept(name, op, (kept,)) for name, op in nodes)]

    def _climb(self, inputs: Mapping[str, Path], ctx: StepContext) -> Ladder:
        from threadpoolctl import threadpool_limits

        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.quantisers.own import smooth
        from edgebuild.quantisers.own.graph import prepare
        from edgebuild.quantisers.own.ladder import climb, planned
        from edgebuild.quantisers.own.simulator import Simulator
        from edgebuild.quantisers.own.trained import calibrate_rest, find_trained

        library = inputs.get("library")
        with ctx.progress.task("Preparing the model for int8"):
            graph = prepare(load_onnx(inputs["model"] / "model.onnx"), library=library)
            placement = self._placed(graph, frozenset())
            simulator = Simulator(graph, placement, self.scheme, library=library)
        macs = sum(op.macs for op in placement.ops) + CALL_MACS * len(graph.nodes)
        halves, padding = self._frames(inputs["calibration"], simulator, graph, macs, ctx)
        total = planned(graph, placement, halves, macs, BUDGET_MACS)
        total += smooth.planned(graph, placement, *(half.runs for half in halves))
        # One thread adds up in the same order on every machine, and BLAS's spin where others want the cores.
        with ctx.progress.task("Calibrating int8", total=total) as task, threadpool_limits(1, user_api="blas"):

            def tick(runs: float) -> None:
                ctx.check()
                task.advance(runs)

            ill: frozenset[str] = frozenset()
            while isinstance(bench := _observed(graph, simulator, halves, macs, tick, ctx.seed, padding), frozenset):
                ill |= bench
                simulator = Simulator(graph, self._placed(graph, ill), self.scheme, library=library)
            trained = find_trained(graph, bench.placement, self.scheme)
            if trained.codes or trained.ranges:
                return calibrate_rest(bench, trained)

            def again(changed: Graph) -> Calibration | frozenset[str]:
                other = Simulator(changed, self._placed(changed, ill), self.scheme, library=library)
                return _observed(changed, other, halves, macs, tick, ctx.seed, padding)

            bench, tried = smooth.smoothest(bench, again)
            ladder = climb(bench)
            ladder.rungs[:0] = tried
            return ladder

    def _frames(
        self, calibration: Path, simulator: Simulator, graph: Graph, macs: int, ctx: StepContext
    ) -> tuple[tuple[Frames, Frames], Padding | None]:
        """Return the two halves: of large models, and of those with large outputs, fewer frames.

        Also which places of a frame hold nothing: the emptier the frames, the more are taken, up to ``MOST_MORE``.
        """
        from edgebuild.quantisers.own.padding import find_padding
        from edgebuild.quantisers.own.samples import choose_frames
        from edgebuild.quantisers.own.simulator import float_numbers

        numbers = float_numbers(graph, simulator.placement)
        with ctx.progress.task("Choosing calibration frames") as task:

            def call(feeds: dict[str, Any]) -> dict[str, Any]:
                task.advance()
                return simulator.run(numbers, feeds)

            fit, held = choose_frames(
                calibration, self.contract, samples=self.samples, seed=ctx.seed, call=call, check=ctx.check
            )
            padding = find_padding(fit, call)
        more = 1.0 if padding is None else min(1 / padding.share, MOST_MORE)
        shapes = (graph.shapes.get(name) or () for name in simulator.outputs)
        output_bytes = 4 * sum(math.prod(size or 1 for size in shape) for shape in shapes) // self.contract.batch
        affordable = int(more * max(PASS_MACS // macs, LEAST_HALF))
        most = min(affordable, max(OUTPUT_BYTES // max(output_bytes, 1), LEAST_FRAMES))
        return (fit.first(most), held.first(most)), padding

    def _placed(self, graph: Graph, no_range: frozenset[str]) -> Placement:
        """Return what is quantised; raises ``ModelError`` where that is nothing."""
        from edgebuild.quantisers.own.placement import place

        placement = place(graph, self.scheme, keep_float=self.keep_float, no_range=no_range)
        if not placement.ops:
            reasons = "; ".join(f"{name}: {why}" for name, why in placement.left_float[:3])
            raise ModelError(
                f"The model has nothing to quantise ({reasons or 'no convolution or matrix product'}).",
                hint="Leave it in fp32 or fp16, or shorten keep_float.",
            )
        return placement


def _observed(
    graph: Graph,
    simulator: Simulator,
    halves: tuple[Frames, Frames],
    macs: int,
    tick: Callable[[float], None],
    seed: int,
    padding: Padding | None = None,
) -> Calibration | frozenset[str]:
    """Return what the float model makes of both halves, or the tensors with NaN or infinity that need another place."""
    from edgebuild.quantisers.own.equalise import pairs
    from edgebuild.quantisers.own.simulator import float_numbers
    from edgebuild.quantisers.own.statistics import observe
    from edgebuild.quantisers.own.workbench import Calibration

    placement, (fit, held) = simulator.placement, halves
    numbers = float_numbers(graph, placement)
    between = tuple(pair.between for pair in pairs(graph, placement))
    seen = observe(simulator, numbers, fit, tick, tensors=placement.groups, channels=between, padding=padding)
    rest = observe(simulator, numbers, held, tick, tensors=placement.groups, padding=padding)
    if ill := seen.ill | rest.ill:
        return ill
    return Calibration(
        graph=graph,
        placement=placement,
        scheme=simulator.scheme,
        simulator=simulator,
        fit=fit,
        held=held,
        seen=seen,
        held_expected=rest.outputs,
        macs=macs,
        budget_macs=BUDGET_MACS,
        seed=seed,
        tick=tick,
        padding=padding,
    )


def _report(ladder: Ladder, before_bytes: int, after_bytes: int) -> dict[str, Any]:
    from edgebuild.quantisers.own.layers import weight_count

    bench = ladder.bench
    weights = {op.name: weight_count(bench.graph, op) for op in bench.placement.ops}
    return {
        "rungs": [
            {"name": r.name, "kept": r.kept, "sqnr_db": _finite(r.distance.sqnr_db), "kl_nats": r.distance.kl}
            for r in ladder.rungs
        ],
        "ranges": {name: asdict(choice) for name, choice in ladder.choices.items()},
        "quantised": [op.name for op in bench.placement.ops] + list(bench.placement.joint),
        "tables": [table.weight for table in bench.placement.tables],
        "left_float": dict(bench.placement.left_float),
        "frames": {"fit": len(bench.fit), "held_out": len(bench.held)},
        "weight_bytes": {"before": 4 * sum(weights.values()), "after": sum(weights.values())},
        "file_bytes": {"before": before_bytes, "after": after_bytes},
        "larger": after_bytes > before_bytes,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
