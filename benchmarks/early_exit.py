"""How much faster a chain with an early exit is than the same net run whole: mean latency, in interleaved sessions.

    python benchmarks/early_exit.py            trains (or takes what the row `exit-early`, seed 0, left), then measures

Both arms are those of the row in benchmarks/technique_rows/exit_early.py, on ONNX Runtime and OpenVINO with one thread,
under the certify protocol, fed the same 1,000 validation samples in turn. The ratio is that of launch means, paired by
round. Writes docs/results/early-exit.md; run it on a quiet machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import techniques
from evidence import write_results
from technique_rows import exit_early

from edgebuild.backends.table import backends
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.measurement import Fact
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.core.values import digest_file
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.devices.local import LocalDevice
from edgebuild.measuring import session, statistics
from edgebuild.measuring.protocols import CERTIFY
from edgebuild.measuring.samples import samples_reader

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.measuring.session import SessionResult

SETTINGS: dict[str, dict[str, bool | int | str]] = {
    "onnxruntime": {"arena": True, "spinning": False, "threads": 1},
    "openvino": {"hint": "latency", "threads": 1},
}
ROTATE = 1000
COMMAND = "python benchmarks/early_exit.py"


def main() -> None:
    """Build, measure, write the page."""
    scratch = techniques.place(exit_early.ROWS[0]) / "scratch-0"
    scratch.mkdir(parents=True, exist_ok=True)
    made = exit_early.build(0, scratch)
    table = backends()
    client = RunnerClient(LocalDevice(scratch / "device"), {name: table[name].device_file for name in SETTINGS})
    lines = ["| runtime | plain, mean ms | chain, mean ms | plain / chain [95 %] | p99, ms: plain, chain | ends |"]
    lines.append("|---|---|---|---|---|---|")
    numbers: dict[str, Any] = {}
    for name, settings in SETTINGS.items():
        folders = {
            "plain": exit_early.compile_plain(table[name], made["plain"], scratch / f"bench-{name}-plain"),
            "chain": exit_early.compile_stages(table[name], made["chain"], scratch / f"bench-{name}-chain"),
        }
        arms = [_arm(arm, folder, settings, made["validation"]) for arm, folder in folders.items()]
        bench = session.MeasurementContext(
            client=client,
            root=scratch / "measurements",
            progress=NoProgress(),
            check=never_stop,
            configuration=(Fact(name="benchmark", value="early-exit"),),
            remeasure=True,
        )
        protocol = CERTIFY.model_copy(update={"rotate": ROTATE})
        with hold_device(client, "benchmark: early exit", progress=NoProgress(), check=never_stop):
            result = session.measure(bench, protocol, arms, title=name)
        numbers[name] = found = _figures(result)
        low, high = found["ratio_low"], found["ratio_high"]
        ends = ", ".join(f"{share:.1%} at {where}" for where, share in found["exits"].items())
        lines.append(
            f"| {name} | {found['plain_ms']:.4f} | {found['chain_ms']:.4f} | {found['ratio']:.2f} [{low:.2f}, "
            f"{high:.2f}] | {found['plain_p99_ms']:.4f}, {found['chain_p99_ms']:.4f} | {ends} |"
        )
    asked = "Asked: at least 2. Accuracy is in the row `exit-early` of [the techniques' page](techniques.md)."
    text = "\n".join([f"{exit_early.net.__doc__} Fashion-MNIST, seed 0. {asked}", "", *lines])
    print(write_results("early-exit", "Early exit: mean latency", COMMAND, text, numbers))


def _arm(name: str, folder: Path, settings: dict[str, bool | int | str], data: Path) -> session.Arm:
    artifact = read_artifact(folder)
    return session.Arm(
        id=name,
        artifact=artifact.with_settings(tuple(settings.items())),
        folder=folder,
        inputs=data,
        inputs_digest=digest_file(data / "image.npy"),
        keep=True,
    )


def _figures(result: SessionResult) -> dict[str, Any]:
    """Means of launches, their ratio by rounds in which both count, p99 over all samples, and where the chain ended."""
    read = samples_reader(result.folder.path)
    launches = {arm: found.launches for arm, found in result.measurements.items()}
    pairs = [
        (float(read(chain).mean()), float(read(plain).mean()))
        for chain, plain in zip(launches["chain"], launches["plain"], strict=False)
        if chain.valid and plain.valid
    ]
    compared = statistics.compare(pairs)
    if compared is None:
        raise SystemExit("fewer than two rounds count: repeat it when the machine is quieter")
    summaries = {arm: statistics.summarise(found, read) for arm, found in launches.items()}
    p99 = {arm: next(p.value_ms for p in found.percentiles if p.p == 99) for arm, found in summaries.items()}
    return {
        "rounds": len(pairs),
        "plain_ms": float(np.mean([plain for _, plain in pairs])) / 1e6,
        "chain_ms": float(np.mean([chain for chain, _ in pairs])) / 1e6,
        "ratio": float(np.exp(-compared.effect)),
        "ratio_low": float(np.exp(-compared.high)),
        "ratio_high": float(np.exp(-compared.low)),
        "plain_p99_ms": p99["plain"],
        "chain_p99_ms": p99["chain"],
        "exits": dict(summaries["chain"].exits),
    }


if __name__ == "__main__":
    main()
