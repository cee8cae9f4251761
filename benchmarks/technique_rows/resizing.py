"""Rows of `resize`: the smallest images inside 2 points, without training and with; segmentation of drawn shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import UserCode
from edgebuild.models.dataset import Dataset
from edgebuild.models.edits import ResizeInput, SetStride
from edgebuild.techniques.distilling.distil import Distil
from edgebuild.techniques.resizing.resize import Resize
from edgebuild.techniques.resizing.resolution import overlap

from . import data, running
from .rows import Claim, Row, points_lost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

HERE = __name__
BUDGET = 2.0
#: Of the form 4 n + 1, so that the corners of a map at output stride 4, or 2, lie on the image's (Chen et al. 2017).
SIDE = 49
#: Images that are drawn: to learn from, to choose a size on, and held out.
DRAWN = (3000, 1000, 1000)
LABELS: Mapping[str, Any] = {"match": ["none"], "hard_weight": 1.0, "weight_decay": 5e-4}
TUNED: Mapping[str, Any] = {"tune": "head", "epochs": 3}


def conv(i: int, o: int, stride: int = 1) -> nn.Sequential:
    """A convolution, a normalisation, a ReLU."""
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def pooled() -> nn.Module:
    """A net that ends in a global mean; 0.8 MMAC at 28x28."""
    return nn.Sequential(
        conv(1, 16), conv(16, 16, 2), conv(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def segmenter() -> nn.Module:
    """Fully convolutional, output stride 4, brought back by interpolation; 1.4 MMAC at 49x49."""
    return nn.Sequential(
        conv(1, 12, 2),
        conv(12, 24, 2),
        conv(24, 24),
        nn.Conv2d(24, 3, 1),
        nn.Upsample((SIDE, SIDE), mode="bilinear", align_corners=True),
    )


def drawn(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Draw noisy grey images with two discs (class 1) and two squares (class 2) each, and their maps."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images = draws.normal(0, 0.25, (count, 1, SIDE, SIDE)).astype(np.float32)
    maps = np.zeros((count, SIDE, SIDE), np.int64)
    for image, label in zip(images, maps, strict=True):
        for kind in draws.permutation([1, 1, 2, 2]):
            (top, left), half = draws.integers(5, SIDE - 5, 2), draws.integers(4, 9)
            dy, dx = np.abs(y - top), np.abs(x - left)
            inside = dy**2 + dx**2 <= half**2 if kind == 1 else np.maximum(dy, dx) <= 0.886 * half
            label[inside] = kind
            image[0][inside] = draws.uniform(0.6, 1.4) + 0.25 * draws.standard_normal(inside.sum())
    return images, maps


def resized(
    scratch: Path, name: str, seed: int, train: Path, validation: Path, parameters: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the net resized, and what became of it; where no size is good enough, the net as it was."""
    net = scratch / "net" / "out"
    try:
        module, report = running.run(
            Resize,
            scratch / name,
            seed,
            model=net,
            train=train,
            calibration=validation,
            parameters=parameters,
        )
    except ModelError:
        module, _ = compressed_model.load_model(
            net, UserCode(factory=compressed_model.read_model(net).factory, load=running.load)
        )
        return module, {f"share_of_side_{name}": 1.0, f"times_fewer_macs_{name}": 1.0}
    edits = compressed_model.read_model(scratch / name / "out").edits
    (resizing,) = (edit for edit in edits if isinstance(edit, ResizeInput))
    side = Dataset.open(train).array("image").shape[-1]
    return module, {
        f"share_of_side_{name}": resizing.size[0] / side,
        f"times_fewer_macs_{name}": report.macs_before / report.macs_after,
        f"strides_out_{name}": sum(isinstance(e, SetStride) and e.dilation == (1, 1) for e in edits),
    }


def trained(scratch: Path, factory: str, seed: int, train: Path, parameters: Mapping[str, Any]) -> nn.Module:
    """Return the net that is resized then."""
    fresh = running.write_fresh(scratch / "fresh", f"{HERE}:{factory}", seed)
    how = {**LABELS, **parameters}
    return running.run(Distil, scratch / "net", seed, model=fresh, train=train, parameters=how)[0]


