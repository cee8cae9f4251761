"""Rows of the techniques that change structure: pruning whole channels, substituting layers, factorising them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, StepContext, never_stop
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import CodeNames, UserCode
from edgebuild.models.dataset import write_dataset
from edgebuild.models.edits import CompressedModel
from edgebuild.techniques.distilling.distil import Distil
from edgebuild.techniques.factorising.factorise import Factorise
from edgebuild.techniques.factorising.substitute import Substitute
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.report import read_report
from edgebuild.training.batches import ArrayLoader
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised
from edgebuild.training.plan import TrainingPlan
from technique_rows.data import Split, fashion
from technique_rows.rows import Claim, Row, points_gained, points_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from edgebuild.techniques.technique import Technique

#: Fixed beforehand: samples to learn from, passes over them, and the learning rates that every arm may choose from.
TRAIN = 10_000
BASE_EPOCHS = 8
EPOCHS = 6
#: Of what has one arm only: on validation data more than 6 still paid.
ALONE_EPOCHS = 20
ROUNDS = 2
RATES = (0.01, 0.05)
FACTORY = "technique_rows.structure:net"
SPECS = (TensorSpec(name="image", shape=("batch", 1, 28, 28), dtype="float32"),)
CONTRACT = Contract(inputs=SPECS, outputs=(TensorSpec(name="logits", shape=("batch",), dtype="float32"),))
DATA = "10,000 of Fashion-MNIST's training images, the rate chosen on 5,000 others, judged on its 10,000 test images"


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.short(x))


def net() -> nn.Module:
    """Return a residual net of 1.3 million multiply-accumulates."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 28, 2),
        Block(28, 28, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(28, 10),
    )


class Bench:
    """A trained net and its data, for one seed."""

    def __init__(self, seed: int, scratch: Path) -> None:
        self.seed, self.scratch = seed, scratch
        self.code = UserCode(factory=FACTORY, load=lambda _: net)
        images, labels = fashion("train")
        chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:TRAIN])
        self.data: Split = (images[chosen], labels[chosen])
        if not (scratch / "train").is_dir():
            self._write()
        if not (scratch / "model" / compressed_model.MODEL_FILE).is_file():
            self._train()

    def _write(self) -> None:
        part = self.scratch / "train.part"
        part.mkdir()
        rows = (Sample(inputs={"image": x}, target=int(y)) for x, y in zip(*self.data, strict=True))
        write_dataset(rows, part, specs=SPECS, stateful=False, source="fashion", task=NoProgress(), check=never_stop)
        part.rename(self.scratch / "train")

    def _train(self) -> None:
        """Train the net from nothing, once for each rate; the one that does best on validation is the original."""
        found = []
        for rate in RATES:
            torch.manual_seed(self.seed)
            module = net()
            plan = TrainingPlan(epochs=BASE_EPOCHS, learning_rate=rate, warmup=0.1)
            loader = ArrayLoader(inputs=(self.data[0],), target=self.data[1], seed=self.seed)
            train(module, plan, loader, Supervised(), scratch=self.scratch / f"base-{rate}", seed=self.seed)
            found.append((hits(module, "validation").mean(), module))
        (self.scratch / "model").mkdir(exist_ok=True)
        best = max(found, key=lambda each: each[0])[1]
        compressed_model.write_model(best, CompressedModel(factory=FACTORY), self.scratch / "model")

    def load(self, folder: Path) -> nn.Module:
        """Return a stored model."""
        return compressed_model.load_model(folder, self.code)[0]

    def best(self, name: str, technique: type[Technique], model: Path | None = None, **parameters: Any) -> Path:
        """Run a technique once for each rate; return the folder of what does best on validation."""
        found = []
        for rate in RATES:
            out, own = self.scratch / f"{name}-{rate}", self.scratch / f"{name}-{rate}-scratch"
            own.mkdir(exist_ok=True)
            if not (out / "technique.json").is_file():
                out.mkdir(exist_ok=True)
                step = technique(
                    parameters=technique.Parameters.model_validate({"learning_rate": rate, **parameters}),
                    code=CodeNames(factory=FACTORY),
                    specs=SPECS,
                    contract=CONTRACT,
                )
                original, data = self.scratch / "model", self.scratch / "train"
                inputs = {"model": model or original, "teacher": original, "train": data, "calibration": data}
                code = ProjectCode(load=self.code.load, digest="")
                ctx = StepContext(progress=NoProgress(), check=never_stop, seed=self.seed, scratch=own, code=code)
                step.run(inputs, out, ctx)
            found.append((hits(self.load(out), "validation").mean(), out))
        return max(found, key=lambda each: each[0])[1]

    def fresh(self, folder: Path) -> Path:
        """Return the folder of a model of the same structure whose weights are drawn anew."""
        module, model = compressed_model.load_model(folder, self.code)
        torch.manual_seed(self.seed)
        for part in module.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        fresh = self.scratch / "fresh"
        fresh.mkdir(exist_ok=True)
        compressed_model.write_model(module, model, fresh)
        return fresh


