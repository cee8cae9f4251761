"""Early exit: a chain with an exit behind the first convolution against the same net run whole.

Both arms start from the same trained net and are trained equally long at the same learning rate. Thresholds are chosen
on validation by the product's own step, the chain runs in the product's runner, exits are counted there.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.backends.protocol import CompileRequest
from edgebuild.backends.table import backends
from edgebuild.building.exits import CutExits, LinkChain, read_chain
from edgebuild.catalogue.project_tables import MetricTable
from edgebuild.core.artifact import Contract, Precision, TensorSpec
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.budget import Budget
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, Step, StepContext, never_stop
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.measuring.evaluate import EvaluateArtifact
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import CodeNames
from edgebuild.models.compressed_steps import ExportCompressed
from edgebuild.models.dataset import Dataset, write_dataset
from edgebuild.models.edits import CompressedModel
from edgebuild.models.exits import heads_of, with_exits
from edgebuild.models.onnx_files import count_macs, load_onnx
from edgebuild.models.outputs import read_outputs
from edgebuild.models.steps import FreezeModel, ReferenceOutputs
from edgebuild.techniques.exit_early import ExitEarly
from edgebuild.training.batches import ArrayLoader
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised
from edgebuild.training.plan import TrainingPlan
from technique_rows.data import fashion
from technique_rows.rows import Claim, Row, points_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from edgebuild.backends.protocol import Backend

BUDGET = 2.0
SAMPLES = 30_000
EPOCHS = 4
RATE = 0.05
FACTORY = "exit_early:net"
SPECS = (TensorSpec(name="image", shape=("batch", 1, 28, 28), dtype="float32"),)
CONTRACT = Contract(inputs=SPECS, outputs=(TensorSpec(name="logits", shape=("batch",), dtype="float32"),))
FP32 = Precision(kind="fp32")


def net() -> nn.Module:
    """About 1.4 million multiply-accumulates an image, 6 % of them in the first convolution."""

    def block(i: int, o: int, kernel: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(i, o, kernel, stride=stride, padding=kernel // 2, bias=False)
        return [conv, nn.BatchNorm2d(o), nn.ReLU()]

    return nn.Sequential(
        nn.Sequential(*block(1, 16, 5, 2)),
        nn.Sequential(*block(16, 32, 3, 1), nn.MaxPool2d(2)),
        nn.Sequential(*block(32, 32, 3, 1), nn.AdaptiveAvgPool2d(1)),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


CODE = CodeNames(factory=FACTORY)


def build(seed: int, scratch: Path) -> dict[str, Path]:
    """Train both arms and cut the chain; return the folders of both frozen models, of the chain, and of the data."""
    folders = {name: scratch / name for name in ("train", "validation", "test")}
    for name, folder in folders.items():
        if not (folder / "data.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_dataset(
                _samples(name), folder, specs=SPECS, stateful=False, source=name, task=NoProgress(), check=never_stop
            )
    torch.manual_seed(seed)
    module = net()
    _train(module, seed, scratch / "base-training")
    base = _stored(module, scratch / "base")
    _train(module, seed + 1000, scratch / "plain-training")
    plain = _stored(module, scratch / "plain")
    reference = ReferenceOutputs(contract=CONTRACT, batch=64, split="validation", order=("image",), factory=FACTORY)
    answers = _ran(reference, {"data": folders["validation"]}, scratch / "reference", seed, make=lambda: module)
    early = ExitEarly(
        parameters=ExitEarly.Parameters(after=("0",), grid=7, epochs=EPOCHS, learning_rate=RATE),
        code=CODE,
        specs=SPECS,
        contract=CONTRACT,
    )
    inputs = {"model": base, "teacher": base, "train": folders["train"], "calibration": folders["validation"]}
    exits = _ran(early, inputs, scratch / "early", seed)
    whole, contract = _frozen(exits, folders["validation"], scratch / "early-onnx", seed)
    alone, _ = _frozen(plain, folders["validation"], scratch / "plain-onnx", seed)
    cutting = CutExits(
        contract=contract,
        heads=heads_of(compressed_model.read_model(exits).edits),
        metric=MetricTable(name="accuracy"),
        budget=Budget(points=BUDGET),
    )
    inputs = {"model": whole, "data": folders["validation"], "reference": answers}
    return {**folders, "plain": alone, "chain": _ran(cutting, inputs, scratch / "chain", seed)}


def compile_plain(backend: Backend, model: Path, out: Path) -> Path:
    """Compile a frozen model with a backend, in fp32."""
    contract = Contract.model_validate_json((model / "contract.json").read_bytes())
    return _ran(backend.compile_step(CompileRequest(precision=FP32, contract=contract)), {"model": model}, out, 0)


def compile_stages(backend: Backend, chain: Path, out: Path) -> Path:
    """Compile a chain's stages with a backend, in fp32, and link them up."""
    stages = [stage.folder for stage in read_chain(chain).stages]
    made = {name: compile_plain(backend, chain / name, out.with_name(f"{out.name}-{name}")) for name in stages}
    return _ran(LinkChain(backend=backend.name, precision=FP32), {"chain": chain, **made}, out, 0)


