"""LeNets on the 10,000 digits: pruning, lottery tickets, and Deep Compression as real files. Five folds, so that every
digit is answered once by a net that never saw it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, StepContext, never_stop
from edgebuild.models import compressed_model
from edgebuild.models.dataset import write_dataset
from edgebuild.models.edits import CompressedModel
from edgebuild.models.weights_file import encode, plain_tensors, read_weights
from edgebuild.techniques.low_bit.share_weights import ShareWeights
from edgebuild.techniques.pruning.unstructured import PruneUnstructured
from edgebuild.training.batches import ArrayLoader
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised
from edgebuild.training.plan import TrainingPlan
from technique_rows.data import FOLDS, fold
from technique_rows.rows import Claim, Row, points_gained, points_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from edgebuild.techniques.technique import Technique
    from technique_rows.data import Split

    Answers = npt.NDArray[np.bool_]

IMAGE = (TensorSpec(name="image", shape=("batch", 1, 28, 28), dtype="float32"),)
CONTRACT = Contract(inputs=IMAGE, outputs=(TensorSpec(name="logits", shape=("batch",), dtype="float32"),))
BATCH = 64
#: How every arm is trained; only the number of epochs differs from stage to stage, the same for all arms.
FIRST: Mapping[str, Any] = {"learning_rate": 0.05, "weight_decay": 0.0005}
TUNING: Mapping[str, Any] = {"learning_rate": 0.02, "weight_decay": 0.0005}
#: LeNet-5 has no normalisation and diverges at those rates: it takes a fifth of the first, a quarter of the second.
GENTLER = ({**FIRST, "learning_rate": 0.01}, {**TUNING, "learning_rate": 0.005})
#: What Deep Compression kept of both nets: Han 2016, tables 2 and 3.
SPARSITY = 0.92
#: A ticket keeps 15 %.
TICKET_SPARSITY, TICKET_ROUNDS, EARLY_STEPS = 0.85, 4, 100


def lenet_300_100() -> nn.Module:
    """Dense layers of 300, 100 and 10: LeCun 1998."""
    layers = (nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    return nn.Sequential(nn.Flatten(), *layers)


def lenet_5() -> nn.Module:
    """Caffe's: convolutions of 20 and 50 kernels of 5x5, dense layers of 500 and 10."""
    convolutions = (nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


@dataclass
class Bench:
    """One fold: its data, a factory, and what was trained so far."""

    factory: Callable[[], nn.Module]
    number: int
    seed: int
    scratch: Path
    early: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.training, self.held = fold(self.number)
        self.scratch.mkdir(parents=True, exist_ok=True)
        names: dict[str, Callable[..., Any]] = {"factory": self.factory, "early": lambda _: self.started(self.early)}
        self.code = compressed_model.UserCode(
            factory="rows:factory", load=lambda r: names[r[5:]], modules=("rows:early",)
        )

    def started(self, state: Mapping[str, torch.Tensor] | None = None, seed: int = 0) -> nn.Module:
        """A fresh net: of this seed, or in a state."""
        torch.manual_seed(1000 * self.seed + 10 * self.number + seed)
        module = self.factory()
        if state is not None:
            module.load_state_dict(state)
        return module.eval()

    def train(self, module: nn.Module, name: str, **plan: Any) -> nn.Module:
        """Train on by the product's own loop."""
        loader = ArrayLoader(inputs=(self.training[0],), target=self.training[1], batch_size=BATCH, seed=self.seed)
        folder = self.scratch / f"{name}-training"
        folder.mkdir(exist_ok=True)
        train(module, TrainingPlan(**plan), loader, Supervised(), scratch=folder, seed=self.seed)
        return module

    def keep(self, module: nn.Module, name: str) -> Path:
        """Store a net that has no edits."""
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        compressed_model.write_model(module, CompressedModel(factory=self.code.factory), folder)
        return folder

    def run(self, technique: type[Technique], model: Path, name: str, **parameters: Any) -> Path:
        """Run a step of the product."""
        step = technique(
            parameters=technique.Parameters.model_validate({"batch_size": BATCH, **parameters}),
            code=compressed_model.CodeNames(factory=self.code.factory, modules=self.code.modules),
            specs=IMAGE,
            contract=CONTRACT,
        )
        out, own = self.scratch / name, self.scratch / f"{name}-scratch"
        for folder in (out, own):
            folder.mkdir(exist_ok=True)
        inputs = {"model": model, "teacher": self.scratch / "dense", "train": self.data()}
        code = ProjectCode(load=self.code.load, digest="")
        ctx = StepContext(progress=NoProgress(), check=never_stop, seed=self.seed, scratch=own, code=code)
        step.run(inputs, out, ctx)
        return out

    def load(self, folder: Path) -> nn.Module:
        """Rebuild a stored net."""
        return compressed_model.load_model(folder, self.code)[0]

    def data(self) -> Path:
        """The fold's training data as a step takes them."""
        folder = self.scratch / "train"
        if not folder.exists():
            folder.mkdir()
            pairs = zip(*self.training, strict=True)
            rows = (Sample(inputs={"image": image}, target=int(label)) for image, label in pairs)
            write_dataset(rows, folder, specs=IMAGE, stateful=False, source="fold", task=NoProgress(), check=never_stop)
        return folder

    def right(self, module: nn.Module) -> Answers:
        """Whether each held-out digit is answered rightly."""
        return answers(module, self.held)


def answers(module: nn.Module, split: Split) -> Answers:
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(split[0])).argmax(1).numpy()
    return np.asarray(found == split[1])