@torch.inference_mode()
def hits(module: nn.Module, split: str) -> npt.NDArray[np.bool_]:
    """Say of every sample of a split whether it is answered rightly."""
    images, labels = fashion(split)
    found = [module(torch.from_numpy(part)).argmax(1).numpy() for part in np.array_split(images, 20)]
    right: npt.NDArray[np.bool_] = np.concatenate(found) == labels
    return right


def _fewer(folder: Path) -> float:
    report = read_report(folder)
    return report.macs_before / report.macs_after


def _accuracy(found: npt.NDArray[np.bool_]) -> float:
    return 100 * float(found.mean())


def prune(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Pruned by importance, pruned at random, and the same small net from nothing; each distilled equally long."""
    bench = Bench(seed, scratch)
    how: dict[str, Any] = {"keep": 0.5, "multiple": 4, "spread": "uniform", "rounds": ROUNDS}
    how["epochs"] = EPOCHS // ROUNDS
    chosen = bench.best("taylor", PruneStructured, importance="taylor", **how)
    control = bench.best("random", PruneStructured, importance="random", **how)
    scratch_net = bench.best("from-scratch", Distil, bench.fresh(chosen), epochs=EPOCHS, hard_weight=0.0)
    original, pruned, random, fresh = (
        hits(bench.load(folder), "test") for folder in (scratch / "model", chosen, control, scratch_net)
    )
    return {
        "over random": points_gained(random, pruned),
        "over from scratch": points_gained(fresh, pruned),
        "lost": points_lost(original, pruned),
        "accuracy of the original": _accuracy(original),
        "accuracy pruned": _accuracy(pruned),
        "accuracy random": _accuracy(random),
        "accuracy from scratch": _accuracy(fresh),
        "fewer MACs": _fewer(chosen),
    }


def substitute(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Every convolution with more than one input channel made depthwise-separable."""
    return _one_arm(seed, scratch, Substitute, epochs=ALONE_EPOCHS, block_epochs=2)


def factorise(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Tucker-2 at half the ranks, then distilled."""
    return _one_arm(seed, scratch, Factorise, ranks="share", share=0.5, epochs=ALONE_EPOCHS)


def _one_arm(seed: int, scratch: Path, technique: type[Technique], **parameters: Any) -> Mapping[str, Any]:
    bench = Bench(seed, scratch)
    folder = bench.best(technique.kind, technique, **parameters)
    original, after = hits(bench.load(scratch / "model"), "test"), hits(bench.load(folder), "test")
    return {
        "lost": points_lost(original, after),
        "fewer MACs": _fewer(folder),
        "accuracy of the original": _accuracy(original),
        "accuracy after": _accuracy(after),
    }


def _row(
    technique: str,
    asked: str,
    published: str,
    run: Callable[[int, Path], Mapping[str, Any]],
    *claims: Claim,
) -> Row:
    return Row(name=technique, technique=technique, asked=asked, published=published, data=DATA, claims=claims, run=run)


ROWS = (
    _row(
        "prune-structured",
        "Beats random pruning and the same small net from scratch, at equal epochs",
        "VGG-16 on CIFAR: 64 % fewer parameters, error 6.75 → 6.60",
        prune,
        Claim(key="over random", what="over random", at="least", bound=0, unit=" points"),
        Claim(key="over from scratch", what="over from scratch", at="least", bound=0, unit=" points"),
    ),
    _row(
        "substitute",
        "At least 5x fewer multiply-accumulates within 2 points",
        "MobileNet: 70.6 % at 569M multiply-accumulates, 71.7 % at 4866M",
        substitute,
        Claim(key="fewer MACs", what="fewer MACs", at="least", bound=5, unit="x"),
        Claim(key="lost", what="lost", at="most", bound=2, unit=" points"),
    ),
    _row(
        "factorise",
        "At least 2x fewer multiply-accumulates at 1 point or less",
        "–",
        factorise,
        Claim(key="fewer MACs", what="fewer MACs", at="least", bound=2, unit="x"),
        Claim(key="lost", what="lost", at="most", bound=1, unit=" points"),
    ),
)
