"""Our int8 against NNCF's and onnxruntime's defaults, on the three examples and a trained depthwise net, per runtime.

    python benchmarks/quantisers.py [--nets fashion-mnist ...] [--work FOLDER] [--launches N]

Every step is cached in the work folder, so that a second run goes on where the first was stopped.

Our quantiser was developed while its SQNR and KL on the *validation* splits of these nets were looked at, so those are
development figures and only shown. What is claimed rests on the *test* splits, which were not used while it was
developed. They are read outside of a build's seal: nothing is chosen by them here.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidence import write_results

from edgebuild.backends.protocol import CompileRequest
from edgebuild.building import candidates, context, data, prepare, proving, race, splits
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Artifact, Int8Scheme, Precision
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import NoProgress
from edgebuild.devices.lock import measurement_lock
from edgebuild.errors import ModelError
from edgebuild.measuring import session
from edgebuild.measuring.protocols import Protocol
from edgebuild.quantisers.registry import quantiser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.core.measurement import Comparison
    from edgebuild.core.verdict import Closeness, Drop
    from edgebuild.execution.executor import StepResult

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
NETS = ("fashion-mnist", "magika-files", "silero-vad", "dwnet")
RUNTIMES = ("onnxruntime", "openvino")
OURS = "edgebuild"
SCHEME = Int8Scheme(activations="uint8")
#: What is compared: who quantises, and the scheme that it is asked for. NNCF takes none: it decides by itself.
ARMS: dict[str, tuple[str, Int8Scheme]] = {
    OURS: ("edgebuild", SCHEME),
    "NNCF": ("nncf", SCHEME),
    "ORT, its defaults (s8s8, per tensor)": ("onnxruntime", Int8Scheme(activations="int8", per_channel=False)),
    "ORT, our types (u8s8, per channel)": ("onnxruntime", SCHEME),
}
#: Accuracy counts as non-inferior when it is lost with 95 % confidence by no more than this.
NON_INFERIOR = 0.002


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantiser on one net in one runtime."""

    net: str
    runtime: str
    arm: str
    failure: str | None = None
    closeness: Closeness | None = None
    development: Closeness | None = None
    drop: Drop | None = None
    latency: Comparison | None = None
    versus_float: Comparison | None = None
    size_bytes: int = 0


def project_folder(net: str, work: Path) -> Path:
    """A copy of the example, so that no build of it is disturbed; the depthwise net borrows Fashion-MNIST's data."""
    folder = work / net
    source = EXAMPLES / ("fashion-mnist" if net == "dwnet" else net)
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".edgebuild", "__pycache__"))
    if net == "dwnet":
        for name in ("dwnet.py", "dwnet.safetensors"):
            shutil.copy(HERE / "nets" / name, folder)
        text = (source / "edgebuild.toml").read_text().replace('name = "fashion-mnist"', 'name = "dwnet"')
        text = text.replace('"model:resnet8"', '"dwnet:dwnet"').replace('"weights.safetensors"', '"dwnet.safetensors"')
        (folder / "edgebuild.toml").write_text(text)
    return folder


def compare(net: str, work: Path, launches: int) -> list[Row]:
    """All quantisers on one net in both runtimes."""
    project = load_project(project_folder(net, work))
    with context.open_build(project, context.Options(), progress=NoProgress()) as w:
        common = prepare.prepare(w, prepare.import_model(w))
        test = data.materialise(w, "test")
        given = common.imported if project.model.factory is None else None
        truth = prepare.run_reference(w, given, common.given, test, "test")
        rows: list[Row] = []
        models: dict[str, StepResult | ModelError] = {arm: _quantise(w, common, arm) for arm in ARMS}
        for runtime in RUNTIMES:
            rows += _in_runtime(net, w, common, (test, truth), models, runtime, launches)
        return rows


def _quantise(w: context.BuildContext, common: prepare.ModelInputs, arm: str) -> StepResult | ModelError:
    name, scheme = ARMS[arm]
    precision = Precision(kind="int8", scheme=scheme, quantiser=name)
    step = quantiser(name)(precision, common.contract, (), candidates.CALIBRATION_SAMPLES)
    try:
        return w.run(step, {"model": common.frozen, "calibration": common.calibration}, label=f"quantise: {arm}")
    except ModelError as error:
        return error


