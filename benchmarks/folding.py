"""What folding is worth: a ResNet whose normalisations are written out as Sub, Mul and Add, folded and as it is.

    python benchmarks/folding.py [--width 32] [--sets 8] [--quantiser nncf] [--work FOLDER]

53 convolutions at 224 x 224 with random weights, on ONNX Runtime and OpenVINO, in fp32 and int8, one thread. The two
forms run in processes of their own that take bursts in turn, in balanced order, so that what else runs on the machine
meets both alike; a call's time is its CPU time, which leaves out what other processes took of the core. Each set has
fresh processes; the interval is Student's over the sets' mean log-ratios.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from evidence import write_results
from onnx import helper, numpy_helper

from edgebuild.core.artifact import Contract, Int8Scheme, Precision, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.models.dataset import write_dataset
from edgebuild.models.folding.fold import fold
from edgebuild.models.freezing import freeze
from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_graphs import save
from edgebuild.quantisers.registry import quantiser

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 224
#: Blocks of each stage, as in ResNet-50.
STAGES = (3, 4, 6, 3)
FRAMES = 32
BURST_S, WARM_UP_S, BURSTS = 0.25, 0.5, 8
#: Student's 97.5 % quantiles, by degrees of freedom.
STUDENT = {3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 9: 2.262, 11: 2.201, 15: 2.131}


class Writer:
    """Writes the net; weights are He-normal, normalisations near the identity."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, values: Any) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, np.float32), f"w{len(self.weights)}")
        self.weights.append(tensor)
        return str(tensor.name)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def normalised(self, data: str, channels: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """A convolution, and (x - mean) * scale + shift in three operators."""
        weight = self.random.standard_normal((outputs, channels, kernel, kernel)) / math.sqrt(channels * kernel**2 / 2)
        pad = kernel // 2
        data = self.add("Conv", data, self.constant(weight), strides=[stride] * 2, pads=[pad] * 4)
        for op, low, high in (("Sub", -0.2, 0.2), ("Mul", 0.5, 0.9), ("Add", -0.2, 0.2)):
            data = self.add(op, data, self.constant(self.random.uniform(low, high, (outputs, 1, 1))))
        return data

    def bottleneck(self, data: str, channels: int, width: int, stride: int) -> str:
        """1 x 1, 3 x 3, 1 x 1 and the way around them."""
        inner = self.add("Relu", self.normalised(data, channels, width, 1))
        inner = self.add("Relu", self.normalised(inner, width, width, 3, stride))
        inner = self.normalised(inner, width, 4 * width, 1)
        around = data if channels == 4 * width else self.normalised(data, channels, 4 * width, 1, stride)
        return self.add("Relu", self.add("Add", inner, around))


def resnet(width: int) -> Any:
    """ResNet-50 with ``width`` channels in its first stage (64 in the original) and 1,000 classes."""
    w = Writer()
    data = w.add("Relu", w.normalised("image", 3, width, 7, 2))
    data, channels = w.add("MaxPool", data, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), width
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            inner = width << stage
            data = w.bottleneck(data, channels, inner, 2 if stage and not block else 1)
            channels = 4 * inner
    data = w.add("Flatten", w.add("GlobalAveragePool", data))
    head = w.random.standard_normal((1000, channels)) / math.sqrt(channels)
    w.add("Gemm", data, w.constant(head), w.constant(np.zeros(1000)), transB=1)
    w.nodes[-1].output[0] = "logits"
    shapes = {"image": [1, 3, SIDE, SIDE], "logits": [1, 1000]}
    image, logits = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items())
    graph = helper.make_graph(w.nodes, "resnet", [image], [logits], w.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def images(count: int) -> Any:
    """Smooth random pictures, (count, 3, side, side)."""
    random = np.random.default_rng(1)
    coarse = random.standard_normal((count, 3, SIDE // 16, SIDE // 16)).astype(np.float32)
    return coarse.repeat(16, axis=2).repeat(16, axis=3)


def quantised(model: Any, name: str, folder: Path) -> Any:
    """The model in int8 by one of edgebuild's quantisers, as a build calls it, or what ``folder`` holds of it."""
    made = folder / "out" / "model.onnx"
    if made.is_file():
        return onnx.load(str(made))
    spec = TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), dtype="float32")
    contract = Contract(inputs=(spec,), outputs=(TensorSpec(name="logits", shape=(1, 1000), dtype="float32"),))
    for part in ("model", "calibration", "scratch", "out"):
        (folder / part).mkdir(parents=True)
    save(model, folder / "model" / "model.onnx")
    samples = (Sample(inputs={"image": image}) for image in images(FRAMES))
    each = spec.model_copy(update={"shape": ("batch", 3, SIDE, SIDE)})
    write_dataset(
        samples,
        folder / "calibration",
        specs=(each,),
        stateful=False,
        source="images",
        task=NoProgress(),
        check=never_stop,
    )
    precision = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser=name)
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=folder / "scratch")
    inputs = {"model": folder / "model", "calibration": folder / "calibration"}
    quantiser(name)(precision, contract, (), FRAMES).run(inputs, folder / "out", context)
    return onnx.load(str(made))


