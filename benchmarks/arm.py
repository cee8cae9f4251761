"""Counts instructions and looks at accuracy of every precision on two emulated Arm cores; writes docs/results/arm.md.

    python benchmarks/arm.py [--net NAME …]

Four nets (the three examples and a depthwise net on Fashion-MNIST) on a Cortex-A72 (no dot product, no fp16) and a
Cortex-A76 (both). What profiles/arm-onnx.toml says of int8 schemes and of fp16 rests on this page. Builds are those of
benchmarks/targets.py and are made where they are missing; fp16 arithmetic, which the profile doesn't build, is counted
here. A count is no time.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from evidence import RESULTS, write_results

from edgebuild.backends.protocol import CompileRequest
from edgebuild.backends.trt.typed import to_half
from edgebuild.building import context, prepare, proving, splits, targets
from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Fp16Meaning, Precision
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import NoProgress
from edgebuild.errors import ModelError
from edgebuild.measuring.emulated import ProfileEmulated, plugin_digest
from edgebuild.models.onnx_files import load_onnx
from targets import DEPTHWISE, EMULATED, NAMES, WORK, project, record_of

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord, CandidateRecord

ALL = (*NAMES, DEPTHWISE)
#: Which column a candidate's precision goes into; both quantisers show the same kernels, ours is shown.
SHOWN = {
    "fp32": "fp32",
    "int8-edgebuild-u8s8": "U8S8",
    "int8-edgebuild-s8s8": "S8S8",
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One precision of one net on one core."""

    instructions: dict[str, int]
    sqnr_db: float | None
    drop: dict[str, float] | None
    note: str = ""

    @property
    def millions(self) -> float:
        """All instructions of one inference, in millions."""
        return sum(self.instructions.values()) / 1e6


def of_candidate(c: CandidateRecord) -> Seen:
    """What a build recorded."""
    drop = c.validation.drop if c.validation else None
    return Seen(
        instructions=dict(c.measured.emulation.instructions) if c.measured.emulation else {},
        sqnr_db=c.closeness.sqnr_db if c.closeness else None,
        drop={"points": 100 * drop.drop, "low": 100 * drop.low, "high": 100 * drop.high, "n": drop.samples}
        if drop
        else None,
        note="" if c.artifact_digest else c.reason,
    )


def half(name: str, target: str) -> Seen:
    """Compute in fp16 wherever ONNX Runtime can, and count that."""
    os.environ["EDGEBUILD_DEVICES"] = str(WORK / "devices.toml")
    loaded = load_project(project(name))
    options = Options(targets=(target,))
    with (
        context.open_build(loaded, options, progress=NoProgress()) as w,
        targets.open_targets(w, (target,)) as (at,),
    ):
        common = prepare.prepare(w, prepare.import_model(w))
        sample = splits.sampled("validation", common.validation, common.reference, common, at)
        model = load_onnx(common.frozen.path / "model.onnx")
        to_half(model)
        folder = WORK / f"{name}-half"
        folder.mkdir(exist_ok=True)
        onnx.save(model, str(folder / "model.onnx"))
        precision = Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE)
        step = at.backends["onnxruntime"].compile_step(
            CompileRequest(precision=precision, contract=common.contract, on_device=True)
        )
        try:
            compiled = at.run(step, {"model": folder}, label=f"compile {name} in fp16")
        except ModelError as error:
            return Seen(instructions={}, sqnr_db=None, drop=None, note=error.message)
        artifact = read_artifact(compiled.path)
        outputs = proving.evaluate(at, artifact, compiled, sample, "fp16")
        found = proving.judge(at, "fp16", outputs, sample)
        profiled = at.run(
            ProfileEmulated(plugin_digest=plugin_digest(), settings=artifact.settings),
            {"artifact": compiled, "data": sample.data},
            label="profile fp16",
        )
        counts = json.loads((profiled.path / "counts.json").read_bytes())
        drop = found.verdict.drop
        return Seen(
            instructions=counts.get("classes", {}),
            sqnr_db=found.closeness.sqnr_db,
            drop={"points": 100 * drop.drop, "low": 100 * drop.low, "high": 100 * drop.high, "n": drop.samples}
            if drop
            else None,
        )


def look(record: BuildRecord, name: str, target: str) -> dict[str, Seen]:
    """Every precision of a net on a core."""
    found = {
        SHOWN[c.spec.precision.label]: of_candidate(c) for c in record.candidates if c.spec.precision.label in SHOWN
    }
    core = next(fact.value for fact in record.facts if fact.name == "isa").split()
    if "asimdhp" in core:
        found["fp16"] = half(name, target)
    return found


def cell(seen: Seen | None) -> str:
    """Instructions, and beside them how near the outputs are."""
    if seen is None:
        return "–"
    if not seen.instructions:
        return seen.note or "not counted"
    close = f", {seen.sqnr_db:.1f} dB" if seen.sqnr_db is not None else ""
    return f"{seen.millions:.4g}{close}"


def drop_cell(seen: Seen | None) -> str:
    """A drop in points."""
    if seen is None or seen.drop is None:
        return "–"
    d = seen.drop
    return f"{d['points']:.2f} [{d['low']:.2f}, {d['high']:.2f}], n = {d['n']:,}"


def page(found: dict[str, dict[str, Seen]], qemu: str) -> str:
    """The tables."""
    columns = ("fp32", "fp16", "U8S8", "S8S8")
    lines = [
        f"Under {qemu}, one thread; no board was seen, and a count is no time. Millions of instructions an inference,",
        "and the signal-to-noise ratio of the outputs to the original's on the validation sample.",
        "",
        "| net on core | " + " | ".join(columns) + " | int8 dot products in U8S8, S8S8 (millions) |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for where, seen in found.items():
        dots = ", ".join(
            f"{seen[c].instructions.get('int8_dot', 0) / 1e6:.3g}" if c in seen else "–" for c in ("U8S8", "S8S8")
        )
        lines.append(f"| {where} | " + " | ".join(cell(seen.get(c)) for c in columns) + f" | {dots} |")
    lines += [
        "",
        "Drop against the original on the same frames of the validation sample, in points, with its 95 % interval:",
        "",
        "| net on core | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for where, seen in found.items():
        lines.append(f"| {where} | " + " | ".join(drop_cell(seen.get(c)) for c in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    """Look at every net on every core and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--net", action="append", choices=ALL)
    asked = parser.parse_args().net or ALL
    earlier = RESULTS / "arm.json"
    known: dict[str, Any] = json.loads(earlier.read_text())["found"] if earlier.is_file() else {}
    found = {where: {k: Seen(**v) for k, v in seen.items()} for where, seen in known.items()}
    qemu = "QEMU"
    for name in asked:
        for target in EMULATED:
            record = record_of(name, target, build=True)
            if record is None:
                continue
            cpu = next(fact.value for fact in record.facts if fact.name == "cpu")
            core, _, qemu = cpu.rstrip(")").partition(" (emulated, ")
            found[f"{name} on {core}"] = look(record, name, target)
            numbers = {where: {k: vars(v) for k, v in seen.items()} for where, seen in found.items()}
            print(
                write_results(
                    "arm",
                    "Precisions on emulated Arm cores",
                    "python benchmarks/arm.py",
                    page(found, qemu),
                    {"found": numbers},
                )
            )


if __name__ == "__main__":
    main()