def _in_runtime(
    net: str,
    w: context.BuildContext,
    common: prepare.ModelInputs,
    sealed: tuple[StepResult, StepResult],
    models: dict[str, StepResult | ModelError],
    runtime: str,
    launches: int,
) -> list[Row]:
    rows: list[Row] = []
    plain = _compile(w, common, common.frozen, Precision(kind="fp32"), runtime)
    arms = [_arm("fp32", plain, common)]
    for arm, model in models.items():
        print(f"{net}, {runtime}: {arm}", flush=True)
        if isinstance(model, ModelError):
            rows.append(Row(net=net, runtime=runtime, arm=arm, failure=model.message))
            continue
        name, scheme = ARMS[arm]
        built = _compile(w, common, model, Precision(kind="int8", scheme=scheme, quantiser=name), runtime)
        artifact, compiled = built
        label = f"{runtime}, {arm}"
        validation = splits.JudgedSplit.whole("validation", common.validation, common.reference)
        test = splits.JudgedSplit.whole("test", *sealed)
        seen = proving.judge(w, label, proving.evaluate(w, artifact, compiled, validation, label), validation)
        tested = proving.judge(w, label, proving.evaluate(w, artifact, compiled, test, label), test)
        rows.append(
            Row(
                net=net,
                runtime=runtime,
                arm=arm,
                closeness=tested.closeness,
                development=seen.closeness,
                drop=tested.verdict.drop,
                size_bytes=artifact.size_bytes,
            )
        )
        arms.append(_arm(arm, built, common))
    return _timed(w, rows, arms, launches)


def _compile(
    w: context.BuildContext, common: prepare.ModelInputs, model: StepResult, precision: Precision, runtime: str
) -> tuple[Artifact, StepResult]:
    backend = w.backends[runtime]
    step = backend.compile_step(CompileRequest(precision=precision, contract=common.contract, on_device=True))
    compiled = w.run(step, {"model": model}, label=f"compile for {runtime}")
    artifact = read_artifact(compiled.path)
    return artifact.with_settings(backend.default_settings(1)), compiled


def _arm(name: str, built: tuple[Artifact, StepResult], common: prepare.ModelInputs) -> session.Arm:
    return session.Arm(
        id=name,
        artifact=built[0],
        folder=built[1].path,
        inputs=common.validation.path,
        inputs_digest=common.validation.entry.digest,
        keep=True,
    )


def _timed(w: context.BuildContext, rows: list[Row], arms: list[session.Arm], launches: int) -> list[Row]:
    """Add the latency of each arm against ours and against fp32, all launches interleaved in one session."""
    protocol = Protocol(name="screen", launches=launches, max_launches=launches, sample_s=1.5, warmup_cap_s=5.0)
    with measurement_lock("benchmark: quantisers"):
        result = session.measure(race.make_bench(w), protocol, arms, title="Timing")
    return [
        row
        if row.failure
        else Row(
            **{
                **vars(row),
                "latency": None if row.arm == OURS else session.compare_arms(result, OURS, row.arm),
                "versus_float": session.compare_arms(result, row.arm, "fp32"),
            }
        )
        for row in rows
    ]


def report(rows: list[Row]) -> str:
    """One table per net and runtime, and what follows from them."""
    parts = [summary(rows)]
    for net in dict.fromkeys(row.net for row in rows):
        for runtime in RUNTIMES:
            part = [row for row in rows if (row.net, row.runtime) == (net, runtime)]
            parts.append(f"## {net} in {runtime}\n\n" + table(part))
    return "\n\n".join(parts)