def pooled(run: Callable[[Bench], dict[str, Any]], factory: Callable[[], nn.Module], seed: int, scratch: Path) -> Any:
    """Run every fold; return each arm's answers over all digits, and the means of the numbers beside them."""
    results = [run(Bench(factory, number, seed, scratch / f"fold-{number}")) for number in range(FOLDS)]
    return {
        key: np.concatenate([r[key] for r in results])
        if isinstance(results[0][key], np.ndarray)
        else float(np.mean([r[key] for r in results]))
        for key in results[0]
    }


@dataclass(frozen=True)
class Epochs:
    """Of the first training, pruning, and training shared values; and how the first two are trained."""

    first: int
    prune: int
    share: int
    rates: tuple[Mapping[str, Any], Mapping[str, Any]] = (FIRST, TUNING)


def deep_compression(bench: Bench, epochs: Epochs) -> dict[str, Any]:
    """Prune, share, write the file, read it, and answer with what was read; a dense net is trained as long."""
    first_rate, tuning = epochs.rates
    dense = bench.train(bench.started(), "dense", epochs=epochs.first, **first_rate)
    model = bench.keep(dense, "dense")
    pruned = bench.run(PruneUnstructured, model, "pruned", epochs=epochs.prune, sparsity=SPARSITY, **tuning)
    shared = bench.run(ShareWeights, pruned, "shared", epochs=epochs.share, bits=5, conv_bits=8)
    tensors = plain_tensors(bench.load(shared))
    path = bench.scratch / "weights.ebw"
    path.write_bytes(encode(tensors))
    read = read_weights(path)
    assert all(read[name].tobytes() == value.tobytes() for name, value in tensors.items())
    decoded = bench.started({name: torch.from_numpy(value) for name, value in read.items()})
    first = bench.right(bench.load(model))
    longer = bench.train(bench.load(model), "longer", epochs=epochs.prune, **tuning)
    longer = bench.train(longer, "longest", epochs=epochs.share, optimiser="adamw", learning_rate=0.0005)
    plain = sum(value.nbytes for value in tensors.values())
    return {
        "first": first,
        "dense": bench.right(longer),
        "file": bench.right(decoded),
        "times": plain / path.stat().st_size,
        "plain_bytes": plain,
        "file_bytes": path.stat().st_size,
    }


def deep_row(factory: Callable[[], nn.Module], epochs: Epochs) -> Callable[[int, Path], Mapping[str, Any]]:
    def run(seed: int, scratch: Path) -> Mapping[str, Any]:
        found = pooled(lambda bench: deep_compression(bench, epochs), factory, seed, scratch)
        dense, file = found.pop("dense"), found.pop("file")
        first = found.pop("first")
        return {
            **found,
            "lost": points_lost(dense, file),
            "lost_against_the_first_training": points_lost(first, file),
            "error": 100 - 100 * float(file.mean()),
            "dense_error": 100 - 100 * float(dense.mean()),
        }

    return run


def gradual(bench: Bench) -> dict[str, Any]:
    dense = bench.train(bench.started(), "dense", epochs=12, **FIRST)
    model = bench.keep(dense, "dense")
    common = {"sparsity": SPARSITY, **TUNING}
    arms = {
        "gradual": bench.run(PruneUnstructured, model, "gradual", epochs=12, **common),
        "once": bench.run(PruneUnstructured, model, "once", epochs=12, cuts="iterative", rounds=1, **common),
        "iterative": bench.run(PruneUnstructured, model, "iterative", epochs=3, cuts="iterative", rounds=4, **common),
    }
    longer = bench.train(bench.load(model), "longer", epochs=12, **TUNING)
    return {"dense": bench.right(longer)} | {name: bench.right(bench.load(at)) for name, at in arms.items()}


