"""A recipe with early exits, from the torch model to a chain that is judged and timed, on both runtimes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.example import DATA, QUICK_PROFILE, QUICK_TARGET, Ended, record, refused, run, toml, write_quick
from tests.golden import assert_golden

if TYPE_CHECKING:
    from pathlib import Path

#: Slow: the parts of it have tests of their own.
pytestmark = pytest.mark.proof
MODEL = """\
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
    )
"""
RECIPE = """\
[[recipes]]
name = "early"
steps = [{ technique = "exit-early", after = ["1"], epochs = 20, distil_weight = 0.0 }]
"""
OPENVINO = """\
title = "OpenVINO, one candidate"
backend = "openvino"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32"]

[[settings]]
threads = 1
hint = "latency"
"""
CLASSES = 4
SHAPES = {
    "0.weight": (4, 1, 3, 3),
    "0.bias": (4,),
    "2.weight": (32, 4, 3, 3),
    "2.bias": (32,),
    "4.weight": (4, 32, 1, 1),
    "4.bias": (4,),
    "8.weight": (4, 4),
    "8.bias": (4,),
}


def weights() -> dict[str, np.ndarray]:
    """Four corners' kernels, handed on unchanged by the deep layers: the brightest sort of corner is the class."""
    made = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for channel, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        made["0.weight"][channel, 0, y, x] = 1.0
        made["2.weight"][channel, channel, 1, 1] = 1.0
        made["4.weight"][channel, channel, 0, 0] = 1.0
        made["8.weight"][channel, channel] = 8.0
    return {name: value.astype(np.float32) for name, value in made.items()}


def images(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Most are easy: one corner is far brighter than the others. In some it is hardly so."""
    labels = generator.integers(CLASSES, size=count)
    image = generator.random((count, 1, 8, 8)) * 0.1
    bright = np.where(generator.random(count) < 0.8, 3.0, 0.4)
    for index, label in enumerate(labels):
        y, x = divmod(int(label), 2)
        image[index, 0, 7 * y, 7 * x] += bright[index]
    return image.astype(np.float32), labels


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = tmp_path_factory.mktemp("exits") / "project"
    folder.mkdir()
    save_file(weights(), folder / "weights.safetensors")
    tables = {
        "model": 'factory = "net:make"\nweights = "weights.safetensors"\noutputs = ["logits"]',
        "data": 'train = "data:train"\ncalibration = "data:calibration"\nvalidation = "data:validation"\n'
        'test = "data:test"',
        "build": 'targets = ["quick"]\nthreads = 1',
        "budget": "points = 5.0",
    }
    (folder / "edgebuild.toml").write_text(toml(tables) + RECIPE)
    (folder / "net.py").write_text(MODEL)
    (folder / "data.py").write_text(DATA + '\ndef train():\n    return read("train")\n')
    generator = np.random.default_rng(1)
    for split, count in (("train", 600), ("calibration", 64), ("validation", 1200), ("test", 1201)):
        image, labels = images(generator, count)
        with (folder / f"{split}_arrays").open("wb") as file:
            np.savez(file, image=image, label=labels)
    write_quick(folder, target=QUICK_TARGET.replace('["quick"]', '["quick", "vino"]'), profile=QUICK_PROFILE)
    (folder / "profiles" / "vino.toml").write_text(OPENVINO)
    return folder, run("build", cwd=folder)


def candidates(project: Path) -> dict[str, Any]:
    return {candidate["id"]: candidate for candidate in record(project)["candidates"]}


def test_a_chain_is_built_evaluated_and_timed_on_both_runtimes(built: tuple[Path, Ended]) -> None:
    project, ended = built
    assert ended.code == 0, ended
    found = candidates(project)
    assert set(found) == {"quick/fp32", "quick/early/fp32", "vino/fp32", "vino/early/fp32"}
    for name in ("quick/early/fp32", "vino/early/fp32"):
        chain = found[name]
        assert chain["status"] != "failed", chain
        assert chain["validation"]["outcome"] == "accepted"
        latency = chain["measured"]["latency"] or chain["screened"]["latency"]
        shares = dict(latency["exits"])
        assert set(shares) == {"exit1", "end"}
        # Whole rounds of 1,000 of the 1,200 samples: the mix that is timed is that of the data.
        (told,) = [n["text"] for n in chain["notes"] if "where samples of validation end: " in n["text"]]
        share = float(told.split(": ")[1].split("%")[0]) / 100
        assert 0.1 < share < 0.9
        assert shares["exit1"] == pytest.approx(share, abs=0.03)
        assert any("MACs of" in n["text"] and "in the mean" in n["text"] for n in chain["notes"])
        assert not found[name.replace("early/", "")]["screened"]["latency"]["exits"]


def test_golden_record_of_early_exits(built: tuple[Path, Ended]) -> None:
    assert_golden(record(built[0]), "early-exits", without=("outcome", "chosen", "kept", "status"))


def test_the_mix_and_the_mean_are_told(built: tuple[Path, Ended]) -> None:
    ended = run("explain", "quick/early/fp32", cwd=built[0])
    assert ended.code == 0, ended
    said = " ".join(ended.out.split())
    assert "mean " in said
    assert "inferences end: " in said
    assert "at exit1" in said
    (page,) = built[0].glob(".edgebuild/builds/*/report.html")
    assert "at exit1" in page.read_text()


def test_a_chain_lies_in_the_store_as_artifacts_in_an_artifact(built: tuple[Path, Ended]) -> None:
    root = built[0] / ".edgebuild" / "store"
    manifests = [json.loads(path.read_bytes())["manifest"]["files"] for path in (root / "entries").iterdir()]
    chains = [{file["path"] for file in files} for files in manifests]
    chains = [files for files in chains if "stage-0/artifact.json" in files]
    (onnx,) = [files for files in chains if "stage-0/model.onnx" in files]
    assert sorted(onnx) == [
        "artifact.json",
        "notes.json",
        "stage-0/artifact.json",
        "stage-0/model.onnx",
        "stage-1/artifact.json",
        "stage-1/model.onnx",
    ]
    assert len(chains) == 2


def test_bench_refuses_a_chain(built: tuple[Path, Ended]) -> None:
    (folder, *_) = sorted(path.parent.parent for path in built[0].glob(".edgebuild/device/**/stage-1/artifact.json"))
    refused(
        built[0],
        "bench",
        str(folder),
        code=2,
        message=f"{folder} may end early: what it takes depends on its inputs, and a bench feeds random ones.",
        hint="A build measures it on validation data, in their natural mix.",
    )
