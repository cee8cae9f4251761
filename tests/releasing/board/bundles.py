"""Release bundles for tests: a tiny classifier with its real runner, or no runner at all, and keys of openssl's."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from edgebuild.backends.table import TABLE
from edgebuild.core.artifact import Artifact, Contract, Precision, TensorSpec
from edgebuild.core.artifact_files import artifact_text, list_files, write_manifest
from edgebuild.core.values import canonical_json, digest_bytes
from edgebuild.devices.bundle import build_bundle
from edgebuild.releasing.board.reading import artifact_digest
from edgebuild.releasing.layout import (
    EMPTY,
    EMPTY_TYPE,
    Descriptor,
    Index,
    LayoutWriter,
    Manifest,
    Platform,
)
from tests.cli.example import CLASSES, SHAPE, classifier, classifier_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MODEL = "application/vnd.cncf.model."
SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "https://in-toto.io/Statement/v1"
FRAMES = 4
FILES = {backend.name: backend.device_file for backend in TABLE if backend.name == "onnxruntime"}
HERE = {
    "architecture": os.uname().machine,
    "os": "linux",
    "isa": [],
    "runtime": "onnxruntime",
    "runtime_version": onnxruntime.__version__,
    "memory_bytes": 1 << 20,
    "facts": {},
}


@dataclass(frozen=True)
class Key:
    """A key pair in files, and what it signs with."""

    private: Path
    public: Path
    hash: str

    @property
    def hint(self) -> str:
        return digest_bytes(self.public.read_bytes())

    def sign(self, message: bytes) -> bytes:
        text, made = self.private.with_suffix(".text"), self.private.with_suffix(".sig")
        text.write_bytes(message)
        words = ["pkeyutl", "-sign", "-inkey", str(self.private), "-rawin", "-in", str(text), "-out", str(made)]
        if self.hash:
            words = ["dgst", f"-{self.hash}", "-sign", str(self.private), "-out", str(made), str(text)]
        openssl(*words)
        return made.read_bytes()


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


CURVES = {"P-256": "sha256", "P-384": "sha384", "P-521": "sha512"}


def make_key(folder: Path, name: str, kind: str = "P-256") -> Key:
    """Make a key: of one of the curves, or ED25519."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    options = ["-pkeyopt", f"ec_paramgen_curve:{kind}"] if kind in CURVES else []
    openssl("genpkey", "-algorithm", "EC" if options else kind, *options, "-out", str(private))
    openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return Key(private, public, CURVES.get(kind, ""))


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def release(**changes: Any) -> dict[str, Any]:
    """What release.json says."""
    latency = {"point_ms": 1.0, "low_ms": 0.0001, "high_ms": 10000.0}
    return {
        "schema_version": 1, "project": "doors", "version": "1.4.0", "target": "pi", "candidate": "fp32",
        "settings": {"threads": 1}, "artifact": "artifact", "requires": HERE, "latency": latency, **changes,
    }  # fmt: skip


def tiny_files() -> dict[str, bytes]:
    """The files of a target that nothing can run: for checks that run nothing."""
    return {
        "artifact/artifact.json": b"{}\n",
        "artifact/model.onnx": b"model",
        "golden/golden.json": canonical_json({"frames": 1, "outputs": []}).encode(),
        "runner.pyz": b"runner",
        "verify.py": b"#",
    }


