"""Artifact folders as anybody may have made or damaged them: no flip passes, and nothing outside is touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.backends.protocol import write_artifact
from edgebuild.backends.table import backends
from edgebuild.benching.foreign import read_foreign
from edgebuild.core.artifact import Contract, Exit, Precision, Stage, TensorSpec
from edgebuild.core.artifact_files import MANIFEST
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.runner import folders, staging
from edgebuild.devices.runner.artifact import Opened
from edgebuild.devices.runner.protocol import Problem
from edgebuild.errors import EdgebuildError
from tests.mutants import COUNTS, altered, flipped

if TYPE_CHECKING:
    from collections.abc import Callable

FP32 = Precision(kind="fp32")
SPEC = TensorSpec(name="x", shape=(1, 4), dtype="float32")
CONTRACT = Contract(
    inputs=(SPEC,), outputs=(SPEC.model_copy(update={"name": "y"}), SPEC.model_copy(update={"name": "sure"}))
)
TABLE = backends(())


def make_one(folder: Path, seed: int) -> None:
    """Write an artifact with a model, external data, an engine and a weights file; their content is noise."""
    noise = random.Random(seed)
    (folder / "deep").mkdir(parents=True)
    for name in ("model.xml", "model.bin", "deep/engine.plan", "weights.ebw"):
        (folder / name).write_bytes(noise.randbytes(200))
    load = (("optimized", True), ("weights", "weights.ebw"), ("weights_bytes", 800))
    write_artifact(folder, backend="openvino", entry="model.xml", contract=CONTRACT, precision=FP32, load=load)


def make_chain(folder: Path) -> None:
    """Write a chain of two."""
    for number in (0, 1):
        make_one(folder / f"stage-{number}", number)
    way_out = Exit(name="early", output="y", confidence="sure", threshold=0.5)
    stages = (Stage(folder="stage-0", exit=way_out), Stage(folder="stage-1"))
    write_artifact(
        folder, backend="openvino", entry=f"stage-0/{MANIFEST}", contract=CONTRACT, precision=FP32, stages=stages
    )


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are opened up to the point where a runtime would load them."""
    module = types.ModuleType("backend_openvino")
    module.load_runtime = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "backend_openvino", module)


def client_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> RunnerClient:
    """A client of this machine whose runner stages in this process."""
    device = LocalDevice(root)
    client = RunnerClient(device, {})
    monkeypatch.setattr(client, "call", lambda _, request, **__: staging.stage({**request, "root": device.root}))
    return client


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def overwrite(path: Path, data: bytes) -> None:
    """Change a file in place, as a disk or a careless program does: same inode, same size, same times."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("count", COUNTS)
def test_no_flipped_bit_of_an_artifact_passes(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "artifact"
    make_one(folder, 0)
    files = files_of(folder)
    undetected = []
    for seed in range(count):
        path = files[seed % len(files)]
        data = path.read_bytes()
        overwrite(path, flipped(data, seed))
        try:
            read_foreign(folder, TABLE, native_libraries=False)
        except EdgebuildError:
            pass
        else:
            undetected.append((path.name, seed))
        overwrite(path, data)
    assert undetected == []
    read_foreign(folder, TABLE, native_libraries=False)


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize("count", COUNTS)
def test_no_flipped_bit_of_a_device_s_copy_passes(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found when it is opened, and mended by the next session; the store's own files are no part of it."""
    make_one(tmp_path / "one", 0)
    make_chain(tmp_path / "chain")
    root = tmp_path / "device"

    def placed() -> dict[str, Path]:
        """As the next session finds or puts them."""
        client = client_of(root, monkeypatch)
        return {name: Path(client.put_folder(tmp_path / name)) for name in ("one", "chain")}

    places = placed()
    files = [(name, path.relative_to(tmp_path / name)) for name in places for path in files_of(tmp_path / name)]
    undetected, left = [], []
    for seed in range(count):
        name, relative = files[seed % len(files)]
        source, copy = tmp_path / name / relative, places[name] / relative
        overwrite(copy, flipped(source.read_bytes(), seed))
        problem = problem_of(root, places[name])
        if problem is None or problem.kind != "device":
            undetected.append((str(relative), seed))
        if seed % 10 == 0:
            assert placed() == places
            left += [] if copy.read_bytes() == source.read_bytes() else [(str(relative), seed)]
        else:
            overwrite(copy, source.read_bytes())
    assert (undetected, left) == ([], [])
    assert [problem_of(root, place) for place in placed().values()] == [None, None]


def problem_of(root: Path, place: Path) -> Problem | None:
    """What the runner says when it opens an artifact."""
    try:
        Opened({"root": str(root), "artifact": folders.inside(str(root), str(place))})
    except Problem as problem:
        return problem
    return None


