"""What all formats have in common: refusals, the same bytes each time, nothing left behind, bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.artifact_files import list_files
from edgebuild.errors import EnvironmentGap, ReleaseError, UsageError
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.exporting.payload import UNSIGNED
from edgebuild.releasing.exporting.table import FORMATS

from .samples import artifact_files, bundle_of, exported, said

if TYPE_CHECKING:
    from pathlib import Path

FILES = artifact_files({"model.onnx": b"model"})


def bytes_of(path: Path) -> Any:
    return path.read_bytes() if path.is_file() else list_files(path)


@pytest.mark.parametrize("to", FORMATS)
def test_equal_releases_give_equal_bytes(to: str, tmp_path: Path) -> None:
    first = bundle_of(tmp_path / "first", files=FILES)
    second = bundle_of(tmp_path / "second", files=FILES)
    for path in second.rglob("*"):
        os.utime(path, (1, 1))
    exported(first, to, tmp_path / "a" / "out")
    exported(second, to, tmp_path / "b" / "out")
    assert bytes_of(tmp_path / "a/out") == bytes_of(tmp_path / "b/out")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_changed_bundle_is_refused_and_nothing_is_left(to: str, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", files=FILES)
    blob = read_bundle(bundle).targets[0].files()["artifact/model.onnx"]
    (bundle / "blobs/sha256" / blob.sha256).write_bytes(b"Model")
    (tmp_path / "there").mkdir()
    with pytest.raises(ReleaseError, match="was changed"):
        exported(bundle, to, tmp_path / "there/out")
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_there_isnt_replaced(to: str, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", files=FILES)
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is there already"):
        exported(bundle, to, tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("rauc", {}, "no format that releases are exported to"),
        ("mender", {"name": 'a"b'}, "can't be the name"),
        ("mender", {"name": "a b"}, "can't be the name"),
        ("mender", {"name": "a/../b"}, "can't be the name"),
        ("triton", {"name": ".."}, "can't be the name"),
        ("mender", {"device_type": "a\nb"}, "can't be the device type"),
        ("swupdate", {"device_type": "9"}, "can't have a board called"),
        ("swupdate", {"device_type": "a.b"}, "can't have a board called"),
        ("swupdate", {"device_type": "files"}, "can't have a board called"),
        ("mender", {"dest": "/"}, "can't be the folder"),
        ("mender", {"dest": "/data"}, "can't be the folder"),
        ("mender", {"dest": "/data/../etc"}, "can't be the folder"),
        ("mender", {"dest": "data/doors"}, "can't be the folder"),
        ("mender", {"dest": "doors"}, "can't be the folder"),
        ("mender", {"dest": "/usr/lib/doors"}, "can't be the folder"),
        ("mender", {"dest": "/home/pi"}, "can't be the folder"),
        ("mender", {"dest": "/data/doors/"}, "can't be the folder"),
        ("mender", {"dest": "/data/a b"}, "can't be the folder"),
        ("mender", {"dest": "/data/$(reboot)"}, "can't be the folder"),
        ("swupdate", {"dest": '/data/a"; x = "'}, "can't be the folder"),
        ("triton", {"dest": "/data/doors"}, "--dest says nothing to triton"),
        ("triton", {"whole": True}, "--whole says nothing to triton"),
    ],
)  # fmt: skip
def test_words_that_a_format_cant_have_are_refused(
    to: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path / "bundle", files=FILES)
    with pytest.raises(UsageError, match=message) as caught:
        exported(bundle, to, tmp_path / "out", **options)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_hostile_names_of_a_bundle_are_refused(to: str, tmp_path: Path) -> None:
    from tests.releasing.board.bundles import Maker, tiny_files

    project = '../x"; }'
    Maker({"pi": ({**tiny_files(), **FILES}, said(project=project))}).make(tmp_path / "bundle")
    with pytest.raises(ReleaseError, match="as no release does"):
        exported(tmp_path / "bundle", to, tmp_path / "out", name="doors")


@pytest.mark.parametrize("to", ["mender", "swupdate"])
def test_a_hostile_version_is_refused(to: str, tmp_path: Path) -> None:
    from tests.releasing.board.bundles import Maker, tiny_files

    Maker({"pi": (tiny_files(), said(version='1"; x = "'))}).make(tmp_path / "bundle")
    with pytest.raises(ReleaseError, match="as no release does"):
        exported(tmp_path / "bundle", to, tmp_path / "out")


def test_a_place_that_cant_be_written_is_said(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentGap, match="can't be written"):
        exported(bundle, "mender", tmp_path / "file" / "out")


def test_one_target_of_several_leaves_the_others_and_the_signature_over_all(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", "jetson", "pi", signed=True)
    assert UNSIGNED in exported(bundle, "mender", tmp_path / "one.mender", "pi")
    assert UNSIGNED not in exported(bundle, "mender", tmp_path / "whole.mender", "pi", whole=True)
    with pytest.raises(ReleaseError, match="is for several targets"):
        exported(bundle, "mender", tmp_path / "none.mender")


_MEASURED = """
import resource, sys
from pathlib import Path
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.exporting.table import export
from edgebuild.releasing.exporting.values import Wish
import numpy
read = read_bundle(Path(sys.argv[1]))
wish = Wish(bundle=read, part=read.targets[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(wish, sys.argv[2], Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("to", FORMATS)
def test_large_files_are_streamed(to: str, tmp_path: Path) -> None:
    size = 96 << 20
    bundle = bundle_of(tmp_path / "bundle", files=artifact_files({"model.onnx": bytes(size)}))
    words = [sys.executable, "-c", _MEASURED, str(bundle), to, str(tmp_path / "out")]
    grown_kib = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 24 << 10, "KiB more than before"
    assert (tmp_path / "out").is_dir() or (tmp_path / "out").stat().st_size > size