def run(seed: int, scratch: Path) -> Mapping[str, Any]:
    """See ``Row``."""
    made = build(seed, scratch)
    backend = backends()["onnxruntime"]
    client = RunnerClient(LocalDevice(scratch / "device"), {backend.name: backend.device_file})
    arms = {
        "plain": compile_plain(backend, made["plain"], scratch / "plain-artifact"),
        "chain": compile_stages(backend, made["chain"], scratch / "chain-artifact"),
    }
    right: dict[str, Any] = {}
    ended: list[tuple[int, int]] = []
    for name, folder in arms.items():
        step = EvaluateArtifact(split="test")
        out = _ran(step, {"artifact": folder, "data": made["test"]}, scratch / f"{name}-test", seed, device=client)
        target = np.asarray(Dataset.open(made["test"]).target)
        right[name] = np.asarray(read_outputs(out)["logits"]).argmax(axis=1) == target
        ended = json.loads((out / "outputs.json").read_bytes()).get("exits", ended)
    counts = np.array([count for _, count in ended])
    folders = [made["chain"] / stage.folder for stage in read_chain(made["chain"]).stages]
    reached = np.cumsum([count_macs(load_onnx(folder / "model.onnx")) or 0 for folder in folders])
    whole = count_macs(load_onnx(made["plain"] / "model.onnx")) or 0
    mean = float((reached * counts).sum() / counts.sum())
    artifact = read_artifact(arms["chain"])
    return {
        "lost": points_lost(right["plain"], right["chain"]),
        "fewer": whole / mean,
        "mean_macs": mean,
        "plain_macs": whole,
        "exit_share_percent": 100 * float(counts[0] / counts.sum()),
        "threshold": artifact.stages[0].exit.threshold if artifact.stages[0].exit else 0.0,
        "plain_accuracy_percent": 100 * float(right["plain"].mean()),
        "chain_accuracy_percent": 100 * float(right["chain"].mean()),
    }


def _samples(split: str) -> Iterator[Sample]:
    images, labels = fashion(split)
    for image, label in zip(images[:SAMPLES], labels[:SAMPLES], strict=True):
        yield Sample(inputs={"image": image}, target=int(label))


def _train(module: nn.Module, seed: int, scratch: Path) -> None:
    images, labels = fashion("train")
    loader = ArrayLoader(inputs=(images[:SAMPLES],), target=labels[:SAMPLES], seed=seed)
    plan = TrainingPlan(epochs=EPOCHS, optimiser="sgd", learning_rate=RATE, momentum=0.9, schedule="cosine")
    train(module, plan, loader, Supervised(), scratch=scratch, seed=seed)


def _stored(module: nn.Module, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    compressed_model.write_model(module, CompressedModel(factory=FACTORY), folder)
    return folder


def _frozen(model: Path, samples: Path, out: Path, seed: int) -> tuple[Path, Contract]:
    contract = with_exits(CONTRACT, compressed_model.read_model(model).edits)
    export = ExportCompressed(code=CODE, specs=SPECS, contract=contract)
    exported = _ran(export, {"model": model, "samples": samples}, out.with_name(f"{out.name}-dynamic"), seed)
    step = FreezeModel(contract=contract, shapes=(("image", (1, 1, 28, 28)),))
    frozen = _ran(step, {"model": exported, "samples": samples, "reference": exported}, out, seed)
    return frozen, Contract.model_validate_json((frozen / "contract.json").read_bytes())


def _ran(
    step: Step,
    inputs: Mapping[str, Path],
    out: Path,
    seed: int,
    *,
    make: Callable[[], nn.Module] = net,
    device: RunnerClient | None = None,
) -> Path:
    """Run a step, unless it ended before: its output is moved into place at once."""
    if out.is_dir():
        return out
    unfinished, scratch = out.with_name(f"{out.name}.unfinished"), out.with_name(f"{out.name}.scratch")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    ctx = StepContext(
        progress=NoProgress(),
        check=never_stop,
        seed=seed,
        scratch=scratch,
        device=device,
        code=ProjectCode(load=lambda _: make, digest=""),
    )
    step.run(inputs, unfinished, ctx)
    unfinished.rename(out)
    return out


ROWS = (
    Row(
        name="exit-early",
        technique="exit-early",
        asked="mean latency at least halved within the budget (2 points); exits counted in the runner",
        published="B-LeNet on MNIST: 99.20 to 99.25 %, 5.4x faster",
        data="Fashion-MNIST, 30,000 for training; thresholds on validation",
        claims=(
            Claim(key="fewer", what="times fewer multiply-accumulates in the mean", at="least", bound=2.0, unit="x"),
            Claim(key="lost", what="accuracy lost on the test set", at="most", bound=BUDGET, unit="points"),
        ),
        run=run,
    ),
)
