"""Fashion-MNIST, read from the IDX files of Debian's `dataset-fashion-mnist`: finds them, checks them, splits them.

Splits: `train` is the first 55,000 of the 60,000 training images, `calibration` 1,000 of those, `validation` the last
5,000 of the 60,000, and `test` the 10,000 test images.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild import Sample

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

MEAN, STD = 0.2860, 0.3530  # of the training pixels, scaled to [0, 1]

PACKAGE = "dataset-fashion-mnist"
FOLDER_VARIABLE = "EDGEBUILD_FASHION_MNIST"
PROJECT_CACHE = Path(__file__).resolve().parent / "data"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# SHA-256 of the *unpacked* bytes: Debian's files and the official ones hold the same data, their gzip headers differ.
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

TRAIN_SIZE = 55_000
CALIBRATION_SIZE = 1_000
CALIBRATION_SEED = 20_240_501

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


class DataError(RuntimeError):
    """The data set is missing or damaged; the message says where and what to do."""


def preprocess(image: Images) -> npt.NDArray[np.float32]:
    """Normalise one uint8 image (28, 28) to the float32 (1, 28, 28) that the model takes."""
    scaled = (image.astype(np.float32) / np.float32(255.0) - np.float32(MEAN)) / np.float32(STD)
    return scaled[np.newaxis]


def postprocess(logits: npt.NDArray[np.float32]) -> str:
    """The class name of one logits vector (10,)."""
    return CLASSES[int(np.argmax(logits))]


def train() -> Iterator[Sample]:
    """The 55,000 training samples, un-augmented, in file order."""
    images, labels = arrays("train")
    return _samples(images, labels)


def calibration() -> Iterator[Sample]:
    """1,000 training samples, the same ones every time."""
    images, labels = arrays("train")
    chosen = calibration_indices()
    return _samples(images[chosen], labels[chosen])


def validation() -> Iterator[Sample]:
    """The 5,000 samples that candidates are chosen on."""
    images, labels = arrays("validation")
    return _samples(images, labels)


def test() -> Iterator[Sample]:
    """The 10,000 samples that only the final verdict sees."""
    images, labels = arrays("test")
    return _samples(images, labels)


def calibration_indices() -> npt.NDArray[np.int64]:
    """Where the calibration samples lie in `train`, ascending."""
    chosen = np.random.default_rng(CALIBRATION_SEED).choice(TRAIN_SIZE, CALIBRATION_SIZE, replace=False)
    return np.sort(chosen)


def arrays(split: str) -> tuple[Images, Labels]:
    """The images (n, 28, 28) and labels (n,) of `train`, `validation` or `test`, checked against their digests."""
    folder = find_folder()
    prefix = "t10k" if split == "test" else "train"
    images = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16).reshape(-1, 28, 28)
    labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8)
    part = {"train": slice(0, TRAIN_SIZE), "validation": slice(TRAIN_SIZE, None), "test": slice(None)}[split]
    # Copies, so that 5,000 validation images do not keep the other 55,000 in memory.
    return images[part].copy(), labels[part].copy()


def _samples(images: Images, labels: Labels) -> Iterator[Sample]:
    from edgebuild import Sample  # here, so that training needs only torch, numpy and safetensors

    for image, label in zip(images, labels, strict=True):
        yield Sample(inputs={"image": preprocess(image)}, target=int(label), slice=CLASSES[label])


def _idx(path: Path, *, header_bytes: int) -> npt.NDArray[np.uint8]:
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it, then {_ways(path.parent)}") from error
    digest, expected = hashlib.sha256(content).hexdigest(), SHA256[path.name]
    if digest != expected:
        found = f"its content has SHA-256 {digest}, expected {expected}"
        raise DataError(f"{path} is damaged or of another data set: {found}; delete it, then {_ways(path.parent)}")
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes)


def find_folder() -> Path:
    """The folder that holds the four files; taken from Debian's package where no folder has them yet."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        if not _complete(folder):
            raise DataError(f"{FOLDER_VARIABLE}={named} lacks {', '.join(_missing(folder))}; {_ways(folder)}")
        return folder
    for folder in (PROJECT_CACHE, SYSTEM_FOLDER):
        if _complete(folder):
            return folder
    _unpack_debian_package(PROJECT_CACHE)
    return PROJECT_CACHE


def _missing(folder: Path) -> list[str]:
    return [name for name in SHA256 if not (folder / name).is_file()]


def _complete(folder: Path) -> bool:
    return not _missing(folder)


def _unpack_debian_package(folder: Path) -> None:
    """Download and unpack the package without root; files reach `folder` whole and checked, or not at all."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError(f"Fashion-MNIST is not on this machine and apt-get is not here to get it; {_ways(folder)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fashion-mnist-", dir=folder.parent) as scratch_name:
            scratch = Path(scratch_name)
            _download(scratch, folder)
            packages = [str(package) for package in scratch.glob("*.deb")]
            _call(["dpkg-deb", "-x", *packages, "unpacked"], cwd=scratch, folder=folder)
            unpacked = scratch / "unpacked" / SYSTEM_FOLDER.relative_to("/")
            for name in SHA256:
                _idx(unpacked / name, header_bytes=0)
            _publish(unpacked, folder)
    except OSError as error:
        raise DataError(f"Fashion-MNIST cannot be unpacked into {folder} ({error}); {_ways(folder)}") from error


def _download(scratch: Path, folder: Path) -> None:
    # As root, apt downloads as the user _apt, who has to reach this folder.
    scratch.chmod(0o755)
    try:
        _call(["apt-get", "download", PACKAGE], cwd=scratch, folder=folder)
    except DataError:
        # Fresh containers have no package lists; lists of our own need no root.
        (scratch / "lists" / "partial").mkdir(parents=True)
        apt = ["apt-get", "-o", f"Dir::State::lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
        _call([*apt, "update"], cwd=scratch, folder=folder)
        _call([*apt, "download", PACKAGE], cwd=scratch, folder=folder)


def _publish(unpacked: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in SHA256:
        (unpacked / name).replace(folder / name)


def _call(command: list[str], *, cwd: Path, folder: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataError(f"`{' '.join(command)}` failed ({done.stderr.strip()}); {_ways(folder)}")


def _ways(folder: Path) -> str:
    named = f" and unset {FOLDER_VARIABLE}" if os.environ.get(FOLDER_VARIABLE) else ""
    return (
        f"either install the Debian package (`apt-get update && apt-get install {PACKAGE}`){named}, "
        f"or put the official files ({', '.join(SHA256)}) of https://github.com/zalandoresearch/fashion-mnist "
        f"into {folder}; they are checked against pinned SHA-256 digests"
    )
