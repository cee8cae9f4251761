"""Packages are put on a device whole, checked and loaded, or not at all: what was there stays until then."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.values import digest_file
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice, ProcessChannel
from edgebuild.devices.runner.packages import MAX_RECORD_BYTES
from edgebuild.errors import DeviceError, EdgebuildError, EnvironmentGap
from tests.devices.wheels import DEVICE, make_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping

SITE = "a" * 64
NEXT = "b" * 64


@pytest.fixture
def client(tmp_path: Path) -> RunnerClient:
    device_file = tmp_path / "device.py"
    device_file.write_text(DEVICE)
    return RunnerClient(LocalDevice(tmp_path / "board"), {"toy": device_file})


def request(client: RunnerClient, wheel: Path, *, site: str = SITE, **more: Any) -> Mapping[str, Any]:
    digest = digest_file(wheel)
    client.device.put(wheel, f"blobs/{digest}")
    wheels = [{"file": wheel.name, "sha256": digest}]
    return {"site": site, "wheels": wheels, "load": ["toy"], "unpacked_bytes": 1 << 20, **more}


def install(client: RunnerClient, wheel: Path, **more: Any) -> Path:
    answer = client.call("install", request(client, wheel, **more), time_limit_s=60.0)
    return Path(answer["path"])


def left(client: RunnerClient) -> list[str]:
    folder = Path(client.device.root) / "site"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def complete(client: RunnerClient, site: str = SITE) -> bool:
    answer = client.call("site", {"site": site, "wheels": []}, time_limit_s=60.0)
    return answer["complete"] is True


def test_a_wheel_is_unpacked_compiled_and_its_file_not_kept(client: RunnerClient, tmp_path: Path) -> None:
    files = {
        "toyrt-1.0.data/purelib/toyextra.py": b"x = 1\n",
        "toyrt-1.0.data/scripts/toy": b"#!python\n",
        "toyrt-1.0.data/headers/toy.h": b"\n",
    }
    assert not complete(client)
    folder = install(client, make_wheel(tmp_path / "wheels", files=files))
    assert folder == Path(client.device.root) / "site" / SITE
    assert (folder / "toyrt" / "__init__.py").read_text() == "__version__ = '1.0'\n"
    assert (folder / "toyextra.py").exists()
    assert not list(folder.rglob("toy.h")) + list(folder.rglob("scripts"))
    assert list((folder / "toyrt" / "__pycache__").iterdir())
    assert complete(client)
    assert not list((Path(client.device.root) / "blobs").iterdir())
    assert left(client) == [SITE]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"files": {"../escape.py": b""}}, "would leave its folder"),
        ({"files": {"/escape.py": b""}}, "would leave its folder"),
        ({"files": {"toyrt\\escape.py": b""}}, "would leave its folder"),
        ({"files": {"toyrt/link": b"/etc/passwd"}, "links": ["toyrt/link"]}, "is no plain file"),
        ({"unrecorded": ["toyrt/__init__.py"]}, "is not what its RECORD says"),
        ({"false": ["toyrt/__init__.py"]}, "is not what its RECORD says"),
        ({"lost": ["toyrt/gone.py"]}, "of its RECORD is missing"),
        ({"files": {"toyrt/large": bytes(2 << 20)}}, "holds more than the host counted"),
        ({"files": {"toyrt/__init__.py": b"import not_there\n"}}, "doesn't load on this device"),
    ],
    ids=["parent", "absolute", "backslash", "link", "unrecorded", "false", "lost", "large", "unloadable"],
)
def test_an_unsound_wheel_is_refused_and_what_was_there_stays(
    client: RunnerClient, tmp_path: Path, odd: dict[str, Any], said: str
) -> None:
    install(client, make_wheel(tmp_path / "sound"))
    with pytest.raises(EnvironmentGap, match=said):
        install(client, make_wheel(tmp_path / "odd", version="2.0", **odd), site=NEXT)
    assert left(client) == [SITE]
    assert complete(client)
    assert not list(tmp_path.rglob("escape.py"))


def test_a_file_that_is_no_zip_is_refused(client: RunnerClient, tmp_path: Path) -> None:
    (tmp_path / "odd.whl").write_bytes(b"PK no zip")
    with pytest.raises(EnvironmentGap, match=r"odd\.whl is no wheel"):
        install(client, tmp_path / "odd.whl")
    assert left(client) == []


def test_a_wheel_that_was_damaged_on_its_way_is_not_used_and_not_kept(client: RunnerClient, tmp_path: Path) -> None:
    asked = request(client, make_wheel(tmp_path))
    blob = next((Path(client.device.root) / "blobs").iterdir())
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.unlink()  # a link to the wheel here
    blob.write_bytes(data)
    with pytest.raises(DeviceError, match="damaged on its way"):
        client.call("install", asked, time_limit_s=60.0)
    assert not blob.exists()
    assert left(client) == []


def test_a_record_that_swells_without_end_is_not_read(client: RunnerClient, tmp_path: Path) -> None:
    """A few kilobytes of a wheel that become hundreds of megabytes."""
    wheel = tmp_path / "toyrt-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toyrt/__init__.py", "")
        with archive.open("toyrt-1.0.dist-info/RECORD", "w", force_zip64=True) as file:
            for _ in range(4 * MAX_RECORD_BYTES >> 20):
                file.write(b"\n" * (1 << 20))
    assert wheel.stat().st_size < 1 << 20
    with pytest.raises(EnvironmentGap, match="its RECORD, or the number of its files, is larger"):
        install(client, wheel, unpacked_bytes=1 << 40)
    assert left(client) == []


@pytest.mark.parametrize("record", [b"\xff\xfe", b"a,sha256=\x00", b'"' + b"x" * 200_000 + b'"', b""])
def test_a_record_that_is_none_is_refused(record: bytes, client: RunnerClient, tmp_path: Path) -> None:
    wheel = tmp_path / "toyrt-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toyrt/__init__.py", "")
        archive.writestr("toyrt-1.0.dist-info/RECORD", record)
    with pytest.raises(EnvironmentGap):
        install(client, wheel)
    assert left(client) == []


def test_packages_that_lost_a_file_are_known_for_damaged_and_put_anew(client: RunnerClient, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    folder = install(client, wheel)
    (folder / "toyrt" / "__init__.py").unlink()
    assert not complete(client)
    install(client, wheel)
    assert complete(client)


@pytest.mark.parametrize("site", ["../x", "", "a/b"])
def test_a_name_that_is_no_digest_is_refused(client: RunnerClient, site: str) -> None:
    with pytest.raises(EdgebuildError, match="is not a digest"):
        complete(client, site)


@pytest.mark.parametrize("files", [1, 30, 62, 64, 90, 122])
def test_a_kill_at_any_moment_leaves_the_old_packages_and_is_gone_over(
    client: RunnerClient, tmp_path: Path, files: int
) -> None:
    """Killed once so many files are written: amidst unpacking, and amidst compiling."""
    install(client, make_wheel(tmp_path / "old"))
    many = {f"toyrt/part{number}.py": f"x = {number}\n".encode() * 2000 for number in range(60)}
    asked = request(client, make_wheel(tmp_path / "new", version="2.0", files=many), site=NEXT)
    partial = Path(client.device.root) / "site" / f"{NEXT}.part"
    channel = client.start("install", asked, time_limit_s=60.0)
    assert isinstance(channel, ProcessChannel)
    try:
        deadline = time.monotonic() + 20
        while sum(path.is_file() for path in partial.rglob("*")) < files:
            assert time.monotonic() < deadline
        os.kill(channel.pid, signal.SIGKILL)
    finally:
        channel.kill()
    assert left(client) == [SITE, f"{NEXT}.part"]
    assert complete(client)
    assert not complete(client, NEXT)
    client.call("install", asked, time_limit_s=60.0)
    assert left(client) == [SITE, NEXT]
    assert complete(client, NEXT)