def table(rows: list[Row]) -> str:
    lines = [
        "| quantiser | SQNR on test (dB) | KL on test (nats) | SQNR on validation |"
        " accuracy lost on test (95 % interval) | n | file |"
        " ours / this, latency (95 % interval) | this / fp32, latency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.failure:
            lines.append(f"| {row.arm} | fails: {row.failure} | | | | | | | |")
            continue
        close, drop = row.closeness, row.drop
        assert close is not None
        assert drop is not None
        sqnr, seen = (_db(c) for c in (close, row.development))
        kl = "n/a" if close.kl_nats is None else f"{close.kl_nats:.2e}"
        lost = f"{100 * drop.drop:+.2f} points ({100 * drop.low:+.2f} to {100 * drop.high:+.2f})"
        size = f"{row.size_bytes / 1e3:.0f} kB"
        lines.append(
            f"| {row.arm} | {sqnr} | {kl} | {seen} | {lost} | {drop.samples} | {size} | {_ratio(row.latency)} |"
            f" {_ratio(row.versus_float)} |"
        )
    return "\n".join(lines)


def _db(close: Closeness | None) -> str:
    return "n/a" if close is None or close.sqnr_db is None else f"{close.sqnr_db:.1f}"


def _ratio(comparison: Comparison | None) -> str:
    if comparison is None:
        return "—"
    low, point, high = (math.exp(x) for x in (comparison.low, comparison.effect, comparison.high))
    return f"{point:.2f} ({low:.2f} to {high:.2f}), {comparison.outcome}"


def summary(rows: list[Row]) -> str:
    """What the figures say of the goals: closeness, accuracy, latency."""
    won, inferior, slower, unsettled, settled = [], [], [], [], 0
    pairs = list(dict.fromkeys((row.net, row.runtime) for row in rows))
    for net, runtime in pairs:
        part = {row.arm: row for row in rows if (row.net, row.runtime) == (net, runtime)}
        ours, others = part[OURS], [row for arm, row in part.items() if arm != OURS and not row.failure]
        if not ours.failure and all(closer(ours, other) for other in others):
            won.append((net, runtime))
        if ours.drop is None or ours.drop.high > NON_INFERIOR:
            inferior.append((net, runtime))
        for other in others:
            outcome = None if other.latency is None else other.latency.outcome
            case = (net, runtime, other.arm)
            slower += [case] if outcome == "worse" else []
            # Inconclusive is not "no slower": the interval still holds a slow-down.
            unsettled += [case] if outcome in {None, "inconclusive"} else []
            settled += outcome in {"better", "equivalent"}
    text = [
        f"- Closer to the reference on test than every other quantiser that works (SQNR, and KL where there is one): "
        f"{len(won)} of {len(pairs)} ({_names(won)}).",
        f"- Upper bound of the accuracy lost above {100 * NON_INFERIOR:.1f} points: {_names(inferior)}.",
        f"- Latency against each other quantiser's model: faster or equivalent in {settled}, slower in {len(slower)}"
        f" ({_names(slower)}), *inconclusive* in {len(unsettled)} ({_names(unsettled)}).",
        "- The others run with their defaults, ours searches: the comparison asked for, not one of equal effort.",
        "- Validation was looked at while our quantiser was developed, test was not: the claims rest on test.",
    ]
    return "\n".join(text)


def closer(ours: Row, other: Row) -> bool:
    """Whether ours has the higher SQNR and, for class scores, the lower KL."""
    a, b = ours.closeness, other.closeness
    if a is None or b is None or a.sqnr_db is None or b.sqnr_db is None:
        return False
    less = a.kl_nats is None or b.kl_nats is None or a.kl_nats < b.kl_nats
    return a.sqnr_db > b.sqnr_db and less


def _names(cases: Sequence[tuple[str, ...]]) -> str:
    return "; ".join(" in ".join(case[:2]) + "".join(f" ({c})" for c in case[2:]) for case in cases) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgebuild-quantisers")
    parser.add_argument("--launches", type=int, default=6)
    options = parser.parse_args()
    rows = [row for net in options.nets for row in compare(net, options.work, options.launches)]
    numbers: dict[str, Any] = {"rows": [_plain(row) for row in rows], "non_inferior_bound": NON_INFERIOR}
    command = "python benchmarks/quantisers.py"
    print(write_results("quantisers", "Our int8 against NNCF's and onnxruntime's", command, report(rows), numbers))


def _plain(row: Row) -> dict[str, Any]:
    return {k: v.model_dump(mode="json") if hasattr(v, "model_dump") else v for k, v in vars(row).items()}


if __name__ == "__main__":
    main()
