"""The C++ loader, built here: it passes golden vectors in both runtimes, and opens only what is as it was made."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.artifact import Artifact
from edgebuild.core.artifact_files import list_files, read_artifact
from edgebuild.core.values import canonical_json
from tests.backends.nets import Bench, data_folder
from tests.backends.test_running import recurrent

from .loader import MARKS, manifest, mutant, opened, refused, say, seal, ship

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = MARKS
#: Of each of the two documents.
MUTANTS = 150


def test_an_installed_release_passes_its_golden_vectors(golden: Path, installed: Path) -> None:
    code, said = opened(golden, installed / "current")
    assert code == 0, said
    assert said.startswith("tiny 1.0 for quick in o")
    assert "off by 0 of what is allowed" in said


def test_a_wrong_answer_is_seen(golden: Path, slot: Path) -> None:
    path = slot / "golden" / "outputs" / "logits.npy"
    np.save(path, np.load(path) * np.float32(1.1))
    code, said = opened(golden, slot)
    assert (code, "answers wrong" in said) == (7, True), said


def test_a_flipped_byte_anywhere_is_refused(golden: Path, root: Path) -> None:
    current = (root / "current").resolve()
    paths = [current / "release.json", current.with_suffix(".json"), *sorted((current / "artifact").iterdir())]
    generator = random.Random(0)
    for path in paths:
        data = path.read_bytes()
        for at in (0, len(data) - 1, *(generator.randrange(len(data)) for _ in range(4))):
            path.chmod(0o644)
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << generator.randrange(8)]) + data[at + 1 :])
            assert " can't " not in refused(golden, root / "current")
        path.write_bytes(data)
    assert opened(golden, root / "current")[0] == 0


def test_the_seal_and_the_release_cover_an_artifact_without_a_manifest_of_a_slot(golden: Path, slot: Path) -> None:
    generator = random.Random(1)
    for path in sorted((slot / "artifact").iterdir()):
        data = path.read_bytes()
        path.chmod(0o644)
        for at in (0, len(data) - 1, *(generator.randrange(len(data)) for _ in range(12))):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << generator.randrange(8)]) + data[at + 1 :])
            assert " can't " not in refused(golden, slot)
        path.write_bytes(data)
    assert opened(golden, slot)[0] == 0
    said = (slot / "release.json").read_bytes()
    seal(slot, {**manifest(slot), "settings": [["threads", 2]]})
    assert opened(golden, slot)[0] == 0
    (slot / "release.json").write_bytes(said)
    assert "artifact.json isn't that of the release" in refused(golden, slot)


LOADS: dict[str, list[dict[str, Any]]] = {
    "onnxruntime": [{"load": [[key, True]]} for key in ("optimized", "bf16", "unpack")]
    + [{"load": [["disabled", "GeluFusionL1,ConvActivationFusion"]]}],
    "openvino": [{"precision": {"kind": kind}} for kind in ("int8-storage", "fp32")]
    + [{"precision": {"kind": "fp16", "fp16": "storage"}}],
}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "onnxruntime": [{}, {"arena": False, "requests": 2, "spinning": True, "threads": 2}],
    "openvino": [
        {},
        {"hint": "throughput", "pinning": True, "streams": 2, "threads": 2},
        {"inference_precision": "f32"},
    ],
}


def test_every_way_to_load_and_every_setting_is_taken(golden: Path, slot: Path) -> None:
    fields = manifest(slot)
    for changes in LOADS[fields["backend"]]:
        seal(slot, {**fields, **changes})
        assert opened(golden, slot)[0] == 0, changes
    path = slot / "release.json"
    said = json.loads(path.read_bytes())
    for settings in SETTINGS[fields["backend"]]:
        path.write_text(canonical_json({**said, "settings": settings}))
        assert opened(golden, slot)[0] == 0, settings


def test_files_that_come_go_or_turn_into_links_are_refused(golden: Path, root: Path) -> None:
    current = (root / "current").resolve()
    extra = current / "artifact" / "extra.bin"
    extra.write_bytes(b"x")
    assert "is none of the release's files" in refused(golden, root / "current")
    extra.unlink()
    extra.symlink_to("/etc/hostname")
    assert "a link or a special file" in refused(golden, root / "current")
    extra.unlink()
    os.mkfifo(extra)
    assert "a link or a special file" in refused(golden, root / "current")
    extra.unlink()
    current.with_suffix(".json").unlink()
    assert "can't be read: No such file" in refused(golden, root / "current")
    assert "is no installed release" in refused(golden, root / "nothing")


def test_another_device_is_refused_with_all_that_differs_before_anything_is_opened(golden: Path, slot: Path) -> None:
    fields = manifest(slot)
    (slot / "artifact" / fields["entry"]).write_bytes(b"no runtime opens this")
    files = {entry.path: entry.model_dump() for entry in list_files(slot / "artifact")}
    seal(slot, {**fields, "files": [files[each["path"]] for each in fields["files"]]})
    # OpenVINO tries all formats that it knows, and doesn't free all that this took.
    assert f"can't {'load' if fields['backend'] == 'onnxruntime' else 'read'}" in opened(golden, slot, leaks=0)[1]
    say(slot, requires={"runtime_version": "0.1"})
    assert f"{fields['backend']} must be 0.1, it is " in refused(golden, slot)
    say(slot, requires={"architecture": "riscv64", "isa": ["avx9"], "facts": {"l4t": "36.4"}, "memory_bytes": 1 << 62})
    said = refused(golden, slot)
    assert "architecture must be riscv64" in said
    assert "the CPU lacks avx9" in said
    assert "l4t must be 36.4, which this loader can't look up" in said
    assert "MB of memory are needed" in said


def test_what_it_does_not_do_is_refused_with_a_sentence(golden: Path, slot: Path) -> None:
    fields = manifest(slot)
    for changes, why in (
        ({"load": [["weights", "other"], ["weights_bytes", 1]]}, "wrong weights"),
        ({"load": [["weights", fields["entry"]]]}, "wrong weights_bytes"),
        ({"load": [["weights", fields["entry"]], ["weights_bytes", 1]]}, "is larger than any that is written"),
        ({"load": [["weights", fields["entry"]], ["weights_bytes", 1 << 30]]}, "it is no weights file"),
        ({"load": [["libraries", fields["entry"]]]}, "brings native code"),
        ({"load": [["later", True]]}, "has the setting later, which this loader doesn't know"),
        ({"stages": [{"exit": None, "folder": "a"}]}, "wrong stage"),
        ({"backend": "tensorrt"}, "wrong runtime"),
    ):
        seal(slot, {**fields, **changes})
        assert why in refused(golden, slot)
    seal(slot, {**fields, "backend": "tensorrt"})
    say(slot, requires={"runtime": "tensorrt"})
    assert "was built without it" in refused(golden, slot)
    seal(slot, fields)
    say(slot, requires={"runtime": fields["backend"]}, settings={"threads": -1})
    assert "no count that a runtime takes" in refused(golden, slot)


@pytest.mark.parametrize("batch", [1, 2])
def test_state_and_constants_are_fed(golden: Path, slot: Path, tmp_path: Path, batch: int) -> None:
    bench = Bench.open(tmp_path)
    net, contract = recurrent(batch)
    name = json.loads((slot / "release.json").read_bytes())["requires"]["runtime"]
    artifact = bench.compile(name, net, contract)
    frames = np.random.default_rng(3).standard_normal((9, 3)).astype(np.float32)
    inputs = data_folder(tmp_path / "inputs", {"x:0": frames}, [4, 2, 3])
    ship(slot, artifact, inputs, bench.evaluate(artifact, inputs)[0])
    assert opened(golden, slot)[0] == 0
    np.save(slot / "golden" / "inputs" / "lengths.npy", np.array([9], dtype=np.int64))
    assert "answers wrong" in opened(golden, slot)[1]


def test_hostile_documents_end_in_a_sentence(golden: Path, slot: Path) -> None:
    generator = random.Random(7)
    said, whole = manifest(slot), json.loads((slot / "release.json").read_bytes())
    constant = {"name": "gain", "dtype": "int8", "shape": [2, 2], "value": [1, 2]}
    state = {
        "state": [{"input": "h", "output": "logits"}],
        "state_specs": [{**said["contract"]["inputs"][0], "name": "h"}],
    }
    richer = {**said, "contract": {**said["contract"], **state, "constants": [constant]}}
    codes = []
    for turn in range(MUTANTS):
        (slot / "release.json").write_text(canonical_json(whole))
        seal(slot, mutant(richer if turn % 2 else said, generator))
        codes.append(opened(golden, slot))
    seal(slot, said)
    for _ in range(MUTANTS):
        (slot / "release.json").write_text(json.dumps(mutant(whole, generator)))
        codes.append(opened(golden, slot))
    sentences = [text for code, text in codes if code == 7]
    assert all(text.count("\n") == 1 for text in sentences)
    assert len(sentences) > MUTANTS


ZEROS = b'{"sha256":"' + b"0" * 64
ODD_BYTES = (
    b"", b"{", b"[]", b"null", b"[" * 100000, b'{"a":' * 100000, b"\xff\xfe", b'{"a":1,"a":2}', b'{"sha256":"', ZEROS,
    ZEROS + b'"', ZEROS + b'"}', b'{"\\',
)  # fmt: skip


def test_hostile_bytes_end_in_a_sentence(golden: Path, slot: Path) -> None:
    generator = random.Random(8)
    for name in ("release.json", "artifact/artifact.json"):
        path = slot / name
        data = path.read_bytes()
        odd = [*ODD_BYTES, *(data[: generator.randrange(len(data))] for _ in range(10))]
        for each in odd:
            path.write_bytes(each)
            refused(golden, slot)
        path.write_bytes(data)
    assert opened(golden, slot)[0] == 0
    assert isinstance(read_artifact(slot / "artifact"), Artifact)