def gradual_row(seed: int, scratch: Path) -> Mapping[str, Any]:
    found = pooled(gradual, lenet_300_100, seed, scratch)
    dense = found["dense"]
    return {
        "lost": points_lost(dense, found["gradual"]),
        "lost_in_one_cut": points_lost(dense, found["once"]),
        "lost_iteratively": points_lost(dense, found["iterative"]),
        "dense_error": 100 - 100 * float(dense.mean()),
    }


def ticket(bench: Bench) -> dict[str, Any]:
    """A dense net, a ticket, and the ticket's masks on fresh weights: each some early steps, then the same epochs."""
    start = {"steps": EARLY_STEPS, "schedule": "constant", **FIRST}
    dense = bench.train(bench.started(), "early", **start)
    bench.early = {name: value.clone() for name, value in dense.state_dict().items()}
    dense = bench.train(dense, "dense", epochs=10, **FIRST)
    model = bench.keep(dense, "dense")
    cuts = {"cuts": "iterative", "rounds": TICKET_ROUNDS, "sparsity": TICKET_SPARSITY, "rewind": "rows:early"}
    won = bench.run(PruneUnstructured, model, "ticket", epochs=10, **cuts, **FIRST)
    again = bench.load(won)
    fresh = bench.started(seed=5).state_dict()
    with torch.no_grad():
        for name, value in again.state_dict(keep_vars=True).items():
            plain = name.replace("parametrizations.", "").removesuffix(".original")
            if plain in fresh:
                value.copy_(fresh[plain])
    bench.train(again, "fresh-early", **start)
    bench.train(again, "fresh", epochs=10, **FIRST)
    masks = [value for name, value in again.state_dict().items() if name.endswith(".mask")]
    return {
        "dense": bench.right(bench.load(model)),
        "ticket": bench.right(bench.load(won)),
        "fresh": bench.right(again),
        "kept": 100 * sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks),
    }


def ticket_row(seed: int, scratch: Path) -> Mapping[str, Any]:
    found = pooled(ticket, lenet_300_100, seed, scratch)
    return {
        "lost": points_lost(found["dense"], found["ticket"]),
        "over_fresh": points_gained(found["fresh"], found["ticket"]),
        "kept": found["kept"],
        "dense_error": 100 - 100 * float(found["dense"].mean()),
    }


DATA = "10,000 digits, 5 folds: every digit held out once, n = 10,000"
SMALLER = Claim(key="times", what="smaller, file against fp32 numbers", at="least", bound=35, unit="x")
LOST = Claim(key="lost", what="accuracy lost against a dense net trained as long", at="most", bound=0.1, unit=" points")
ROWS = (
    Row(
        name="deep-compression-lenet-300-100",
        technique="share-weights",
        asked="a real file that decodes bit-exactly: ≥ 35x, ≤ 0.1 point",
        published="1070 → 27 KB (40x), error 1.64 → 1.58 % (60,000 digits)",
        data=f"LeNet-300-100, {DATA}",
        claims=(SMALLER, LOST),
        run=deep_row(lenet_300_100, Epochs(12, 12, 4)),
    ),
    Row(
        name="deep-compression-lenet-5",
        technique="share-weights",
        asked="a real file that decodes bit-exactly: ≥ 35x, ≤ 0.1 point",
        published="1720 → 44 KB (39x)",
        data=f"LeNet-5, {DATA}",
        claims=(SMALLER, LOST),
        run=deep_row(lenet_5, Epochs(9, 8, 2, GENTLER)),
    ),
    Row(
        name="lottery-ticket",
        technique="prune-unstructured",
        asked="≤ 20 % of the weights, ≥ dense - 0.2 point, better than re-initialised",
        published="",
        data=f"LeNet-300-100, {DATA}",
        claims=(
            Claim(key="kept", what="weights kept", at="most", bound=20, unit=" %"),
            Claim(key="lost", what="accuracy lost against dense", at="most", bound=0.2, unit=" points"),
            Claim(key="over_fresh", what="gained over re-initialised", at="least", bound=0.0, unit=" points"),
        ),
        run=ticket_row,
    ),
    Row(
        name="prune-unstructured",
        technique="prune-unstructured",
        asked="8 % of the weights, ≥ dense - 0.2 point",
        published="LeNet kept 8 %",
        data=f"LeNet-300-100, {DATA}",
        claims=(
            Claim(key="lost", what="lost against a dense net trained as long", at="most", bound=0.2, unit=" points"),
        ),
        run=gradual_row,
    ),
)
