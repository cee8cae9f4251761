"""What quantising large nets costs: our quantiser, NNCF's and onnxruntime's on the same 300 images, each in a process.

    python benchmarks/quantising.py [--nets resnet50 ...] [--work FOLDER]

The nets have random weights and the images are random with the spectrum of photographs, so accuracy means nothing here
and only signal-to-noise is shown, of the written file in onnxruntime on images that no quantiser saw. CPU seconds are
compared, since other work on the machine stretches the wall time. Writes docs/results/quantising.md.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from evidence import write_results
from nets.random_nets import NETS

from edgebuild.core.artifact import Contract, Int8Scheme, Precision, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.models.dataset import write_dataset
from edgebuild.models.host_session import HostSession
from edgebuild.quantisers.registry import quantiser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

QUANTISERS = ("edgebuild", "nncf", "onnxruntime")
SIDE, SAMPLES, FRESH = 224, 300, 32
IMAGE = TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), dtype="float32")
CONTRACT = Contract(inputs=(IMAGE,), outputs=(TensorSpec(name="logits", shape=(1, 1000), dtype="float32"),))


def images(count: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Random images whose power falls with frequency, of differing contrast and colour."""
    rng = np.random.default_rng(seed)
    frequencies = np.fft.fftfreq(SIDE)
    radius = np.hypot(frequencies[:, None], frequencies[None, :])
    radius[0, 0] = 1.0
    for _ in range(count):
        spectrum = np.fft.fft2(rng.standard_normal((3, SIDE, SIDE))) / radius ** rng.uniform(0.6, 1.4)
        image = np.fft.ifft2(spectrum).real
        image = (image - image.mean()) / image.std() * rng.uniform(0.5, 1.5) + rng.normal(size=(3, 1, 1)) / 2
        yield image.astype(np.float32)


def prepare(net: str, folder: Path) -> None:
    """Write the model and what it is calibrated on."""
    (folder / "model").mkdir(parents=True)
    (folder / "calibration").mkdir()
    onnx.save(NETS[net](0), str(folder / "model" / "model.onnx"))
    samples = (Sample(inputs={"image": image}) for image in images(SAMPLES, 1))
    options: dict[str, Any] = {"task": NoProgress(), "check": never_stop}
    where = folder / "calibration"
    write_dataset(samples, where, specs=CONTRACT.inputs, stateful=False, source="calibration", **options)


def quantise(who: str, folder: Path, out: Path) -> dict[str, float]:
    """Quantise in this process; return what it took."""
    precision = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser=who)
    step = quantiser(who)(precision, CONTRACT, (), SAMPLES)
    inputs = {"model": folder / "model", "calibration": folder / "calibration"}
    started = time.monotonic()
    step.run(inputs, out, StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=out))
    own, children = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return {"wall_s": time.monotonic() - started, "cpu_s": cpu, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most that this process held; ``ru_maxrss`` counts what its parent held when it was started, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def row(net: str, who: str, folder: Path) -> dict[str, Any]:
    """One quantiser on one net, in a process of its own."""
    out = folder / who
    out.mkdir()
    command = [sys.executable, __file__, "--one", who, str(folder), str(out)]
    took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    model, quantised = HostSession(folder / "model" / "model.onnx"), HostSession(out / "model.onnx")
    signal = noise = 0.0
    agreed = 0
    for image in images(FRESH, 2):
        right, got = (each({"image": image[np.newaxis]})["logits"].astype(np.float64) for each in (model, quantised))
        signal, noise = signal + float(np.sum(right**2)), noise + float(np.sum((got - right) ** 2))
        agreed += int(right.argmax() == got.argmax())
    size = (folder / "model" / "model.onnx").stat().st_size
    close = {"sqnr_db": 10 * math.log10(signal / noise), "agreement": agreed / FRESH}
    return {"net": net, "quantiser": who, "model_bytes": size, **took, **close}


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{SAMPLES} samples for each; of a large model ours takes fewer, 48 of resnet50, many times. The peak is",
        "the process's own, Python and libraries included; what is aimed at is 3x the model's file + 1 GB, and twice",
        f"NNCF's CPU time. SQNR on {FRESH} fresh images.",
        "",
        "| net | quantiser | CPU, s | against NNCF's | wall, s | peak, MB | 3x file + 1 GB, MB | SQNR, dB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        yardstick = next(r for r in rows if r["net"] == each["net"] and r["quantiser"] == "nncf")
        lines.append(
            f"| {each['net']} | {each['quantiser']} | {each['cpu_s']:.0f} | {each['cpu_s'] / yardstick['cpu_s']:.2f}x |"
            f" {each['wall_s']:.0f} | {each['peak_bytes'] / 1e6:.0f} | {3 * each['model_bytes'] / 1e6 + 1000:.0f} |"
            f" {each['sqnr_db']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=["resnet50", "mobilenet"])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, folder, out = options.one
        print(json.dumps(quantise(who, Path(folder), Path(out))))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        for net in options.nets:
            prepare(net, Path(work) / net)
            rows += [row(net, who, Path(work) / net) for who in QUANTISERS]
            print(rows[-len(QUANTISERS) :], file=sys.stderr, flush=True)
    command = f"python benchmarks/quantising.py --nets {' '.join(options.nets)}"
    print(write_results("quantising", "What quantising large nets costs", command, report(rows), {"rows": rows}))


if __name__ == "__main__":
    main()
