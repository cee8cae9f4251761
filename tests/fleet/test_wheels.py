"""Wheels are chosen by what the board's Python is, fetched once by the real pip, and held under their digests."""

from __future__ import annotations

import contextlib
import os
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from packaging.tags import cpython_tags
from packaging.utils import parse_wheel_filename

from edgebuild.core.checked_json import with_digest
from edgebuild.core.values import digest_file
from edgebuild.errors import DeviceError, EdgebuildError, EnvironmentGap
from edgebuild.fleet.wheels import (
    BoardPython,
    Lock,
    Wheel,
    _asked_for_there,
    _kept_lock,
    choose,
    places,
    platform_tags,
    unpacked_bytes,
)
from tests.devices.wheels import make_wheel
from tests.mutants import COUNTS, damaged, flipped

if TYPE_CHECKING:
    from pathlib import Path

MARKERS = {"python_version": "3.8", "sys_platform": "linux", "platform_machine": "aarch64"}
ANSWER = {
    "version": [3, 8],
    "implementation": "cpython",
    "bits": 64,
    "arch": "aarch64",
    "libc": "glibc 2.31",
    "free_bytes": 1,
    "markers": MARKERS,
}


def board(version: tuple[int, int] = (3, 11), arch: str = "aarch64", glibc: tuple[int, int] = (2, 36)) -> BoardPython:
    markers = {**MARKERS, "python_version": "{}.{}".format(*version), "platform_machine": arch}
    return BoardPython(
        version=version, arch=arch, glibc=glibc, markers=tuple(sorted(markers.items())), free_bytes=1 << 40
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in (("PIP_CONFIG_FILE", os.devnull), ("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder))):
        monkeypatch.setenv(name, value)
    return folder


def test_platforms_go_from_the_boards_glibc_down() -> None:
    jetpack5 = platform_tags("aarch64", (2, 31))
    assert jetpack5[0] == "manylinux_2_31_aarch64"
    assert {"manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64"} <= set(
        jetpack5
    )
    assert not {"manylinux_2_32_aarch64", "manylinux_2_16_aarch64", "manylinux1_aarch64"} & set(jetpack5)
    assert {"manylinux1_x86_64", "manylinux_2_5_x86_64"} <= set(platform_tags("x86_64", (2, 36)))
    assert platform_tags("aarch64", (3, 0)) == ("linux_aarch64",)


def test_they_are_those_of_the_packaging_library() -> None:
    (jetpack6,) = ({tag for tag in platform_tags("aarch64", (2, 35)) if "manylinux" in tag},)
    wheel = "numpy-2.2.6-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
    fits = set(cpython_tags((3, 10), platforms=sorted(jetpack6)))
    assert parse_wheel_filename(wheel)[3] <= fits


def test_what_a_board_says_of_its_python_is_read() -> None:
    python = BoardPython.parse(ANSWER, "pi")
    assert (python.version, python.arch, python.glibc) == ((3, 8), "aarch64", (2, 31))
    assert str(python) == "Python 3.8 on aarch64 with glibc 2.31"


@pytest.mark.parametrize(
    ("odd", "error"),
    [
        ({"libc": ""}, EnvironmentGap),
        ({"bits": 32}, EnvironmentGap),
        ({"implementation": "pypy"}, EnvironmentGap),
        ({"arch": "aarch64 --index-url x"}, EnvironmentGap),
        ({"version": ["3", "x; rm"]}, DeviceError),
        ({"version": 3}, DeviceError),
        ({"markers": [1]}, DeviceError),
        ({"free_bytes": None}, DeviceError),
    ],
)
def test_a_python_without_wheels_and_nonsense_are_one_sentence(
    odd: dict[str, Any], error: type[EdgebuildError]
) -> None:
    with pytest.raises(error, match="pi"):
        BoardPython.parse({**ANSWER, **odd}, "pi")


def test_wheels_come_for_the_boards_platform_and_are_kept(index: Path, tmp_path: Path) -> None:
    make_wheel(index, platform="manylinux_2_28_aarch64", requires=["toymath; platform_machine == 'aarch64'"])
    make_wheel(index, version="2.0", platform="manylinux_2_39_aarch64")
    make_wheel(index, version="3.0", platform="manylinux_2_28_x86_64")
    make_wheel(index, "toymath")
    cache = tmp_path / "cache"
    lock = choose(["toyrt"], board(), cache)
    assert [(wheel.name, wheel.version) for wheel in lock.wheels] == [("toymath", "1.0"), ("toyrt", "1.0")]
    assert [digest_file(path) for path in places(lock, cache)] == [wheel.sha256 for wheel in lock.wheels]
    assert all(unpacked_bytes(path) > 0 for path in places(lock, cache))
    assert not list(cache.glob(".fetching-*"))
    make_wheel(index, version="1.1")
    assert choose(["toyrt"], board(), cache) == lock


def test_a_wheel_that_is_gone_or_damaged_here_is_fetched_again(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    cache = tmp_path / "cache"
    (place,) = places(choose(["toyrt"], board(), cache), cache)
    place.write_bytes(b"damaged")
    (wheel,) = choose(["toyrt"], board(), cache).wheels
    assert digest_file(place) == wheel.sha256
    place.unlink()
    make_wheel(index, files={"toyrt/other.py": b""})
    with pytest.raises(EnvironmentGap, match=r"again: .*hash"):
        choose(["toyrt"], board(), cache)


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_lock_is_chosen_again(count: int, tmp_path: Path) -> None:
    lock = Lock(wheels=(Wheel(name="toyrt", version="1.0", file="toyrt-1.0.whl", sha256="a" * 64),))
    path = tmp_path / "lock.json"
    sound = with_digest(lock.model_dump(mode="json")).encode()
    for seed in range(count):
        bad = (flipped if seed % 2 else damaged)(sound, seed)
        path.write_bytes(bad)
        assert _kept_lock(path) == (lock if bad == sound else None), seed
    path.write_bytes(sound)
    assert _kept_lock(path) == lock


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_wheel_is_one_sentence(count: int, tmp_path: Path) -> None:
    sound = make_wheel(tmp_path, requires=["toymath; platform_machine == 'aarch64'"]).read_bytes()
    folder = tmp_path / "damaged"
    folder.mkdir()
    wheel = folder / "toyrt-1.0.whl"
    for seed in range(count):
        wheel.write_bytes(damaged(sound, seed))
        with contextlib.suppress(EnvironmentGap):
            unpacked_bytes(wheel)
        with contextlib.suppress(EnvironmentGap):
            _asked_for_there(folder, MARKERS)


@pytest.mark.parametrize(
    ("about", "wrong"),
    [
        (b"", "doesn't say what it is"),
        (b"Name: toyrt --index-url=x\nVersion: 1\n", "doesn't say what it is"),
        (b"Name: toyrt\nVersion: 1\nRequires-Dist: a b c\n", "can't be read"),
        (b"Name: toyrt\nVersion: 1\nX: " + b"x" * (17 << 20), "doesn't say what it is"),
    ],
    ids=["nothing", "an option", "a requirement", "too long"],
)
def test_a_wheel_that_says_nonsense_of_itself_is_one_sentence(about: bytes, wrong: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "toyrt-1.0.whl", "w") as archive:
        archive.writestr("toyrt-1.0.dist-info/METADATA", about)
    with pytest.raises(EnvironmentGap, match=wrong):
        _asked_for_there(tmp_path, MARKERS)


def test_a_wheel_that_swells_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(64 << 20))
    with pytest.raises(EnvironmentGap, match="more than any wheel does"):
        unpacked_bytes(tmp_path / "bomb.whl")


def test_what_killed_runs_left_is_removed_in_time(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    cache = tmp_path / "cache"
    for name in ("old", "new"):
        (cache / f".fetching-{name}").mkdir(parents=True)
    os.utime(cache / ".fetching-old", (0, 0))
    choose(["toyrt"], board(), cache)
    assert [path.name for path in cache.glob(".fetching-*")] == [".fetching-new"]


def test_what_no_index_has_is_one_sentence(index: Path, tmp_path: Path) -> None:
    make_wheel(index, platform="manylinux_2_28_x86_64")
    with pytest.raises(
        EnvironmentGap, match=r"pip finds no wheels of toyrt for Python 3\.11 on aarch64 with glibc 2\.36"
    ):
        choose(["toyrt"], board(), tmp_path / "cache")


def test_the_versions_that_are_here_are_preferred(index: Path, tmp_path: Path) -> None:
    from importlib.metadata import version

    here = version("pluggy")
    make_wheel(index, "pluggy", here)
    make_wheel(index, "pluggy", "999.0")
    assert [wheel.version for wheel in choose(["pluggy"], board(), tmp_path / "cache").wheels] == [here]
    (index / f"pluggy-{here}-py3-none-any.whl").unlink()
    assert [wheel.version for wheel in choose(["pluggy"], board(), tmp_path / "other").wheels] == ["999.0"]


@pytest.mark.proof
@pytest.mark.parametrize(
    ("version", "glibc"),
    [((3, 8), (2, 31)), ((3, 10), (2, 35)), ((3, 11), (2, 36)), ((3, 13), (2, 41))],
    ids=["jetpack-5", "jetpack-6", "raspberry-pi-os-12", "raspberry-pi-os-13"],
)
def test_onnxruntime_is_there_for_the_arm_boards(
    version: tuple[int, int], glibc: tuple[int, int], tmp_path: Path
) -> None:
    """From the package index itself, some tens of megabytes each."""
    lock = choose(["onnxruntime"], board(version, glibc=glibc), tmp_path)
    names = {wheel.name for wheel in lock.wheels}
    assert {"numpy", "onnxruntime"} <= names
    native = [wheel.file for wheel in lock.wheels if wheel.name in {"numpy", "onnxruntime"}]
    assert all(file.endswith("_aarch64.whl") for file in native)
