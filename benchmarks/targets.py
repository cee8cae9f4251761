"""Builds the three examples for targets that aren't this machine, and writes docs/results/targets.md.

    python benchmarks/targets.py [--example NAME …] [--target NAME …]

The Raspberry Pis are emulated (docs/arm.md): accuracy on a stated sample, parity, memory and instruction counts, never
a time. For the Jetson, where no emulator is, the build compiles only: what TensorRT-RTX's parser accepts, see
docs/jetson.md. Projects are copied to the cache, so that no example's own seal is opened. What is built isn't built
again, and a stopped build goes on where it was; the page covers what there is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evidence import write_results

from edgebuild.backends.trt import gate
from edgebuild.building.context import HOME
from edgebuild.building.record import find_build, load_record
from edgebuild.core.files import cache_home
from edgebuild.errors import UsageError
from edgebuild.reporting.formatting import bytes_text, percent

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord, CandidateRecord, EmulatedDevice
    from edgebuild.core.verdict import Verdict

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WORK = cache_home() / "targets-benchmark"
NETS = Path(__file__).resolve().parent / "nets"
DEPTHWISE = "dwnet"
NAMES = ("fashion-mnist", "magika-files", "silero-vad")
EMULATED = ("raspberry-pi-5", "raspberry-pi-4")
COMPILED = ("jetson-orin-nano-8gb",)


def edgebuild(*words: str) -> int:
    """Run the command line with an inventory of its own."""
    environment = {**os.environ, "EDGEBUILD_DEVICES": str(WORK / "devices.toml")}
    return subprocess.run([sys.executable, "-m", "edgebuild", *words], env=environment, check=False).returncode


def project(name: str) -> Path:
    """Return the copy of an example (or the depthwise net on Fashion-MNIST); its data are the example's."""
    folder = WORK / name
    source = EXAMPLES / ("fashion-mnist" if name == DEPTHWISE else name)
    left_out = shutil.ignore_patterns(HOME, "data", "__pycache__")
    shutil.copytree(source, folder, ignore=left_out, dirs_exist_ok=True)
    if name == DEPTHWISE:
        for file in ("dwnet.py", "dwnet.safetensors"):
            shutil.copyfile(NETS / file, folder / file)
        text = (source / "edgebuild.toml").read_text().replace('name = "fashion-mnist"', f'name = "{DEPTHWISE}"')
        text = text.replace('"model:resnet8"', '"dwnet:dwnet"').replace('"weights.safetensors"', '"dwnet.safetensors"')
        (folder / "edgebuild.toml").write_text(text)
    data = source / "data"
    if data.is_dir() and not (folder / "data").exists():
        (folder / "data").symlink_to(data)
    return folder


def record_of(name: str, target: str, *, build: bool) -> BuildRecord | None:
    """Return the newest build of an example for a target, built now where there is none and ``build`` says so."""
    folder = project(name)
    try:
        return load_record(find_build(folder / HOME, target=target))
    except UsageError:
        if not build:
            return None
    inventory = WORK / "devices.toml"
    if target in EMULATED and f"[devices.emulated-{target}]" not in (
        inventory.read_text() if inventory.is_file() else ""
    ):
        edgebuild("device", "add", f"emulated-{target}", "--target", target, "--emulator")
    how = [] if target in EMULATED else ["--no-measure"]
    edgebuild("build", "-p", str(folder), "-t", target, "--recipe", "none", *how)
    try:
        return load_record(find_build(folder / HOME, target=target))
    except UsageError:
        return None


def drop_text(verdict: Verdict | None) -> str:
    """A drop in points with its interval and its sample."""
    drop = verdict.drop if verdict else None
    if drop is None or verdict is None:
        return "–"
    text = f"{100 * drop.drop:.2f} [{100 * drop.low:.2f}, {100 * drop.high:.2f}]"
    return f"{text}, n = {drop.samples:,}: {verdict.outcome}"


