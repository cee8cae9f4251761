"""A plain timing loop around onnxruntime: what the runner is held against.

`bare_loop.py launch|peak ARTIFACT INPUTS WARM_S SAMPLE_S` prints a launch, or the process's peak memory, as JSON.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
from pathlib import Path


def main() -> None:
    mode, folder, inputs = sys.argv[1:4]
    warm_s, sample_s = float(sys.argv[4]), float(sys.argv[5])
    start = time.perf_counter()
    import numpy as np
    import onnxruntime

    imported = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    loaded = time.perf_counter()
    frames = np.load(Path(inputs) / "x.npy")
    feeds = [frames[i : i + 1].copy() for i in range(16)]
    names = [output.name for output in session.get_outputs()]
    session.run(names, {"x": feeds[0]})
    first = time.perf_counter()
    end = time.perf_counter() + warm_s
    warmups = 0
    while time.perf_counter() < end or warmups < 10:
        session.run(names, {"x": feeds[warmups % 16]})
        warmups += 1
    gc.disable()
    samples: list[int] = []
    end_ns = time.perf_counter_ns() + int(sample_s * 1e9)
    stop = 0
    while stop < end_ns:
        feed = feeds[len(samples) % 16]
        begin = time.perf_counter_ns()
        session.run(names, {"x": feed})
        stop = time.perf_counter_ns()
        samples.append(stop - begin)
    data = np.array(samples, dtype="<i8")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    print(
        json.dumps(
            {
                "samples": "none",
                "samples_sha256": hashlib.sha256(data.tobytes()).hexdigest(),
                "count": len(data),
                "median_ns": int(np.median(data)),
                "import_s": imported - start,
                "load_s": loaded - imported,
                "first_inference_s": first - loaded,
                "warmup_inferences": warmups,
                "settled": True,
            }
            if mode == "launch"
            else {"peak": int(status["VmHWM"].split()[0]) * 1024}
        )
    )


if __name__ == "__main__":
    main()