def classification(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Train a net on all of Fashion-MNIST, then resize it without training and with its head tuned."""
    train = running.write_data(scratch / "train", *data.fashion("train"))
    validation = running.write_data(scratch / "validation", *data.fashion("validation"))
    net = trained(scratch, "pooled", seed, train, {"epochs": 8, "batch_size": 128})
    images, labels = data.fashion("test")
    before = running.right(net, images, labels)
    figures: dict[str, Any] = {"points_before": running.points(before)}
    for name, more in (("untrained", {}), ("tuned", TUNED)):
        module, became = resized(scratch, name, seed, train, validation, {"points": BUDGET, **more})
        figures |= {f"lost_{name}": points_lost(before, running.right(module, images, labels)), **became}
    return figures


def segmentation(seed: int, scratch: Path) -> Mapping[str, Any]:
    """Train a net on drawn shapes; resize it with its output stride and with a lower one, without training and with."""
    (images, maps), chosen, (held, held_maps) = (drawn(n, 10 * seed + part) for part, n in enumerate(DRAWN))
    train = running.write_data(scratch / "train", images, maps)
    validation = running.write_data(scratch / "validation", *chosen)
    net = trained(scratch, "segmenter", seed, train, {"epochs": 12, "batch_size": 32})
    reference = running.answers(net, held)
    figures: dict[str, Any] = {"iou_before": 100 * overlap(reference, held_maps)}
    half = (SIDE + 1) // 2
    arms: dict[str, dict[str, Any]] = {
        "untrained": {"finer": 1, "points": BUDGET},
        "tuned": {"finer": 1, "points": BUDGET, **TUNED},
        "half": {"size": half},
        "half_finer": {"size": half, "finer": 1},
        "half_tuned": {"size": half, **TUNED},
        "half_finer_tuned": {"size": half, "finer": 1, **TUNED},
    }
    answers = {}
    for name, more in arms.items():
        module, became = resized(scratch, name, seed, train, validation, more)
        answers[name] = running.answers(module, held)
        figures |= {f"lost_{name}": iou_lost(reference, answers[name], held_maps, seed), **became}
    for name in ("", "_tuned"):
        lost = iou_lost(answers[f"half{name}"], answers[f"half_finer{name}"], held_maps, seed)
        figures[f"finer_gains{name}"] = {"value": -lost["value"], "low": -lost["high"], "high": -lost["low"]}
    return figures


def iou_lost(
    reference: npt.NDArray[np.int64], other: npt.NDArray[np.int64], maps: npt.NDArray[np.int64], seed: int
) -> dict[str, float]:
    """Return the mean overlap that ``other`` loses, in points, with its interval: images drawn anew 1,000 times."""
    draws = np.random.default_rng(seed).integers(0, len(maps), (1000, len(maps)))

    def shares(answers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        both = np.stack([((answers == c) & (maps == c)).sum((1, 2)) for c in range(3)], 1)
        either = np.stack([((answers == c) | (maps == c)).sum((1, 2)) for c in range(3)], 1)
        result: npt.NDArray[np.float64] = 100 * (both[draws].sum(1) / either[draws].sum(1)).mean(1)
        return result

    low, high = np.percentile(shares(reference) - shares(other), [2.5, 97.5])
    return {"value": 100 * (overlap(reference, maps) - overlap(other, maps)), "low": float(low), "high": float(high)}


#: What is asked for is the smallest size: any smaller one is one.
SMALLER = 0.999
ROWS = (
    Row(
        name="resize",
        technique="resize",
        asked="smallest size inside 2 points without training, and with its head tuned",
        published="MobileNet at 224, 192, 160, 128: 70.6, 69.1, 67.2, 64.4 %, each trained",
        data="Fashion-MNIST: 28x28; the size chosen on validation data, judged on the 10,000 of the test set",
        claims=(
            Claim(key="lost_untrained", what="lost without training", at="most", bound=BUDGET, unit=" points"),
            Claim(key="share_of_side_untrained", what="share of the side without", at="most", bound=SMALLER),
            Claim(key="lost_tuned", what="lost with its head tuned", at="most", bound=BUDGET, unit=" points"),
            Claim(key="share_of_side_tuned", what="share of the side with", at="most", bound=SMALLER),
        ),
        run=classification,
    ),
    Row(
        name="resize-segmentation",
        technique="resize",
        asked="smallest images inside 2 points of mean overlap; a lower output stride helps small images",
        published="-",
        data=f"drawn discs and squares, {SIDE}x{SIDE}: 3,000 to learn from, 1,000 to choose on, 1,000 held out",
        claims=(
            Claim(key="lost_untrained", what="lost without training", at="most", bound=BUDGET, unit=" points"),
            Claim(key="share_of_side_untrained", what="share of the side without", at="most", bound=SMALLER),
            Claim(key="lost_tuned", what="lost with its head tuned", at="most", bound=BUDGET, unit=" points"),
            Claim(key="share_of_side_tuned", what="share of the side with", at="most", bound=SMALLER),
            Claim(key="finer_gains", what="lower output stride at half the side", at="least", bound=0, unit=" points"),
        ),
        run=segmentation,
    ),
)
