"""Push, pull and apply, killed at random moments: what is there afterwards is whole or absent, and goes on."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import ReleaseError
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.delta import apply, delta
from edgebuild.releasing.pull import pull
from edgebuild.releasing.push import push
from tests import needs
from tests.releasing.registries.bundles import make_bundle, sbom, tree
from tests.releasing.registries.servers import real_registry

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.proof, needs.marked(needs.program("docker-registry", "docker-registry"))]
KILLS = 40
IMPORTS = (
    "import sys, pathlib; P = pathlib.Path; from edgebuild.releasing.push import push;"
    "from edgebuild.releasing.pull import pull; from edgebuild.releasing.delta import apply, _WORTH;"
    "from edgebuild.releasing.delta_plan import _zstd; _zstd(); import urllib3, urllib3.exceptions, urllib3.util;"
    "print('go', flush=True); sys.stdin.readline();"
)


def killed(code: str, seconds: float, folder: Path) -> bool:
    """Run code and kill it after a while; whether it was still at work then."""
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS + code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    process.stdin.write(b"\n")
    process.stdin.flush()
    time.sleep(seconds)
    process.kill()
    at_work = process.wait() != 0
    process.stdin.close()
    process.stdout.close()
    return at_work


def bundle(folder: Path, seed: int, version: str) -> Path:
    source = random.Random(seed)
    files = {f"artifact/{at}.bin": source.randbytes(3_000_000) for at in range(4)}
    return make_bundle(folder, {"pi": {**files, "sbom.cdx.json": sbom(onnxruntime="1.32.0")}}, version=version)


def test_pull_and_push(tmp_path: Path) -> None:
    made, source = bundle(tmp_path / "made", 1, "1.0"), random.Random(7)
    at_work = 0
    with real_registry(tmp_path / "registry") as registry:
        for at in range(KILLS):
            name = f"{registry.host}/doors{at}"
            at_work += killed(f"push(P('made'), '{name}')", source.uniform(0, 0.12), tmp_path)
            try:
                pull(f"{name}:1.0", tmp_path / f"early{at}")
            except ReleaseError as error:
                assert "There is no release" in error.message  # noqa: PT017
            else:
                assert tree(tmp_path / f"early{at}") == tree(made)
            push(made, name)
            at_work += killed(f"pull('{name}:1.0', P('pulled{at}'))", source.uniform(0, 0.12), tmp_path)
            if not (tmp_path / f"pulled{at}").exists():
                pull(f"{name}:1.0", tmp_path / f"pulled{at}")
            assert tree(tmp_path / f"pulled{at}") == tree(made)
            for path in tmp_path.glob("*pulled*"):
                shutil.rmtree(path)
            for path in tmp_path.glob("early*"):
                shutil.rmtree(path)
            assert not list(tmp_path.glob(".pulled*"))
    assert at_work > KILLS // 4


def test_apply(tmp_path: Path) -> None:
    old, source = bundle(tmp_path / "old", 1, "1.0"), random.Random(8)
    new = make_bundle(
        tmp_path / "new",
        {"pi": {f"artifact/{at}.bin": changed(old, at) for at in range(4)}},
        version="2.0",
    )
    assert delta(old, new, tmp_path / "delta").patched_bytes == 12_000_000
    at_work = 0
    for at in range(KILLS):
        out = tmp_path / f"out{at}"
        at_work += killed(f"apply(P('old'), P('delta'), P('out{at}'))", source.uniform(0, 0.12), tmp_path)
        if not out.exists():
            apply(old, tmp_path / "delta", out)
        assert tree(out) == tree(new)
        read_bundle(old).check_all()
        shutil.rmtree(out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert at_work > KILLS // 4


def changed(old: Path, at: int) -> bytes:
    part = read_bundle(old).targets[0]
    data = read_bundle(old).layout.read(part.files()[f"artifact/{at}.bin"])
    return data[:1000] + bytes(2000) + data[3000:]
