"""Training on grids: int8 with a short training, weights of 2 to 4 bits beside a teacher, weights of one bit.

All accuracies are those of ONNX files in onnxruntime, one image at a time, on test images that chose nothing. Each arm
has one learning rate and as many epochs as the arm that it is compared with.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from edgebuild.core.artifact import Contract, Int8Scheme, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, StepContext, never_stop
from edgebuild.models import compressed_model
from edgebuild.models.compressed_steps import ExportCompressed
from edgebuild.models.dataset import Dataset, write_dataset
from edgebuild.models.edits import CompressedModel, Edit, ReplaceModule, UserModule
from edgebuild.models.freezing import freeze
from edgebuild.models.interpreter import apply_edits
from edgebuild.models.onnx_files import load_onnx
from edgebuild.quantisers.fp16_storage import HalfStorage
from edgebuild.quantisers.own.step import Quantise
from edgebuild.techniques.distilling.distil import Distil
from edgebuild.techniques.low_bit.apprentice import Apprentice
from edgebuild.techniques.low_bit.binary_weights import BinaryWeights
from edgebuild.techniques.low_bit.qat import Qat
from edgebuild.training.batches import ArrayLoader
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised
from edgebuild.training.plan import TrainingPlan

from .data import FOLDS, Split, fashion, fold
from .rows import Claim, Row, points_gained, points_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from edgebuild.techniques.technique import Technique

SPEC = TensorSpec(name="image", shape=("batch", 1, 28, 28), dtype="float32")
CONTRACT = Contract(inputs=(SPEC,), outputs=(TensorSpec(name="logits", shape=("batch",), dtype="float32"),))
FROZEN = Contract(
    inputs=(TensorSpec(name="image", shape=(1, 1, 28, 28), dtype="float32"),),
    outputs=(TensorSpec(name="logits", shape=(1, 10), dtype="float32"),),
)
CALIBRATION = 300
FLOAT_EPOCHS, APPRENTICE_EPOCHS, BINARY_EPOCHS = 6, 3, 12
BITS = (2, 3, 4)
#: Training images where many nets are trained.
FEWER = 20_000


class Small(nn.Module):
    """A small residual net for 28x28 images; ``width`` 16 takes 1.0 million multiply-accumulates, 8 takes 0.27."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width

        def block(i: int, o: int, stride: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(o), nn.ReLU())

        self.stem, self.middle, self.down = block(1, width, 2), block(width, width), block(width, wide, 2)
        self.one, self.two = block(wide, wide), nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1, bias=False))
        self.norm, self.head = nn.BatchNorm2d(wide), nn.Linear(wide, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.down(self.middle(self.stem(image)))
        x = torch.relu(x + self.norm(self.two(self.one(x))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def teacher() -> nn.Module:
    """The wider net."""
    return Small(16)


def student(original: nn.Module) -> nn.Module:
    """The narrower net, in the wider one's place."""
    del original
    return Small(8)


def dense() -> nn.Module:
    """Two hidden layers, as BinaryConnect's net for digits, but 512 units wide: 0.67 million multiply-accumulates."""
    hidden = [layer for i in (784, 512) for layer in (nn.Linear(i, 512), nn.BatchNorm1d(512), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))


CALLED: dict[str, Callable[..., Any]] = {"rows:teacher": teacher, "rows:student": student, "rows:dense": dense}
#: A net by name: its factory, and the edits that make it of what that gives.
NETS: dict[str, tuple[str, tuple[Edit, ...]]] = {
    "teacher": ("rows:teacher", ()),
    "student": ("rows:teacher", (ReplaceModule(module="", by=UserModule(reference="rows:student")),)),
    "dense": ("rows:dense", ()),
}


def names(net: str) -> compressed_model.CodeNames:
    """What of the user's code a step may call."""
    return compressed_model.CodeNames(factory=NETS[net][0], modules=("rows:student",))


def code(net: str) -> compressed_model.UserCode:
    """The user's code as a step sees it."""
    return compressed_model.UserCode(factory=NETS[net][0], load=CALLED.__getitem__, modules=("rows:student",))


def machine_scheme() -> Int8Scheme:
    """What profiles/x86-onnx.toml and arm-onnx.toml take first on this machine: 7-bit weights on x86 without VNNI."""
    if platform.machine() != "x86_64":
        return Int8Scheme(activations="int8")
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return Int8Scheme(activations="uint8", reduce_range=not {"avx512_vnni", "avx_vnni"} & set(words))


class Bench:
    """One seed of one row: where its files lie, and what is done with them, by the product's own steps."""

    def __init__(self, seed: int, folder: Path, train_on: Split) -> None:
        self.seed, self.folder, self.data = seed, folder, train_on
        self.inputs = {
            "train": self._write("train", train_on, None),
            "calibration": self._write("calibration", train_on, CALIBRATION),
        }

    def _write(self, name: str, split: Split, count: int | None) -> Path:
        folder = self.folder / name
        if (folder / "written").is_file():
            return folder
        folder.mkdir(parents=True, exist_ok=True)

        def samples() -> Iterator[Sample]:
            for image, label in zip(*(part[:count] for part in split), strict=True):
                yield Sample(inputs={"image": image}, target=int(label))

        write_dataset(
            samples(), folder, specs=(SPEC,), stateful=False, source=name, task=NoProgress(), check=never_stop
        )
        (folder / "written").touch()
        return folder

    def context(self, name: str) -> StepContext:
        """A step's context with a scratch folder of its own."""
        scratch = self.folder / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        code = ProjectCode(load=CALLED.__getitem__, digest="")
        return StepContext(progress=NoProgress(), check=never_stop, seed=self.seed, scratch=scratch, code=code)

    def trained(self, net: str, epochs: int, learning_rate: float) -> Path:
        """Train a net in float from scratch on the labels; return it as a stored model."""
        folder = self.folder / net
        factory, edits = NETS[net]
        if (folder / compressed_model.MODEL_FILE).is_file():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.seed)
        module = apply_edits(CALLED[factory](), edits, code(net).module_maker)
        data = Dataset.open(self.inputs["train"])
        loader = ArrayLoader.of(data, ("image",), batch_size=64, seed=self.seed)
        plan = TrainingPlan(epochs=epochs, learning_rate=learning_rate, weight_decay=1e-4)
        context = self.context(net)
        train(module, plan, loader, Supervised(), scratch=context.scratch, seed=self.seed)
        compressed_model.write_model(module, CompressedModel(factory=factory, edits=edits), folder)
        return folder

    def compressed(
        self, name: str, technique: type[Technique], net: str, model: Path, original: Path, **parameters: Any
    ) -> Path:
        """Carry a technique out on a stored model; ``original`` is what it learns from."""
        out = self.folder / name
        if (out / "technique.json").is_file():
            return out
        out.mkdir(parents=True, exist_ok=True)
        step = technique(
            parameters=technique.Parameters(**parameters),
            code=names(net),
            specs=(SPEC,),
            contract=CONTRACT,
            int8=machine_scheme() if technique.uses_int8 else None,
        )
        step.run({"model": model, "teacher": original, **self.inputs}, out, self.context(name))
        return out

    def exported(self, name: str, net: str, model: Path) -> Path:
        """Export a stored model and freeze it to one image a call."""
        out = self.folder / f"{name}-onnx"
        out.mkdir(parents=True, exist_ok=True)
        step = ExportCompressed(code=names(net), specs=(SPEC,), contract=CONTRACT)
        step.run({"model": model, "samples": self.inputs["calibration"]}, out, self.context(f"{name}-onnx"))
        frozen = freeze(load_onnx(out / "model.onnx"), shapes={"image": (1, 1, 28, 28)}, constants=())
        onnx.save(frozen, str(out / "model.onnx"))
        return out

    def int8(self, name: str, exported: Path) -> Path:
        """Quantise an exported model with our quantiser in this machine's scheme."""
        out = self.folder / f"{name}-int8"
        out.mkdir(parents=True, exist_ok=True)
        step = Quantise(scheme=machine_scheme(), contract=FROZEN, samples=CALIBRATION)
        step.run({"model": exported, "calibration": self.inputs["calibration"]}, out, self.context(f"{name}-int8"))
        return out


def hits(folder: Path, test: Split) -> npt.NDArray[np.bool_]:
    """Which images an ONNX file answers rightly in onnxruntime, one at a time, optimised as it would be deployed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    images, labels = test
    answers = [session.run(["logits"], {"image": image[None]})[0].argmax() for image in images]
    right: npt.NDArray[np.bool_] = np.asarray(answers) == labels
    return right


def accuracy(right: npt.NDArray[np.bool_]) -> float:
    """In per cent."""
    return 100 * float(right.mean())


def qat(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Float, fp16, int8 without training, int8 with training: each against the float file."""
    bench, test = Bench(seed, scratch, fashion("train")), fashion("test")
    base = bench.trained("teacher", FLOAT_EPOCHS, 0.05)
    plain = bench.exported("float", "teacher", base)
    reference = hits(plain, test)
    half = scratch / "half"
    half.mkdir(exist_ok=True)
    HalfStorage().run({"model": plain}, half, bench.context("half"))
    post = hits(bench.int8("post", plain), test)
    shipped = bench.exported("qat", "teacher", bench.compressed("qat", Qat, "teacher", base, base))
    learnt = hits(bench.int8("qat", shipped), test)
    return {
        "fp16": points_lost(reference, hits(half, test)),
        "int8": points_lost(reference, post),
        "qat": points_lost(reference, learnt),
        "accuracy_float": accuracy(reference),
        "accuracy_int8": accuracy(post),
        "accuracy_qat": accuracy(learnt),
        "weight_bits": 7 if machine_scheme().reduce_range else 8,
    }


def apprentice(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Scheme C against the same training without a teacher; the teacher is wider than the net that is trained."""
    images, labels = fashion("train")
    bench, test = Bench(seed, scratch, (images[:FEWER], labels[:FEWER])), fashion("test")
    wide = bench.trained("teacher", FLOAT_EPOCHS, 0.05)
    base = bench.trained("student", FLOAT_EPOCHS, 0.05)
    figures: dict[str, Any] = {
        "accuracy_teacher": accuracy(hits(bench.exported("teacher", "teacher", wide), test)),
        "accuracy_float": accuracy(hits(bench.exported("student", "student", base), test)),
    }
    for bits in BITS:
        arms = {}
        for arm, weights in (("alone", {"beta": 1.0, "gamma": 0.0}), ("c", {})):
            name = f"{arm}-{bits}"
            made = bench.compressed(
                name,
                Apprentice,
                "student",
                base,
                wide,
                bits=bits,
                epochs=APPRENTICE_EPOCHS,
                learning_rate=0.02,
                **weights,
            )
            arms[arm] = hits(bench.int8(name, bench.exported(name, "student", made)), test)
            figures[f"accuracy_{arm}_{bits}"] = accuracy(arms[arm])
        figures[f"gain_{bits}"] = points_gained(arms["alone"], arms["c"])
    return figures


def binary(seed: int, scratch: Path) -> Mapping[str, Any]:
    """One bit a weight against its float twin, trained further for as long by the same loss."""
    learnt, held = fold(seed % FOLDS)
    bench = Bench(seed, scratch, learnt)
    base = bench.trained("dense", BINARY_EPOCHS, 0.02)
    same = {"epochs": BINARY_EPOCHS, "optimiser": "adamw", "learning_rate": 0.002, "hard_weight": 0.5}
    right: dict[str, npt.NDArray[np.bool_]] = {}
    sizes: dict[str, int] = {}
    for arm, technique in (("float", Distil), ("binary", BinaryWeights)):
        made = bench.compressed(arm, technique, "dense", base, base, **same)
        right[arm] = hits(bench.exported(arm, "dense", made), held)
        sizes[arm] = (made / compressed_model.WEIGHTS_FILE).stat().st_size
    twin, one_bit = right["float"], right["binary"]
    return {
        "lost": points_lost(twin, one_bit),
        "smaller": sizes["float"] / sizes["binary"],
        "error_float": 100 - accuracy(twin),
        "error_binary": 100 - accuracy(one_bit),
        "bytes_binary": sizes["binary"],
    }


FASHION = "Fashion-MNIST, 10,000 test images"
ROWS = (
    Row(
        name="int8-qat",
        technique="qat",
        asked="fp16 ≤ 0.05, int8 without training ≤ 0.3, with a short training without labels ≤ 0.1 point lost",
        published="–",
        data=FASHION,
        claims=(
            Claim(key="qat", what="lost by int8 with training", at="most", bound=0.1, unit=" points"),
            Claim(key="int8", what="lost by int8 without", at="most", bound=0.3, unit=" points"),
            Claim(key="fp16", what="lost by fp16", at="most", bound=0.05, unit=" points"),
        ),
        run=qat,
    ),
    Row(
        name="apprentice",
        technique="apprentice",
        asked="at 2-4 bits: scheme C ≥ training on the grid alone + 0.5 point",
        published="ternary ResNet-18, error 33.4 → 31.5 %",
        data=f"{FASHION}, {FEWER:,} to train on",
        claims=tuple(
            Claim(key=f"gain_{bits}", what=f"gained at {bits} bits", at="least", bound=0.5, unit=" points")
            for bits in BITS
        ),
        run=apprentice,
    ),
    Row(
        name="binary-weights",
        technique="binary-weights",
        asked="within 1.5 points of its float twin",
        published="BinaryConnect, MNIST: 1.2-1.3 % error",
        data="10,000 MNIST digits, each seed trained on 8,000 and tested on 2,000 others",
        claims=(Claim(key="lost", what="lost", at="most", bound=1.5, unit=" points"),),
        run=binary,
    ),
)