def unsealed(folder: Path, seed: int) -> None:
    """Rewrite a manifest with alterations, as a foreign program might: without a seal."""
    path = folder / MANIFEST
    fields = json.loads(path.read_bytes())
    del fields["sha256"]
    path.write_text(json.dumps(altered(fields, seed)))


def readdressed(place: Path) -> Path:
    """Let a device's folder lie under the digest of what it holds, whatever that is."""
    return place.rename(place.with_name(folders.digest_of_listing(folders.listing(str(place)))))


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize("count", COUNTS)
def test_whatever_a_manifest_says_is_a_sentence(tmp_path: Path, count: int) -> None:
    """Host and runner read it, and neither opens what isn't among its files."""
    make_one(tmp_path / "one", 0)
    make_chain(tmp_path / "chain")
    (tmp_path / "cas").mkdir()
    opened = 0
    for seed in range(count):
        source = tmp_path / ("chain" if seed % 4 == 0 else "one")
        place = shutil.copytree(source, tmp_path / "cas" / "new")
        unsealed(place / ("stage-1" if seed % 8 == 0 else ""), seed)
        place = readdressed(place)
        with contextlib.suppress(EdgebuildError):
            read_foreign(place, TABLE, native_libraries=False)
        try:
            found = Opened({"root": str(tmp_path), "artifact": str(place)})
        except Problem:
            pass
        else:
            opened += 1
            listed = {str(place / file["path"]) for file in found.manifest["files"]}
            assert str(place / found.manifest["entry"]) in listed, seed
        shutil.rmtree(place)
    assert opened > 0


def tree_mutations(outside: Path) -> list[Callable[[Path], object]]:
    """What can be wrong with a folder in addition to the bytes of its files; each takes a file in it."""

    def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            path.unlink()
            make(path)

        return change

    def parent_link(path: Path) -> None:
        shutil.copytree(path.parent, outside / "copy", dirs_exist_ok=True)
        (path.parent / "more").symlink_to(outside / "copy")

    def nest(path: Path) -> None:
        place = path.with_name("nest")
        for _ in range(300):
            place /= "d"
        place.mkdir(parents=True)
        (place / "file").write_text("deep")

    return [
        instead(lambda path: path.symlink_to(outside / path.name)),
        instead(lambda path: path.symlink_to("/nowhere")),
        instead(lambda path: path.symlink_to(path)),
        instead(os.mkfifo),
        instead(Path.mkdir),
        instead(lambda _: None),
        lambda path: path.with_name("extra").write_text("not listed"),
        lambda path: path.with_name("a\nb").write_text("a name with a line's end"),
        lambda path: Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff")).write_text("a name that isn't text"),
        parent_link,
        nest,
    ]


def snapshot(folder: Path) -> list[tuple[str, int, bytes]]:
    """Names, modes and contents of everything in a folder."""
    paths = sorted(folder.rglob("*"))
    return [(str(p), p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in paths]


@pytest.mark.parametrize("kind", range(11))
def test_links_and_odd_files_are_refused_and_nothing_outside_is_touched(
    tmp_path: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    for at, name in enumerate(("model.xml", "model.bin", "deep/engine.plan", MANIFEST)):
        folder = tmp_path / f"artifact-{at}"
        make_one(folder, 0)
        shutil.copytree(folder, outside, dirs_exist_ok=True)
        tree_mutations(outside)[kind](folder / name)
        before = snapshot(outside)
        client = client_of(tmp_path / "device", monkeypatch)
        with pytest.raises(EdgebuildError):
            read_foreign(folder, TABLE, native_libraries=False)
        if name != MANIFEST or kind not in (4, 5):  # without a manifest it is a folder as any other
            with pytest.raises(EdgebuildError):
                client.put_folder(folder)
        assert snapshot(outside) == before


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize("part", ["cas", "blobs", "cas/DIGEST", "blobs/SHA", "cas/DIGEST/model.bin", "cas/DIGEST/deep"])
def test_links_in_a_device_s_folder_are_never_followed(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, root, outside = tmp_path / "artifact", tmp_path / "device", tmp_path / "outside"
    make_one(source, 0)
    place = Path(client_of(root, monkeypatch).put_folder(source))
    (sha256,) = {file["sha256"] for path, file in folders.listing(str(place)).items() if path == "model.bin"}
    path = root / part.replace("DIGEST", place.name).replace("SHA", sha256)
    outside.mkdir()
    path.rename(outside / "moved")
    path.symlink_to(outside / "moved")
    before = snapshot(outside)
    if part.startswith("blobs"):
        shutil.rmtree(place)
    assert problem_of(root, place) is not None
    with contextlib.suppress(Problem):  # what is in the way is named
        client_of(root, monkeypatch).put_folder(source)
        assert not path.is_symlink()
        assert problem_of(root, place) is None
    assert snapshot(outside) == before
