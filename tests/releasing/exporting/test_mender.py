"""Mender artifacts: read by mender-artifact, deployed as the update module does, installed from there."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

from tests import needs
from tests.releasing.board.bundles import Maker, make_key
from tests.releasing.board.installs import assert_answers
from tests.releasing.board.script import verify

from .samples import bundle_of, exported, said

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

mender_artifact = needs.marked(needs.program("mender-artifact", "mender-artifact"))


def contents(data: bytes) -> dict[str, bytes]:
    """Read a tar strictly: plain files in order, no name twice."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            content = archive.extractfile(member)
            assert member.isreg()
            assert content is not None
            assert member.name not in found
            found[member.name] = content.read()
    return found


def parsed(artifact: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Read an artifact as the published format says, checksums and order too; return its header and its payload."""
    outer = contents(artifact.read_bytes())
    assert list(outer) == ["version", "manifest", "header.tar", "data/0000.tar"]
    assert json.loads(outer["version"]) == {"format": "mender", "version": 3}
    header, payload = contents(outer["header.tar"]), contents(outer["data/0000.tar"])
    assert list(header) == ["header-info", "headers/0000/type-info"]
    summed = {"version": outer["version"], "header.tar": outer["header.tar"]}
    summed |= {f"data/0000/{name}": data for name, data in payload.items()}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(summed.items())]
    assert outer["manifest"].decode() == "".join(lines)
    return header, payload


def deployed(artifact: Path, root: Path) -> Path:
    """Do what Mender's module `directory` does at ArtifactInstall, below a folder of the test's."""
    _, payload = parsed(artifact)
    assert list(payload) == ["dest_dir", "update.tar"]
    dest = root / payload["dest_dir"].decode().removesuffix("\n").lstrip("/")
    dest.mkdir(parents=True)
    subprocess.run(["tar", "-xf", "-", "-C", dest], input=payload["update.tar"], check=True)
    return dest


def test_an_artifact_is_as_the_format_says(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle")
    exported(bundle, "mender", tmp_path / "out.mender", device_type="raspberrypi5", dest="/data/models/doors")
    header, payload = parsed(tmp_path / "out.mender")
    assert payload["dest_dir"] == b"/data/models/doors\n"
    assert json.loads(header["header-info"]) == {
        "payloads": [{"type": "directory"}],
        "artifact_provides": {"artifact_name": "doors-1.4.0"},
        "artifact_depends": {"device_type": ["raspberrypi5"]},
    }
    assert json.loads(header["headers/0000/type-info"]) == {
        "type": "directory",
        "artifact_provides": {"data-partition.doors.version": "1.4.0"},
        "clears_artifact_provides": ["data-partition.doors.*"],
    }
    there = contents(payload["update.tar"])
    assert there == {
        path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()
    }


@mender_artifact
def test_mender_artifact_reads_and_validates_it(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", "jetson", "pi")
    exported(bundle, "mender", tmp_path / "out.mender", "pi")

    def asked(command: str, artifact: Path) -> Any:
        return subprocess.run(["mender-artifact", command, artifact], capture_output=True, text=True, check=False)

    shown = asked("read", tmp_path / "out.mender")
    assert shown.returncode == 0, shown
    for line in ("Name: doors-1.4.0", "Version: 3", "Compatible devices: '[pi]'", "Type:   directory"):
        assert line in shown.stdout
    assert "data-partition.doors.version: 1.4.0" in shown.stdout
    assert [line.split()[1] for line in shown.stdout.splitlines() if "name: " in line] == ["dest_dir", "update.tar"]
    valid = asked("validate", tmp_path / "out.mender")
    assert valid.returncode == 0, valid
    data = (tmp_path / "out.mender").read_bytes()
    (tmp_path / "bad.mender").write_bytes(data.replace(b"runner", b"runneR"))
    assert asked("validate", tmp_path / "bad.mender").returncode != 0


def test_what_is_deployed_installs_and_answers_with_its_signature(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    key = make_key(tmp_path, "team")
    bundle = Maker({"pi": (real, said(settings={"threads": 1}))}, by=[key], files_by=[key]).make(tmp_path / "bundle")
    exported(bundle, "mender", tmp_path / "out.mender")
    folder = deployed(tmp_path / "out.mender", tmp_path / "device")
    assert folder == tmp_path / "device/data/edgebuild/doors"
    root = tmp_path / "device/data/doors-releases"
    done = verify(tmp_path, "install", folder, "--root", root, "--key", key.public)
    assert done.code == 0, done
    assert_answers(root)


def test_one_target_of_several_installs_without_the_key_and_the_whole_with_it(
    tmp_path: Path, parrot: dict[str, bytes]
) -> None:
    key = make_key(tmp_path, "team")
    parts = {name: (parrot, said(name)) for name in ("jetson", "pi")}
    bundle = Maker(parts, by=[key], files_by=[key]).make(tmp_path / "bundle")
    exported(bundle, "mender", tmp_path / "one.mender", "pi")
    exported(bundle, "mender", tmp_path / "whole.mender", "pi", whole=True)
    one, whole = deployed(tmp_path / "one.mender", tmp_path / "1"), deployed(tmp_path / "whole.mender", tmp_path / "2")
    refused = verify(tmp_path, "install", one, "--root", tmp_path / "root", "--key", key.public)
    assert refused.code == 7, refused
    done = verify(tmp_path, "install", one, "--root", tmp_path / "root")
    assert (done.code, done.report["target"]) == (0, "pi"), done
    signed = verify(tmp_path, "install", whole, "--target", "pi", "--root", tmp_path / "root", "--key", key.public)
    assert signed.code == 0, signed
