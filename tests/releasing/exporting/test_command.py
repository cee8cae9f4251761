"""`edgebuild release export`, as a user calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.example import run

from .samples import artifact_files, bundle_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundle_of(tmp_path / "bundle", "jetson", "pi", files=artifact_files({"model.onnx": b"model"}), signed=True)


@pytest.mark.parametrize(
    ("to", "says"),
    [("mender", "--whole keeps them"), ("swupdate", "It isn't signed"), ("triton", "the artifact that was measured")],
)
def test_a_target_is_exported(to: str, says: str, bundle: Path, tmp_path: Path) -> None:
    ended = run("release", "export", str(bundle), "--to", to, "--target", "pi", "--out", "out", cwd=tmp_path)
    assert ended.code == 0, ended
    assert "doors 1.4.0 for pi: out" in ended.out
    assert says in " ".join(ended.out.split())
    assert (tmp_path / "out").exists()


def test_what_cant_be_is_refused(bundle: Path, tmp_path: Path) -> None:
    ended = run("release", "export", str(bundle), "--to", "rauc", "--target", "pi", "--out", "out", cwd=tmp_path)
    assert ended.code == 2
    assert "mender, swupdate, triton" in ended.err
    ended = run("release", "export", str(bundle), "--to", "mender", "--out", "out", cwd=tmp_path)
    assert ended.code == 7
    assert "jetson, pi" in ended.err
    assert not (tmp_path / "out").exists()
