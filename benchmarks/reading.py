"""What it costs to know whether data changed: CPU time to check and digest samples that are in memory already.

``python benchmarks/reading.py``; what the user's own callable takes to open and decode them comes on top.
"""

from __future__ import annotations

import time

import numpy as np

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.models.dataset import digest_samples

#: Fashion-MNIST's test set, and images of a usual size.
SETS = ((10_000, (1, 28, 28)), (2_000, (3, 224, 224)))


def cpu_s(count: int, shape: tuple[int, ...]) -> tuple[float, int]:
    """Return the CPU seconds and the bytes of ``count`` samples."""
    rows = np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)
    spec = TensorSpec(name="x", shape=("batch", *shape), dtype="float32")
    samples = [Sample(inputs={"x": row}, target=1) for row in rows]
    began = time.process_time()
    digest_samples(samples, specs=(spec,), stateful=False, source="x", task=NoProgress(), check=never_stop)
    return time.process_time() - began, rows.nbytes


def main() -> None:
    """Print one line per data set."""
    for count, shape in SETS:
        seconds, size = cpu_s(count, shape)
        print(f"{count:,} x {shape}: {seconds:.2f} s, {size / 1e9:.2f} GB, {seconds / (size / 1e9):.1f} s/GB")


if __name__ == "__main__":
    main()
