"""Releases to export, and an export with little to say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import Artifact, Contract, FileEntry, Precision, TensorSpec
from edgebuild.core.artifact_files import artifact_text
from edgebuild.core.values import digest_bytes
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.exporting.table import export
from edgebuild.releasing.exporting.values import Wish
from edgebuild.releasing.unpack import part_of
from tests.releasing.board.bundles import HERE, Maker, make_key, tiny_files
from tests.releasing.bundles import files_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TENSORS = (TensorSpec(name="x", shape=(1, 3), dtype="float32"),)
CONTRACT = Contract(inputs=TENSORS, outputs=TENSORS)


def said(target: str = "pi", **changes: Any) -> dict[str, Any]:
    """What a whole release.json says, of this machine."""
    return {**json.loads(files_of(target)["release.json"]), "requires": HERE, **changes}


def bundle_of(folder: Path, *targets: str, files: Mapping[str, bytes] | None = None, signed: bool = False) -> Path:
    """Write a bundle; ``signed`` by a new key ``team`` beside it, over the index and over the files."""
    keys = [make_key(folder.parent, "team")] if signed else []
    parts = {each: ({**tiny_files(), **(files or {})}, said(each)) for each in targets or ("pi",)}
    return Maker(parts, by=keys, files_by=keys).make(folder)


def artifact_files(
    files: Mapping[str, bytes], *, backend: str = "onnxruntime", entry: str = "model.onnx", **changes: Any
) -> dict[str, bytes]:
    """Return the files of an artifact, as a release has them."""
    entries = (FileEntry(path=path, sha256=digest_bytes(data), size_bytes=len(data)) for path, data in files.items())
    artifact = Artifact(
        backend=backend,
        entry=entry,
        files=tuple(entries),
        precision=Precision(kind="fp32"),
        **{"contract": CONTRACT, **changes},
    )
    whole = {f"artifact/{path}": data for path, data in files.items()}
    return {**whole, "artifact/artifact.json": artifact_text(artifact).encode()}


def wish_of(bundle: Path, target: str | None = None, **options: Any) -> Wish:
    read = read_bundle(bundle)
    return Wish(bundle=read, part=part_of(read, target), **options)


def exported(bundle: Path, to: str, out: Path, target: str | None = None, **options: Any) -> tuple[str, ...]:
    return export(wish_of(bundle, target, **options), to, out)
