"""Building the C++ loader, running its example, and changing what an installed release says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.artifact_files import SEAL, read_artifact, write_manifest
from edgebuild.core.values import canonical_json, digest_bytes
from tests import needs

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

SOURCES = Path(__file__).resolve().parents[3] / "cpp"
RUNTIMES = ("onnxruntime", "openvino")
#: OpenVINO's threads load a library in a way that AddressSanitizer refuses, unless they are told of it.
SANITIZERS = {"UBSAN_OPTIONS": "print_stacktrace=1", "TBB_ENABLE_SANITIZERS": "1"}


def header_folder() -> Path | None:
    """Return where ONNX Runtime's header is: its wheel has none."""
    given = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    places = [Path(given)] if given else [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]
    return next((place for place in places if (place / "onnxruntime_c_api.h").is_file()), None)


def debian_header(path: str, package: str) -> needs.Need | None:
    return None if any(Path("/usr/include").glob(path)) else needs.Need(Path(path).name, "apt", package)


def header_need() -> needs.Need | None:
    where = "https://github.com/microsoft/onnxruntime"
    return None if header_folder() else needs.Need("onnxruntime_c_api.h", "git", where)


MARKS = [
    pytest.mark.proof,
    needs.marked(
        needs.program("g++", "g++"),
        needs.program("cmake", "cmake"),
        debian_header("nlohmann/json.hpp", "nlohmann-json3-dev"),
        debian_header("openssl/evp.h", "libssl-dev"),
        needs.module("openvino", "openvino"),
        header_need(),
    ),
]


def build_example(folder: Path) -> Path:
    """Build the example program with both runtimes and, where the compiler has them, sanitizers."""
    packages = {name: Path(str(spec.origin)).parent for name in RUNTIMES if (spec := find_spec(name))}
    (library,) = (packages["onnxruntime"] / "capi").glob("libonnxruntime.so.*")
    # What it calls itself, and is looked for by; the wheel has no such file.
    (folder / "libonnxruntime.so.1").symlink_to(library)
    (folder / "probe.cpp").write_text("int main() { return 0; }\n")
    flags = ["g++", "-fsanitize=address,undefined", str(folder / "probe.cpp"), "-o", str(folder / "probe")]
    sanitized = subprocess.run(flags, check=False, capture_output=True).returncode == 0
    words = [
        f"-DONNXRUNTIME_INCLUDE_DIR={header_folder()}",
        f"-DONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so.1'}",
        f"-DOpenVINO_DIR={packages['openvino'] / 'cmake'}",
        f"-DEDGEBUILD_SANITIZE={'ON' if sanitized else 'OFF'}",
    ]
    for command in (["cmake", "-S", str(SOURCES), "-B", str(folder / "build"), *words], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "golden"


def opened(golden: Path, folder: Path, leaks: int = 1) -> tuple[int, str]:
    """Return the exit code and what was said; whatever a sanitizer finds fails."""
    env = {**os.environ, **SANITIZERS, "ASAN_OPTIONS": f"detect_leaks={leaks}"}
    done = subprocess.run([str(golden), str(folder)], check=False, capture_output=True, env=env, timeout=120)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode in (0, 7), said
    assert "Sanitizer" not in said, said
    assert "runtime error" not in said, said
    return done.returncode, said


def refused(golden: Path, folder: Path) -> str:
    code, said = opened(golden, folder)
    assert code == 7, said
    assert said.count("\n") == 1, said
    return said.strip()


def say(slot: Path, **changes: Any) -> None:
    """Change release.json; a dict changes fields of a field."""
    path = slot / "release.json"
    fields = json.loads(path.read_bytes())
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    path.write_text(canonical_json(fields))


def seal(slot: Path, fields: dict[str, Any]) -> None:
    """Write artifact.json with its seal, and let release.json name it."""
    fields = {name: value for name, value in fields.items() if name != SEAL}
    digest = digest_bytes(canonical_json(fields).encode())
    (slot / "artifact" / "artifact.json").write_text(canonical_json({**fields, SEAL: digest}) + "\n")
    say(slot, artifact_digest=digest)


def manifest(slot: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((slot / "artifact" / "artifact.json").read_bytes())
    return fields


def ship(slot: Path, artifact: Path, inputs: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Let a release hold another artifact, and as golden vectors what it answered to the data in ``inputs``."""
    for name in ("artifact", "golden"):
        shutil.rmtree(slot / name)
    shutil.copytree(inputs, slot / "golden" / "inputs")
    (slot / "golden" / "outputs").mkdir()
    for output, array in outputs.items():
        np.save(slot / "golden" / "outputs" / f"{output}.npy", array)
    described = [{"name": output, "file": f"{output}.npy", "rtol": 1e-5, "atol": 1e-6} for output in outputs]
    frames = len(next(iter(outputs.values())))
    (slot / "golden" / "golden.json").write_text(json.dumps({"frames": frames, "outputs": described}))
    shutil.copytree(artifact, slot / "artifact")
    write_manifest(slot / "artifact", read_artifact(artifact).with_settings((("threads", 1),)))
    seal(slot, manifest(slot))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a document: a list or an object, and an index or a name."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 63, (1 << 64) - 1, 1 << 70, 1e308, -0.5, "", "..", "../../etc/passwd", "é\u0000",
    "x" * 70000, [], {}, [[]], [-1], [1 << 40, 1 << 40], {"": {}},
)  # fmt: skip


def mutant(fields: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    """Return the document with one to three of its places changed, gone or doubled."""
    fields = json.loads(json.dumps(fields))
    for _ in range(generator.randint(1, 3)):
        holder, key = generator.choice(list(places(fields)))
        how = generator.random()
        if how < 0.15:
            del holder[key]
        elif how < 0.3 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = deepcopy(generator.choice(ODD))
    return fields
