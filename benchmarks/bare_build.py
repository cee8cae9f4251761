"""What a precision-only build of fashion-mnist asks of the libraries, as a plain script: no steps, no cache, no runner.

`bare_build.py BUILD_JSON SCRATCH` prints the seconds of each kind of call as JSON. Every candidate of the build is
made and run over the same samples that the build ran it over, one at a time as it ships. Our quantiser is called as it
is: it stands on both sides.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.core.record import CandidateRecord

PROJECT = Path(__file__).resolve().parent.parent / "examples" / "fashion-mnist"
CALIBRATION = 300
SECONDS: dict[str, float] = defaultdict(float)


@contextlib.contextmanager
def timed(kind: str) -> Iterator[None]:
    """Add what the block takes to its kind."""
    start = time.perf_counter()
    yield
    SECONDS[kind] += time.perf_counter() - start


def read(split: str) -> np.ndarray[Any, Any]:
    """The images of a split, in the order and form of the project."""
    import data  # type: ignore[import-not-found] # the example's, whose folder is on the path

    with timed("read the data"):
        return np.stack([sample.inputs["image"] for sample in getattr(data, split)()])


def export(splits: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    """Run the torch model over the judged splits and export it."""
    with timed("import the libraries"):
        import torch
    from model import resnet8  # type: ignore[import-not-found]
    from safetensors.torch import load_file

    module = resnet8()
    module.load_state_dict(load_file(PROJECT / "weights.safetensors"))
    module.eval()
    with timed("run the torch model"), torch.inference_mode():
        for images in splits.values():
            for start in range(0, len(images), 64):
                module(torch.from_numpy(images[start : start + 64]))
    with timed("export to ONNX"), contextlib.redirect_stdout(sys.stderr):
        example = (torch.zeros(1, 1, 28, 28),)
        program = torch.onnx.export(module, example, dynamo=True, input_names=["image"], output_names=["logits"])
        assert program is not None
        program.save(path)


def simplify(source: Path, target: Path) -> None:
    """onnxruntime's basic optimisations, as any quantiser asks for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    with timed("optimise the ONNX file"):
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def quantise(candidate: CandidateRecord, source: Path, images: np.ndarray[Any, Any], scratch: Path) -> Path:
    """Return the candidate's ONNX file; the quantiser is called the way its own documentation does."""
    import onnx

    target = scratch / f"{candidate.id.replace('/', '-')}.onnx"
    who = candidate.spec.precision.quantiser
    if candidate.spec.precision.kind == "int8" and who == "nncf":
        from edgebuild.quantisers.nncf import _import_nncf

        with timed("import the libraries"):
            nncf = _import_nncf()
        with timed("quantise with NNCF"):
            frames = nncf.Dataset([{"image": image[None]} for image in images])
            onnx.save(nncf.quantize(onnx.load(source), frames, subset_size=len(images)), target)
        return target
    if candidate.spec.precision.kind == "int8" and who == "onnxruntime":
        from onnxruntime import quantization

        frames = iter([{"image": image[None]} for image in images])

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> Any:
                return next(frames, None)

        with timed("quantise with onnxruntime"):
            quantization.quantize_static(str(source), str(target), Reader(), per_channel=True)
        return target
    if candidate.spec.precision.kind == "int8":
        return _ours(candidate, source, images, scratch)
    return source


def _ours(candidate: CandidateRecord, source: Path, images: np.ndarray[Any, Any], scratch: Path) -> Path:
    from edgebuild.core.data import Sample
    from edgebuild.core.steps import NoProgress, StepContext, never_stop
    from edgebuild.models.dataset import write_dataset
    from edgebuild.quantisers.registry import quantiser

    contract = candidate.contract
    if contract is None:
        raise SystemExit(f"{candidate.id} has no artifact in this build")
    folders = [scratch / f"{candidate.id.replace('/', '-')}-{part}" for part in ("model", "data", "out", "scratch")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "model.onnx").write_bytes(source.read_bytes())
    samples = (Sample(inputs={"image": image}) for image in images)
    calibration = {"specs": contract.inputs, "stateful": False, "source": "calibration"}
    write_dataset(samples, folders[1], task=NoProgress(), check=never_stop, **calibration)  # type: ignore[arg-type]
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=folders[3])
    step = quantiser("edgebuild")(candidate.spec.precision, contract, (), CALIBRATION)
    with timed("quantise with edgebuild"):
        step.run({"model": folders[0], "calibration": folders[1]}, folders[2], context)
    return folders[2] / "model.onnx"


def compile_for(candidate: CandidateRecord, source: Path, scratch: Path) -> Callable[[Any], Any]:
    """Compile for the candidate's runtime and return what runs one sample."""
    settings = dict(candidate.settings)
    if candidate.spec.backend == "openvino":
        with timed("import the libraries"):
            import openvino
        with timed("compile"):
            core = openvino.Core()
            target = scratch / "model.xml"
            openvino.save_model(
                core.read_model(source), target, compress_to_fp16=candidate.spec.precision.kind == "fp16"
            )
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": int(settings.get("threads", 1))}
            request = core.compile_model(target, "CPU", hints).create_infer_request()
        return lambda image: request.infer({"image": image})
    import onnxruntime

    with timed("compile"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(settings.get("threads", 1))
        options.optimized_model_filepath = str(scratch / "optimised.onnx")
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def main() -> None:
    """Do it all and print the seconds."""
    from edgebuild.building.record import load_record

    sys.path.insert(0, str(PROJECT))
    record = load_record(Path(sys.argv[1]).parent)
    scratch = Path(sys.argv[2])
    with timed("import the libraries"):
        import onnxruntime  # noqa: F401 - timed
    splits = {split: read(split) for split in ("validation", "test")}
    calibration = read("calibration")
    chosen = calibration[np.linspace(0, len(calibration) - 1, CALIBRATION).astype(int)]
    export(splits, scratch / "exported.onnx")
    simplify(scratch / "exported.onnx", scratch / "model.onnx")
    for candidate in record.candidates:
        model = quantise(candidate, scratch / "model.onnx", chosen, scratch)
        run = compile_for(candidate, model, scratch)
        for split, images in splits.items():
            if getattr(candidate, split) is not None:
                with timed("run the artifacts over the data"):
                    for image in images:
                        run(image[None])
    print(json.dumps(SECONDS))


if __name__ == "__main__":
    main()
