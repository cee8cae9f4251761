"""A bundle of a real build: what it holds, that equal builds give equal bytes, and that no byte of it can change."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgebuild import runtime
from edgebuild.building.context import Options
from edgebuild.building.golden import tolerance
from edgebuild.building.record import find_build, load_record
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Precision
from edgebuild.core.golden import Golden
from edgebuild.core.record import Evidence
from edgebuild.core.values import digest_bytes
from edgebuild.core.verdict import CrossCheck
from edgebuild.errors import EnvironmentGap, ReleaseError, UsageError
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.models.host_session import HostSession
from edgebuild.pipeline import build
from edgebuild.releasing.accuracy import accuracy_of, accuracy_row
from edgebuild.releasing.bundle import is_name, read_bundle
from edgebuild.releasing.creating import create
from edgebuild.releasing.unpack import part_of, unpack
from edgebuild.releasing.values import BuildFolder
from tests.cli.example import run, write_project
from tests.cli.short import SHORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.releasing.bundle import Bundle

GONE = Evidence(path="measurements/gone", files=1, sha256="0" * 64)
QUICK = Options(
    screen=SCREEN.model_copy(update={**SHORT, "launches": 1, "max_launches": 1}),
    certify=CERTIFY.model_copy(update={**SHORT, "launches": 2, "max_launches": 2}),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildFolder:
    project = write_project(tmp_path_factory.mktemp("release") / "project")
    (record,) = build(load_project(project), QUICK)
    home = project / ".edgebuild"
    return BuildFolder(home=home, folder=find_build(home), record=record)


@pytest.fixture(scope="module")
def made(built: BuildFolder, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return create([built], tmp_path_factory.mktemp("bundles") / "tiny-1.0", version="1.0")


@pytest.fixture
def bundle(made: Bundle, tmp_path: Path) -> Path:
    """A copy for one test alone."""
    return shutil.copytree(made.layout.folder, tmp_path / "bundle")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_holds_the_build_and_says_what_it_needs(built: BuildFolder, made: Bundle) -> None:
    made.check_all()
    (part,) = made.targets
    files = part.files()
    for path, source in (
        ("artifact/artifact.json", "artifact/artifact.json"),
        ("artifact/model.onnx", "artifact/model.onnx"),
        ("fallback/model.onnx", "fallback/model.onnx"),
        ("golden/outputs/logits.npy", "golden/outputs/logits.npy"),
        ("evidence/build.json", "build.json"),
        ("evidence/scores/scores.json", "scores/scores.json"),
    ):
        assert files[path].sha256 == digest_bytes((built.folder / source).read_bytes())
    raw = [path for path in files if path.endswith(".i64")]
    assert len(raw) == sum(each.files for each in built.record.evidence if "measurements" in each.path) // 2
    release = part.release
    assert release.candidate == built.record.chosen
    assert release.requires.runtime == "onnxruntime"
    assert release.requires.runtime_version == dict(built.record.versions)["onnxruntime"]
    assert set(release.requires.isa) <= set(next(f.value for f in built.record.facts if f.name == "isa").split())
    assert release.latency is not None
    assert release.accuracy is not None
    accuracy = accuracy_of(made, part)
    assert accuracy.scores is not None
    assert set(accuracy.scores.scores) <= {0.0, 1.0}
    assert accuracy_row(accuracy, accuracy).outcome == "equivalent"
    card = made.layout.read(files["MODEL_CARD.md"]).decode()
    assert f"onnxruntime {release.requires.runtime_version}, exactly" in card
    assert "Energy is unknown" in card


def test_the_sbom_names_the_exact_runtime(made: Bundle) -> None:
    (part,) = made.targets
    text = made.layout.read(part.files()["sbom.cdx.json"]).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    sbom = json.loads(text)
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    version = part.release.requires.runtime_version
    assert f"pkg:pypi/onnxruntime@{version}" in {each["purl"] for each in sbom["components"]}
    hashes = {each["name"]: each["hashes"][0]["content"] for each in sbom["metadata"]["component"]["components"]}
    assert hashes == {
        path.removeprefix("artifact/"): layer.sha256
        for path, layer in part.files().items()
        if path.startswith("artifact/") and path != "artifact/artifact.json"
    }
    refs = {"model"} | {each["bom-ref"] for each in sbom["components"]}
    assert {each["ref"] for each in sbom["dependencies"]} == refs


def test_golden_vectors_are_what_the_artifact_answers(built: BuildFolder) -> None:
    golden = Golden.model_validate_json((built.folder / "golden" / "golden.json").read_bytes())
    (output,) = golden.outputs
    expected = np.load(built.folder / "golden" / "outputs" / output.file)
    images = np.load(built.folder / "golden" / "inputs" / "image.npy")
    assert len(expected) == len(images) == golden.frames == 4
    fallback = HostSession(built.folder / "fallback" / "model.onnx")
    for image, answer in zip(images, expected, strict=True):
        found = fallback({"image": image[np.newaxis]})["logits"][0]
        assert np.abs(found - answer).max() <= output.atol + output.rtol * np.abs(answer).max()
    assert output.rtol == 1e-3


@pytest.mark.parametrize(
    ("precision", "steps", "allowed"),
    [
        (Precision(kind="fp32"), None, 1e-3),
        (Precision(kind="fp16", fp16=Fp16Meaning.STORAGE), None, 1e-3),
        (Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE), None, 2e-2),
        (Precision(kind="bf16"), None, 2e-2),
        (Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="ours"), None, 1 / 127),
        (Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="ours"), 0.2, 1 / 127),
        (Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="ours"), 5.0, 5 / 127),
        (Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="ours"), 254.0, 0.1),
    ],
)
def test_how_far_an_answer_may_be_off_follows_from_precision_and_cross_check(
    precision: Precision, steps: float | None, allowed: float
) -> None:
    check = None if steps is None else CrossCheck(cause="rounding", explanation="a test", steps=steps)
    chosen = cast("Any", SimpleNamespace(artifact=SimpleNamespace(precision=precision), crosscheck=check))
    assert tolerance(chosen) == pytest.approx(allowed)


def test_equal_builds_give_equal_bytes_and_another_version_shares_the_large_ones(
    built: BuildFolder, made: Bundle, tmp_path: Path
) -> None:
    again = create([built], tmp_path / "again", version="1.0")
    assert contents(again.layout.folder) == contents(made.layout.folder)
    other = create([built], tmp_path / "other", version="1.1", parent=made.descriptor.digest)
    assert other.index.annotations["dev.edgebuild.parent"] == made.descriptor.digest
    (old,), (new,) = made.targets, other.targets
    changed_files = {path for path, layer in new.files().items() if old.files()[path] != layer}
    assert changed_files == {"release.json", "sbom.cdx.json", "MODEL_CARD.md"}


def flips(data: bytes, step: int) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def test_a_flipped_bit_anywhere_is_found(bundle: Path) -> None:
    found = 0
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for flipped in flips(data, 1 if path.parent == bundle else max(1, len(data) // 6)):
            path.write_bytes(flipped)
            with pytest.raises(ReleaseError):
                read_bundle(bundle).check_all()
            found += 1
        path.write_bytes(data)
    assert found > 400
    read_bundle(bundle).check_all()


def test_what_does_not_belong_there_is_found(bundle: Path) -> None:
    blobs = bundle / "blobs" / "sha256"
    first = min(blobs.iterdir())
    (blobs / ("0" * 64)).write_bytes(b"")
    with pytest.raises(ReleaseError, match="belongs to no part of the bundle"):
        read_bundle(bundle).check_all()
    (blobs / ("0" * 64)).unlink()
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(ReleaseError, match="is missing"):
        read_bundle(bundle).check_all()
    (bundle.parent / "elsewhere").write_bytes(kept)
    first.symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(ReleaseError):
        read_bundle(bundle).check_all()


def test_what_cannot_be_released_is_refused_with_every_reason_and_writes_nothing(
    built: BuildFolder, tmp_path: Path
) -> None:
    spoilt = BuildFolder(
        home=built.home,
        folder=built.folder,
        record=built.record.model_copy(update={"test_set": None, "evidence": (GONE,)}),
    )
    with pytest.raises(ReleaseError, match=r"never scored on the test set\n.*measurements/gone is gone"):
        create([spoilt], tmp_path / "out", version="1")
    gone = dataclasses.replace(built, record=built.record.model_copy(update={"evidence": (GONE,)}))
    with pytest.raises(ReleaseError, match="measurements/gone is gone"):
        create([gone], tmp_path / "out", version="1")
    with pytest.raises(UsageError, match="same target"):
        create([built, built], tmp_path / "out", version="1")
    for version in ("", "1 0", "../1", ".1", "1" * 65):
        with pytest.raises(UsageError, match="can't be a release's version"):
            create([built], tmp_path / "out", version=version)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_is_not_the_measured_one_is_refused(built: BuildFolder, tmp_path: Path) -> None:
    home = shutil.copytree(built.home, tmp_path / "home")
    folder = home / "builds" / built.folder.name
    path = folder / "artifact" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    other = BuildFolder(home=home, folder=folder, record=load_record(folder))
    with pytest.raises(Exception, match=r"isn't what artifact.json lists"):
        create([other], tmp_path / "out", version="1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["golden/golden.json", "golden/outputs/logits.npy", "fallback/model.onnx"])
def test_what_was_edited_since_the_build_is_not_released(built: BuildFolder, tmp_path: Path, name: str) -> None:
    home = shutil.copytree(built.home, tmp_path / "home")
    folder = home / "builds" / built.folder.name
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    record = load_record(folder)
    edited = BuildFolder(home=home, folder=folder, record=record)
    with pytest.raises(ReleaseError, match=f"{name.split('/')[0]} is gone or was changed since"):
        create([edited], tmp_path / "out", version="1")


def test_the_command_writes_it_once(built: BuildFolder) -> None:
    project = built.home.parent
    ended = run("release", "create", "--version", "2.0", cwd=project)
    assert ended.code == 0, ended
    assert "quick: quick/fp32" in ended.out
    read_bundle(project / "releases" / "tiny-2.0").check_all()
    again = run("release", "create", "--version", "2.0", cwd=project)
    assert again.code == 2
    assert "is there already" in again.err


@pytest.fixture
def slot(made: Bundle, tmp_path: Path) -> Path:
    """A target's files in a folder, as an installed release has them."""
    unpack(made, part_of(made, None), tmp_path / "slot", lambda _: True)
    return tmp_path / "slot"