def emulated_row(c: CandidateRecord) -> str:
    """One emulated candidate."""
    seen, memory = c.measured.emulation, c.measured.memory
    counts = dict(seen.instructions) if seen else {}
    named = ", ".join(f"{name.replace('_', ' ')} {counts[name] / 1e6:.3g}" for name in sorted(counts) if counts[name])
    told = f"{bytes_text(memory.peak_bytes)} ({bytes_text(memory.emulator_bytes)})" if memory else "–"
    parity = f"{seen.parity:.1e}" if seen and seen.parity is not None else "–"
    close = f"{c.closeness.sqnr_db:.1f}" if c.closeness and c.closeness.sqnr_db is not None else "–"
    total = f"{seen.total / 1e6:.4g}" if seen and seen.instructions else "–"
    return (
        f"| {c.id.partition('/')[2]} | {drop_text(c.validation)} | {drop_text(c.test)} | {parity} | {close} | "
        f"{bytes_text(c.size_bytes)} | {told} | {total} | {named or '–'} |"
    )


def emulated_section(record: BuildRecord, seen: EmulatedDevice) -> list[str]:
    """One emulated build."""
    drop = next((v.drop for c in record.candidates if (v := c.validation) and v.drop), None)
    reference = percent(drop.reference) if drop else "–"
    return [
        f"### {record.project} on {record.target}, emulated",
        "",
        f"{seen.text}. Budget {record.budget.text}; {drop.metric if drop else '–'} of the reference on the "
        f"validation sample {reference}. Outcome: {record.outcome}, since no emulator settles a {record.objective}.",
        "",
        "| candidate | drop on validation, points | drop on test, points | parity | SQNR, dB | file | peak memory "
        "(emulator's share) | million instructions | by class |",
        "|---|---|---|---|---|---|---|---|---|",
        *[emulated_row(c) for c in record.candidates],
        "",
    ]


def compiled_section(record: BuildRecord) -> list[str]:
    """One build that only compiled."""
    rows = [
        f"| {c.id} | {_gate(c)} | {bytes_text(c.size_bytes)} | {c.reason.replace('|', '/')} |"
        for c in record.candidates
    ]
    refused = [f"- not tried: {each.what}: {each.reason}" for each in record.refused_in_planning]
    head = [
        f"### {record.project} on {record.target}, compiled only",
        "",
        "| candidate | gate | file | what was measured |",
    ]
    return [*head, "|---|---|---|---|", *rows, "", *refused, ""]


def _gate(candidate: CandidateRecord) -> str:
    """What TensorRT-RTX said of a candidate; no other runtime is gated."""
    said = [n.text.removeprefix("gate: ") for n in candidate.notes if n.text.startswith("gate: ")]
    return "; ".join(said).replace("|", "/") or ("failed" if candidate.status == "failed" else "–")


def page(records: list[BuildRecord]) -> str:
    """The page's text."""
    lines = [
        "No board was seen. *Emulated*: QEMU's user mode as the board's CPU with ONNX Runtime's aarch64 wheel; drops",
        "are paired with the original on the same frames, with 95 % intervals; parity is the greatest difference of an",
        "fp32 output to the reference's, relative to the greatest output; memory is VmHWM of the process, mostly",
        "the emulator's and the runtime's; instructions are those of one inference with one thread, in millions,",
        "and no time. *Compiled only*: accepted or refused by the parser, neither run nor timed.",
        "",
    ]
    for record in records:
        lines += emulated_section(record, record.emulated) if record.emulated else compiled_section(record)
    return "\n".join(lines)


def main() -> None:
    """Build what is missing of what is asked for, one at a time, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--example", action="append", choices=NAMES)
    parser.add_argument("--target", action="append", choices=(*EMULATED, *COMPILED))
    asked = parser.parse_args()
    for name in asked.example or NAMES:
        for target in asked.target or (*EMULATED, *COMPILED):
            if target in COMPILED and gate.installed() is None:
                print(f"{target} is left out: {gate.DISTRIBUTION} isn't installed, so nothing would be gated.")
                continue
            record_of(name, target, build=True)
            found = [record_of(n, t, build=False) for n in NAMES for t in (*EMULATED, *COMPILED)]
            records = [record for record in found if record is not None]
            numbers = {
                f"{r.project} on {r.target}": r.model_dump(mode="json", exclude={"facts", "steps"}) for r in records
            }
            title = "The examples on targets that are not here"
            print(write_results("targets", title, "python benchmarks/targets.py", page(records), numbers))


if __name__ == "__main__":
    main()
