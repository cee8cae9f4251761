"""Outputs larger than memory: what is judged of them is read some samples at a time, and doesn't stay."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core import chunks
from edgebuild.core.chunks import let_go
from edgebuild.judging.metrics import named_metric
from edgebuild.judging.own_metrics import decoded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

#: Writes the outputs of two models, judges one by the other, and says by how many bytes that raised the peak.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from edgebuild.core import chunks
chunks.CHUNK_ELEMENTS = 1 << 16
from edgebuild.core.budget import Budget
from edgebuild.core.steps import NoProgress
from edgebuild.judging.closeness import closeness
from edgebuild.judging.judge import Evaluated, judge
from edgebuild.judging.metrics import named_metric
from edgebuild.judging.own_metrics import decoded
from edgebuild.measuring.outputs import require_outputs
from edgebuild.models.outputs import check_finite, read_outputs, worst_mismatch, write_outputs

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

what, folder, frames, width = sys.argv[1], Path(sys.argv[2]), 512, 1 << 14
draw = np.random.default_rng(0)
labels = draw.integers(0, width, frames)
metric, targets = {
    "accuracy": (lambda: named_metric("accuracy"), labels),
    "top5": (lambda: named_metric("top5_accuracy"), labels),
    "f1": (lambda: named_metric("f1_macro"), labels),
    "mse": (lambda: named_metric("mse"), np.broadcast_to(labels[:, None].astype(np.float32) / width, (frames, width))),
    "decoded": (
        lambda: decoded(named_metric("cer"), lambda y: [str(best) for best in y["y"].argmax(axis=1)]),
        np.array([str(label) for label in labels]),
    ),
}[what]
slices = [str(label % 2) for label in labels] if what == "decoded" else None
metric()
before = peak()
for seed, name in enumerate(("reference", "artifact")):
    (folder / name).mkdir()
    draw = np.random.default_rng(seed)
    rows = ({"y": draw.random((1, width), dtype=np.float32)} for _ in range(frames))
    write_outputs(rows, folder / name, count=frames, names=("y",), task=NoProgress())
reference, artifact = read_outputs(folder / "reference"), read_outputs(folder / "artifact")
check_finite(reference, "it")
worst_mismatch(reference, artifact)
(file,) = (folder / "artifact").glob("*.npy")
told = {"file": file.name, "dtype": "float32", "shape": [frames, width], "non_finite": 0}
require_outputs(folder / "artifact", {"outputs": [told]}, "it")
closeness(reference, artifact)
judge(
    Evaluated(reference=reference, artifact=artifact, targets=targets, slices=slices),
    metric(), Budget(points=1.0) if what != "mse" else Budget(relative=0.1), split="test",
)
print(json.dumps([peak() - before, 2 * frames * width * 4]))
"""


@pytest.mark.parametrize("metric", ["accuracy", "top5", "f1", "mse", "decoded"])
def test_whole_outputs_are_never_in_memory(metric: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, metric, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    grew, both = json.loads(ended.stdout.splitlines()[-1])
    assert grew < both / 2


def test_what_was_written_to_a_map_stays_when_its_pages_go(tmp_path: Path) -> None:
    written = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.float32, shape=(4096,))
    written[:] = 1
    let_go(written[10:], np.asarray(written), np.zeros(3))
    assert written.sum() == 4096
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[:] = 2
    let_go(private)
    assert private.sum() == 2 * 4096


def _texts(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
    return ["x" * int(row.argmax()) for row in outputs["y"]]


def _ragged(outputs: Mapping[str, NDArray[Any]]) -> list[list[int]]:
    return [list(range(1, 2 + int(row.argmax()))) for row in outputs["y"]]


def _alike(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    return 1 + outputs["y"][:, :3].argsort(axis=1)


@pytest.mark.parametrize("read", [_texts, _ragged, _alike])
def test_predictions_are_the_same_however_many_samples_are_read_at_once(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    outputs = {"y": draw.random((50, 7)), "z": draw.random((50, 2))}
    whole = read(outputs)
    targets = np.fromiter(whole[::-1], dtype=object, count=50)
    calls: list[int] = []

    def counted(some: Mapping[str, NDArray[Any]]) -> Any:
        calls.append(len(some["z"]))
        return read(some)

    metric = decoded(named_metric("cer"), counted)
    at_once = metric.value(outputs, targets)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 7 * 8)
    assert metric.value(outputs, targets) == at_once > 0
    assert calls == [50, 8, 8, 8, 8, 8, 8, 2]