@pytest.mark.parametrize("form", ["bundle", "slot"])
def test_opened_in_python_it_answers_as_it_did_on_the_device(
    form: str, made: Bundle, slot: Path, request: pytest.FixtureRequest
) -> None:
    model = runtime.load(made.layout.folder if form == "bundle" else slot)
    request.addfinalizer(model.close)
    images = np.load(slot / "golden" / "inputs" / "image.npy")
    for image, expected in zip(images, np.load(slot / "golden" / "outputs" / "logits.npy"), strict=True):
        assert np.array_equal(model({"image": image[np.newaxis]})["logits"][0], expected)
    with pytest.raises(ReleaseError, match="takes image; given were picture"):
        model({"picture": images[:1]})
    with pytest.raises(ReleaseError, match=r"must be float32 of shape \[1, 1, 8, 8\], it is <f8 \(float64\)"):
        model({"image": images[:1].astype(np.float64)})
    with pytest.raises(ReleaseError, match=r"it is >f4"):
        model({"image": images[:1].astype(">f4")})


def changed_release(slot: Path, **changes: object) -> None:
    path = slot / "release.json"
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps({**fields, "requires": {**fields["requires"], **changes}}))


def test_what_was_changed_or_is_for_another_device_is_not_opened(slot: Path, tmp_path: Path) -> None:
    changed_release(slot, runtime_version="0.1", isa=["avx9"])
    with pytest.raises(ReleaseError, match=r"onnxruntime must be 0\.1, it is .* here; the CPU lacks avx9"):
        runtime.load(slot)
    changed_release(slot, runtime="litert")
    with pytest.raises(EnvironmentGap, match="has no backend 'litert'"):
        runtime.load(slot)
    with pytest.raises(ReleaseError, match="neither a bundle nor an installed release"):
        runtime.load(tmp_path)


def test_what_ships_another_artifact_than_was_measured_is_not_opened(slot: Path) -> None:
    path = slot / "release.json"
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps({**fields, "artifact_digest": "0" * 64}))
    with pytest.raises(ReleaseError, match="doesn't hold the artifact that it says was measured"):
        runtime.load(slot)


def test_a_closed_model_says_so(slot: Path) -> None:
    model = runtime.load(slot)
    model.close()
    model.close()
    with pytest.raises(ReleaseError, match="was closed"):
        model({"image": np.zeros((1, 1, 8, 8), np.float32)})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "../x", "a\nb", "x" * 201])
def test_names_that_could_be_paths_or_lines_are_none(name: str) -> None:
    assert not is_name(name)
    assert is_name("doors 2, übung")


def test_a_folder_that_cannot_be_made_is_a_sentence(built: BuildFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file" / "x", Path("/proc/edgebuild-release")):
        with pytest.raises(UsageError, match="can't be made"):
            create([built], out, version="1.0")


def test_a_damaged_model_is_not_opened(slot: Path) -> None:
    path = slot / "artifact" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ReleaseError, match=r"model\.onnx"):
        runtime.load(slot)