def session(runtime: str, path: str) -> Callable[[Any], Any]:
    """Return what runs a model once, on one thread."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        made = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: made.run(None, {"image": image})
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda image: request.infer({"image": image}, share_inputs=True)


def worker(runtime: str, path: str) -> None:
    """Answer each line, a number of seconds, with the median CPU time of a call within them."""
    call, frames = session(runtime, path), images(8)
    gc.disable()

    def burst(seconds: float) -> float:
        took: list[float] = []
        end = time.perf_counter() + seconds
        while not took or time.perf_counter() < end:
            begin = time.process_time()
            call(frames[len(took) % 8][np.newaxis])
            took.append(time.process_time() - begin)
        return statistics.median(took)

    burst(WARM_UP_S)
    print("ready", flush=True)
    for line in sys.stdin:
        print(burst(float(line)), flush=True)


def one_set(runtime: str, paths: tuple[Path, Path]) -> tuple[float, float, float]:
    """Return the mean log-ratio of the second model's bursts over the first's, and both medians in seconds."""
    argv = [sys.executable, __file__, "--worker", runtime]
    made = [
        subprocess.Popen([*argv, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for path in paths
    ]
    try:
        for process in made:
            assert process.stdout is not None
            process.stdout.readline()
        took: tuple[list[float], list[float]] = ([], [])
        for turn in range(BURSTS):
            for index in (0, 1) if turn % 2 == 0 else (1, 0):
                process = made[index]
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{BURST_S}\n")
                process.stdin.flush()
                took[index].append(float(process.stdout.readline()))
    finally:
        for process in made:
            process.kill()
            process.wait()
    ratios = [math.log(b / a) for a, b in zip(*took, strict=True)]
    return statistics.mean(ratios), statistics.median(took[0]), statistics.median(took[1])


def compare(runtime: str, paths: tuple[Path, Path], sets: int) -> dict[str, float]:
    """Return the latency ratio folded / as it is with its 95 % interval, and both medians in milliseconds."""
    found = [one_set(runtime, paths) for _ in range(sets)]
    means = [mean for mean, _, _ in found]
    middle = statistics.mean(means)
    reach = STUDENT[sets - 1] * statistics.stdev(means) / math.sqrt(sets)
    plain, folded = (1000 * statistics.median(each[i] for each in found) for i in (1, 2))
    return {
        "ratio": math.exp(middle),
        "low": math.exp(middle - reach),
        "high": math.exp(middle + reach),
        "plain_ms": plain,
        "folded_ms": folded,
    }


def difference(plain: Any, folded: Any) -> float:
    """The greatest difference of the folded model's outputs, as a share of the largest output."""
    one, other = HostSession(plain), HostSession(folded)
    gaps = []
    for image in images(8):
        expected, found = (each({"image": image[np.newaxis]})["logits"] for each in (one, other))
        gaps.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
    return max(gaps)


def measure(width: int, sets: int, name: str, work: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each runtime and precision, and what folding did to the graph."""
    plain = freeze(resnet(width), shapes={"image": (1, 3, SIDE, SIDE)}, constants=())
    begin = time.process_time()
    result = fold(plain)
    took = time.process_time() - begin
    models = {"fp32": (plain, result.model)}
    made = tuple(quantised(m, name, work / f"int8-{i}") for i, m in enumerate(models["fp32"]))
    models["int8"] = (made[0], made[1])
    rows: list[dict[str, Any]] = []
    loads = [os.getloadavg()[0]]
    for precision, pair in models.items():
        paths = (work / f"{precision}-plain.onnx", work / f"{precision}-folded.onnx")
        for model, path in zip(pair, paths, strict=True):
            save(model, path)
        for runtime in ("onnxruntime", "openvino"):
            rows.append({"runtime": runtime, "precision": precision, **compare(runtime, paths, sets)})
            loads.append(os.getloadavg()[0])
            print(rows[-1], flush=True)
    about = {
        "convolutions": sum(node.op_type == "Conv" for node in plain.graph.node),
        "nodes": [len(plain.graph.node), len(result.model.graph.node)],
        "file_mb": plain.ByteSize() / 1e6,
        "operators": result.operators,
        "fold_cpu_s": took,
        "difference": difference(plain, result.model),
        "loads": loads,
    }
    return rows, about


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=2, metavar=("RUNTIME", "PATH"), help="what each measured process runs")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--sets", type=int, default=8, choices=[n + 1 for n in STUDENT])
    parser.add_argument("--quantiser", default="nncf")
    parser.add_argument("--work", type=Path, help="keeps the int8 models for another run. Default: nothing is kept")
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows, about = measure(options.width, options.sets, options.quantiser, options.work or Path(scratch))
    lines = [
        f"| {row['runtime']} | {row['precision']} | {row['plain_ms']:.1f} | {row['folded_ms']:.1f} "
        f"| {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] |"
        for row in rows
    ]
    text = f"""\
A ResNet of {about["convolutions"]} convolutions at 224 x 224 ({about["file_mb"]:.0f} MB, random weights) whose
normalisations are written out as Sub, Mul and Add: {about["nodes"][0]} nodes as it is, {about["nodes"][1]} folded, in
{about["fold_cpu_s"]:.2f} s of CPU. Outputs differ by at most {about["difference"]:.1e} of the largest. Int8 by the
quantiser `{options.quantiser}` on {FRAMES} images. n = {options.sets} sets of two live processes, {BURSTS} bursts of
{BURST_S} s each, one thread, CPU time of a call; 95 % intervals over the sets.
The load of the machine, with this, was {", ".join(f"{load:.0f}" for load in about["loads"])} from one comparison to the
next, on {os.cpu_count()} cores.

| runtime | precision | as it is, ms | folded, ms | ratio |
| --- | --- | --- | --- | --- |
{chr(10).join(lines)}

Medians in milliseconds tell the order of size; the ratio is what was measured.
"""
    command = f"python benchmarks/folding.py --width {options.width} --sets {options.sets}"
    numbers = {"rows": rows, "about": about, "sets": options.sets, "quantiser": options.quantiser}
    page = f"folding-{options.quantiser}"
    print(
        write_results(
            page, f"Folding, int8 by {options.quantiser}", f"{command} --quantiser {options.quantiser}", text, numbers
        )
    )


if __name__ == "__main__":
    main()