def real_files(scratch: Path, *, bias: float = 0.0) -> dict[str, bytes]:
    """The files of a target that answers on this machine: with another bias, a model that answers otherwise."""
    folder = scratch / "artifact"
    folder.mkdir(parents=True)
    weights = classifier_weights()
    weights["c"] = weights["c"] + np.float32(bias)
    onnx.save(classifier(weights), str(folder / "model.onnx"))
    contract = Contract(
        inputs=(TensorSpec(name="image", shape=(1, *SHAPE), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=(1, CLASSES), dtype="float32"),),
    )
    artifact = Artifact(
        backend="onnxruntime", entry="model.onnx", files=list_files(folder), contract=contract,
        precision=Precision(kind="fp32"), settings=(("threads", 1),),
    )  # fmt: skip
    write_manifest(folder, artifact)
    images = np.random.default_rng(3).standard_normal((FRAMES, *SHAPE)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    golden = {"frames": FRAMES, "outputs": [{"name": "logits", "file": "logits.npy", "rtol": 1e-3, "atol": 1e-5}]}
    return {
        "artifact/artifact.json": artifact_text(artifact).encode(),
        "artifact/model.onnx": (folder / "model.onnx").read_bytes(),
        "golden/golden.json": canonical_json(golden).encode(),
        "golden/inputs/data.json": json.dumps({"frames": FRAMES, "samples": FRAMES}).encode(),
        "golden/inputs/image.npy": npy(images),
        "golden/inputs/lengths.npy": npy(np.ones(FRAMES, dtype=np.int64)),
        "golden/outputs/logits.npy": npy(logits),
        "runner.pyz": build_bundle(FILES),
        "verify.py": b"#",
    }


def media_type(path: str) -> str:
    kinds = {"golden/": "dataset", "runner.pyz": "code", "verify.py": "code"}
    if path in ("release.json", "artifact/artifact.json"):
        return f"{MODEL}weight.config.v1.raw"
    return f"{MODEL}{next((kind for start, kind in kinds.items() if path.startswith(start)), 'weight')}.v1.raw"


@dataclass(frozen=True)
class Maker:
    """Makes a bundle; every field is something that a hostile maker may change.

    ``targets`` holds the files of each target and what its release.json says; ``layers`` and ``index`` may change what
    is listed before it is written. ``by`` signs the release index, ``files_by`` the files of each target; ``forge``
    changes a signature.
    """

    targets: Mapping[str, tuple[Mapping[str, bytes], Mapping[str, Any]]]
    layers: Callable[[list[Descriptor]], Sequence[Descriptor]] = lambda layers: layers
    index: Callable[[Index], Index] = lambda index: index
    by: Sequence[Key] = ()
    files_by: Sequence[Key] = ()
    subject: str | None = None
    forge: Callable[[bytes], bytes] = lambda data: data

    def make(self, folder: Path) -> Path:
        writer = LayoutWriter(folder)
        described = [self._target(writer, name) for name in sorted(self.targets)]
        said = next(iter(self.targets.values()))[1]
        annotations = {
            "org.opencontainers.image.title": said["project"],
            "org.opencontainers.image.version": said["version"],
            "org.opencontainers.image.created": "2026-12-01T00:00:00Z",
        }
        top = writer.add_value(
            self.index(Index(manifests=tuple(described), annotations=annotations)),
            annotations={"org.opencontainers.image.ref.name": said["version"]},
        )
        plain = top.model_copy(update={"annotations": {}})
        statement = provenance(self.subject or top.sha256)
        signatures = [self._signature(writer, plain, envelope(key, statement)) for key in self.by]
        for name, target in zip(sorted(self.targets), described, strict=True):
            bare = target.model_copy(update={"annotations": {}, "platform": None})
            about = self._model_signing(name)
            signatures += [self._signature(writer, bare, envelope(key, about)) for key in self.files_by]
        writer.finish([top, *sorted(signatures, key=lambda each: each.digest)])
        return folder

    def _target(self, writer: LayoutWriter, name: str) -> Descriptor:
        said, whole = self.targets[name][1], self._files(name)
        layers = [
            writer.add(data, media_type(path), annotations={"org.cncf.model.filepath": path})
            for path, data in sorted(whole.items())
        ]
        config = writer.add(b"{}", f"{MODEL}config.v1+json")
        manifest = Manifest(artifactType=f"{MODEL}manifest.v1+json", config=config, layers=tuple(self.layers(layers)))
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(said["requires"]["architecture"], "riscv64")
        return writer.add_value(
            manifest,
            artifactType=manifest.artifactType,
            platform=Platform(architecture=machine, os=said["requires"]["os"]),
            annotations={"dev.edgebuild.target": name},
        )

    def _files(self, name: str) -> dict[str, bytes]:
        files, said = self.targets[name]
        digest = artifact_digest(files["artifact/artifact.json"])
        return {**files, "release.json": canonical_json({**said, "artifact_digest": digest}).encode()}

    def _model_signing(self, name: str) -> bytes:
        digests = {path: digest_bytes(data) for path, data in sorted(self._files(name).items())}
        root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
        predicate = {
            "resources": [{"name": p, "digest": d, "algorithm": "sha256"} for p, d in digests.items()],
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
        }
        return json.dumps(
            {
                "_type": STATEMENT,
                "subject": [{"name": name, "digest": {"sha256": root}}],
                "predicateType": "https://model_signing/signature/v1.0",
                "predicate": predicate,
            }
        ).encode()

    def _signature(self, writer: LayoutWriter, subject: Descriptor, data: bytes) -> Descriptor:
        manifest = Manifest(
            artifactType=SIGNATURE_TYPE,
            config=writer.add(EMPTY, EMPTY_TYPE),
            layers=(writer.add(self.forge(data), SIGNATURE_TYPE),),
            subject=subject,
        )
        return writer.add_value(manifest, artifactType=SIGNATURE_TYPE)


def provenance(sha256: str) -> bytes:
    return json.dumps(
        {
            "_type": STATEMENT,
            "subject": [{"name": "doors", "digest": {"sha256": sha256}}],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {},
        }
    ).encode()


def envelope(key: Key, statement: bytes) -> bytes:
    """A Sigstore bundle with a statement that is signed as DSSE says."""
    kind = "application/vnd.in-toto+json"
    made = key.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(statement), statement))
    signatures = [{"sig": base64.b64encode(made).decode(), "keyid": ""}]
    body = {"payload": base64.b64encode(statement).decode(), "payloadType": kind, "signatures": signatures}
    material = {"publicKey": {"hint": key.hint}, "tlogEntries": []}
    return json.dumps({"mediaType": SIGNATURE_TYPE, "verificationMaterial": material, "dsseEnvelope": body}).encode()


def tiny(folder: Path, **fields: Any) -> Path:
    """Make a small bundle that nothing can run."""
    return replace(Maker({"pi": (tiny_files(), release())}), **fields).make(folder)
