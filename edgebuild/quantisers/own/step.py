"""Our quantiser as a step."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.artifact import Contract, Int8Scheme
from edgebuild.core.steps import RunsOn, Step
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.ladder import Ladder
    from edgebuild.quantisers.own.placement import Placement

#: What one search may cost, in MACs: about ten seconds on two ordinary cores.
BUDGET_MACS = 100_000_000_000
#: What one pass over half of the frames may cost; of larger models fewer are taken, but not below ``LEAST_HALF``.
PASS_MACS = BUDGET_MACS // 4
LEAST_HALF = 16
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
    version: ClassVar[int] = 5
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Quantise the model."""
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save
        from edgebuild.quantisers.own.writer import write

        source = inputs["model"] / "model.onnx"
        ladder = self._climb(load_onnx(source), inputs, ctx)
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

    def _climb(self, model: Any, inputs: Mapping[str, Path], ctx: StepContext) -> Ladder:
        from edgebuild.quantisers.own.error import reference
        from edgebuild.quantisers.own.graph import prepare
        from edgebuild.quantisers.own.ladder import climb
        from edgebuild.quantisers.own.samples import choose_frames
        from edgebuild.quantisers.own.simulator import Simulator, float_numbers
        from edgebuild.quantisers.own.statistics import not_finite
        from edgebuild.quantisers.own.trained import calibrate_rest, find_trained
        from edgebuild.quantisers.own.workbench import Calibration

        library = inputs.get("library")
        graph = prepare(model, library=library)
        placement = self._placed(graph, frozenset())
        simulator = Simulator(graph, placement, self.scheme, library=library)
        numbers = float_numbers(graph, placement)
        fixed = simulator.feeds(numbers)
        fit, held = choose_frames(
            inputs["calibration"],
            self.contract,
            samples=self.samples,
            seed=ctx.seed,
            call=lambda feeds: simulator.run({**fixed, **feeds}),
            check=ctx.check,
        )
        macs = sum(op.macs for op in placement.ops) + CALL_MACS * len(graph.nodes)
        fit, held = (half.first(max(PASS_MACS // macs, LEAST_HALF)) for half in (fit, held))
        ill: frozenset[str] = frozenset()
        while found := not_finite(simulator, numbers, placement.groups, (fit, held), ctx.check) - ill:
            ill |= found
            placement = self._placed(graph, ill)
            simulator = Simulator(graph, placement, self.scheme, library=library)
            numbers = float_numbers(graph, placement)
        bench = Calibration(
            graph=graph,
            placement=placement,
            scheme=self.scheme,
            simulator=simulator,
            original=numbers,
            fit=fit,
            held=held,
            fit_expected=reference(simulator, numbers, fit, ctx.check),
            held_expected=reference(simulator, numbers, held, ctx.check),
            macs=macs,
            budget_macs=BUDGET_MACS,
            seed=ctx.seed,
            check=ctx.check,
        )
        trained = find_trained(graph, placement, self.scheme)
        with ctx.progress.task("Calibrating int8"):
            return calibrate_rest(bench, trained) if trained.codes or trained.ranges else climb(bench)

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


def _report(ladder: Ladder, before_bytes: int, after_bytes: int) -> dict[str, Any]:
    bench = ladder.bench
    weights = {op.name: bench.original.weights[op.name].size for op in bench.placement.ops}
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
    import math

    return value if math.isfinite(value) else None
