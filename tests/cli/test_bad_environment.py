"""What this machine lacks: a runtime, room on the disk, permission to write, an undamaged store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

from .example import (
    PIPES,
    Ended,
    assert_as_before,
    command,
    environment,
    finished,
    record,
    refused,
    run,
    stored,
    told,
    toml,
    write_quick,
)


def hidden(*names: str) -> dict[str, str]:
    """An environment in which Python finds neither these packages nor that they are installed."""
    # The repository follows: packages of others, too, bring a top-level `tests`.
    path = os.pathsep.join([str(Path(__file__).with_name("hiding")), str(Path(__file__).parents[2])])
    return {"PYTHONPATH": path, "HIDDEN": " ".join(names)}


def test_the_only_runtime_is_not_installed(project: Path) -> None:
    write_quick(project, target='title = "OpenVINO alone"\nprofiles = ["intel-openvino"]\n')
    reason = "intel-openvino: openvino is not installed (pip install 'edgebuild[openvino]')"
    for words in ("plan", "build"):
        refused(
            project,
            words,
            code=6,
            message=f"Nothing can be built for quick: {reason}.",
            hint="`edgebuild doctor` says what this machine has and how to install the rest.",
            env=hidden("openvino"),
        )


def test_one_of_two_runtimes_is_not_installed(project: Path) -> None:
    ended = run("plan", "--target", "this-machine", cwd=project, env=hidden("openvino"), driver=False)
    assert ended.code == 0
    assert "openvino is not installed (pip install 'edgebuild[openvino]')" in " ".join(ended.out.split())
    assert "x86-onnx/fp32 (baseline)" in ended.out
    ended = run("doctor", cwd=project, env=hidden("openvino"), driver=False)
    assert ended.code == 0
    assert "pip install 'edgebuild[openvino]'" in " ".join(ended.out.split())


def test_what_the_reference_runs_in_is_not_installed(project: Path) -> None:
    refused(
        project,
        "build",
        code=6,
        message="onnxruntime is not installed.",
        hint="pip install 'edgebuild[onnxruntime]'",
        env=hidden("onnxruntime"),
    )


def test_torch_is_not_installed(project: Path) -> None:
    (project / "edgebuild.toml").write_text(toml({"model": 'factory = "net:build"'}))
    (project / "net.py").write_text("def build():\n    return None\n")
    refused(
        project,
        "build",
        code=6,
        message="torch is not installed.",
        hint="pip install 'edgebuild[torch]'",
        env=hidden("torch"),
    )


def flip_a_byte(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_result_is_made_again_and_explained(built: Path) -> None:
    root = built / ".edgebuild" / "store"
    before = stored(root)
    manifests = [json.loads(path.read_bytes())["manifest"] for path in (root / "entries").iterdir()]
    damaged = next(m for m in manifests if m["meta"]["label"] == "reference on validation")
    sha256 = next(file["sha256"] for file in damaged["files"] if file["path"].endswith(".npy"))
    flip_a_byte(root / "blobs" / sha256[:2] / sha256)

    ended = run("build", cwd=built)
    assert ended.code == 0, ended
    steps = {step["label"]: step for step in record(built)["steps"]}
    made = [label for label, step in steps.items() if not step["reused"]]
    assert made == ["reference on validation"]
    assert steps["reference on validation"]["why"] == "its stored result was damaged"
    after = stored(root)
    assert set(after) == set(before)  # the same results again, every content as its name says
    explained = run("explain", "quick/fp32", cwd=built)
    assert "ran: its stored result was damaged" in " ".join(explained.out.split())


# Disks, for real: a file system of its own in a mount namespace, where the machine allows that


needs_namespaces = pytest.mark.skipif(bool(needs.no_namespaces()), reason=needs.no_namespaces())


def run_mounted(mount: str, *args: str, cwd: Path, after: str = "true") -> Ended:
    """Run the command line after the shell commands ``mount``, in a namespace that ends with it."""
    script = f'set -e; {mount}; code=0; "$@" || code=$?; {after}; exit $code'
    process = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", script, "sh", *command(*args)],
        cwd=cwd,
        env=environment({"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}),
        **PIPES,
    )
    return finished(process)


MANY = """\
import numpy as np
from edgebuild import Sample

def calibration():
    return (Sample(inputs={"image": np.full((1, 8, 8), i, np.float32)}, target=0) for i in range(20_000))

def validation():
    return calibration()

def test():
    return calibration()
"""


@needs_namespaces
def test_a_full_disk(built: Path) -> None:
    root = built / ".edgebuild" / "store"
    before = stored(root)
    (built / "data.py").write_text(MANY)
    ended = run_mounted(
        "mv .edgebuild/store kept; mkdir .edgebuild/store; mount -t tmpfs -o size=3m tmpfs .edgebuild/store; "
        "cp -a kept/. .edgebuild/store",
        "build",
        cwd=built,
        after="cp -a .edgebuild/store after",
    )
    assert told(ended.err) == (
        f"edgebuild: the disk under the store {root} is full: read the calibration data failed\n"
        "  how to fix it: free some disk space, run `edgebuild store gc`, or put the store on another disk"
    )
    assert ended.code == 6
    assert_as_before(before, built / "after")


@needs_namespaces
def test_a_read_only_store_gives_what_it_has(built: Path) -> None:
    root = built / ".edgebuild" / "store"
    before = stored(root)
    read_only = "mount --bind .edgebuild/store .edgebuild/store; mount -o remount,ro,bind .edgebuild/store"
    ended = run_mounted(read_only, "build", cwd=built)
    assert ended.code == 0, ended
    assert all(step["reused"] for step in record(built)["steps"])

    (built / "data.py").write_text(MANY)
    ended = run_mounted(read_only, "build", cwd=built)
    assert told(ended.err) == (
        f"edgebuild: the store {root} is read-only: running read the calibration data isn't possible\n"
        "  how to fix it: make it writable for this user, or choose another store"
    )
    assert ended.code == 6
    assert_as_before(before, root)


@needs_namespaces
def test_a_read_only_project(built: Path) -> None:
    before = stored(built / ".edgebuild" / "store")
    ended = run_mounted("mount --bind . .; cd .; mount -o remount,ro,bind .; cd .", "build", cwd=built)
    home = built / ".edgebuild"
    assert told(ended.err) == (
        f"edgebuild: the store {home} can't be written: locking the project failed (Read-only file system)\n"
        "  how to fix it: make it writable for this user, or choose another store"
    )
    assert ended.code == 6
    assert_as_before(before, home / "store")


def test_a_place_for_the_store_that_holds_something_else(project: Path) -> None:
    (project / "edgebuild.toml").write_text(toml({"store": 'url = "stuff"'}))
    (project / "stuff").mkdir()
    (project / "stuff" / "letter.txt").write_text("dear diary")
    refused(
        project,
        "build",
        code=6,
        message=f"{project}/stuff isn't empty and isn't an edgebuild store",
        hint="choose an empty folder for the store",
    )
    assert sorted(path.name for path in (project / "stuff").iterdir()) == ["letter.txt"]
