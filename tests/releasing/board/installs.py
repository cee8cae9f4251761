"""Installing releases on this machine, and asking what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from .bundles import HERE, Maker, release
from .script import verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .script import Ended


def bundle_of(folder: Path, files: Mapping[str, bytes], version: str = "1.4.0", **said: Any) -> Path:
    said = release(version=version, **said)
    return Maker({said["target"]: (files, said)}).make(folder / f"bundle-{version}")


def installed(tmp_path: Path, bundle: Path, *words: object) -> Ended:
    ended = verify(tmp_path, "install", bundle, "--root", tmp_path / "root", *words)
    assert ended.code == 0, ended
    return ended


def status(tmp_path: Path) -> Ended:
    return verify(tmp_path, "status", "--root", tmp_path / "root")


def version_of(tmp_path: Path, link: str = "current") -> str | None:
    found = status(tmp_path).report[link]
    return found and str(found["version"])


def assert_answers(root: Path) -> None:
    """The current release answers its golden vectors, here and now, opened by its path as a user does."""
    current = root / "current"
    session = onnxruntime.InferenceSession(str(current / "artifact/model.onnx"), providers=["CPUExecutionProvider"])
    images = np.load(current / "golden/inputs/image.npy")
    expected = np.load(current / "golden/outputs/logits.npy")
    answers = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    assert np.allclose(answers, expected, rtol=1e-3, atol=1e-4)


def versions(tmp_path: Path) -> list[str]:
    return sorted(each["version"] for each in status(tmp_path).report["releases"])


#: A runner of ours that answers from a file, and needs no runtime. Once the file TURNED is there it answers wrong.
PARROT = """
import hashlib, json, os, shutil, sys
request = json.loads(sys.stdin.readline())
if request["op"] == "probe":
    result = FACTS
else:
    os.makedirs(request["outputs"])
    turned = os.environ.get("TURNED", "")
    with open(os.environ["EXPECTED"], "rb") as file:
        data = file.read()
    data = data[:-16] + bytes(16) if os.path.exists(turned) else data
    if turned:
        open(turned, "w").close()
    with open(os.path.join(request["outputs"], "logits.npy"), "wb") as file:
        file.write(data)
    output = {"name": "logits", "file": "logits.npy", "size_bytes": len(data)}
    result = {"outputs": [{**output, "sha256": hashlib.sha256(data).hexdigest()}]}
print(json.dumps({"result": result}), flush=True)
"""


def answering_from(expected: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a target that answers from a file that ``EXPECTED`` names, at once."""
    expected.write_bytes(files["golden/outputs/logits.npy"])
    facts = {"arch": HERE["architecture"], "runtime": {"onnxruntime": HERE["runtime_version"]}, "isa": []}
    code = PARROT.replace("FACTS", repr({**facts, "memory_bytes": 1 << 40}))
    return {**files, "runner.pyz": code.encode()}
