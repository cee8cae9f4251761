"""The project examples/magika-files: its features are Magika's, its labels a fixed rule, its files the pinned ones."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import tomllib
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project import load_project
from edgebuild.errors import DataError, EnvironmentGap

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "magika-files"
MODULES = ("data", "wheels", "pin")

# labels.tsv is what Magika's knowledge base says where that is unambiguous, but for these (see the README).
ADDED = {
    "so": "elf", "exe": "pebin", "dll": "pebin", "pyd": "pebin", "dylib": "macho", "whl": "zip", "hpp": "cpp",
    "hxx": "cpp", "hh": "cpp", "xsd": "xml", "xsl": "xml", "xslt": "xml", "ts": "typescript",
}  # fmt: skip
REMOVED = {"pth", "obj", "p", "l", "s", "v", "pp", "pro", "cl", "cat", "one", "sum", "url"}


@pytest.fixture(scope="module")
def project() -> dict[str, ModuleType]:
    """The project's modules, imported as edgebuild imports them: apart from other projects' of the same names."""
    load_callable("data:samples", FOLDER)
    return {name: importlib.import_module(name) for name in MODULES}


@pytest.fixture(scope="module")
def magika() -> Any:
    return importlib.import_module("magika").Magika()


@pytest.fixture(scope="module")
def wheel_paths(project: dict[str, ModuleType]) -> dict[str, Path]:
    """The calibration packages (2.6 MB) and the first of all packages (2.3 MB)."""
    packages = project["wheels"].packages()
    wanted = [package for package in packages if package.split == "calibration"] + [packages[0]]
    try:
        paths: dict[str, Path] = project["wheels"].locate(wanted)
    except EnvironmentGap as gap:
        pytest.skip(f"neither a cache of the packages nor a network: {gap.message}")
    return paths


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def theirs(magika: Any, content: bytes) -> list[int] | None:
    """What Magika itself feeds its model for a file; None where it doesn't ask the model."""
    seekable = importlib.import_module("magika.types").Seekable(io.BytesIO(content))
    result, features = magika._get_result_or_features_from_seekable(seekable)
    assert (result is None) != (features is None)
    return None if features is None else [*features.beg, *features.end]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.binary(max_size=12),
    spaces=st.sampled_from([0, 1, 7, 1023, 1024, 3000, 4095, 4096, 5000]),
    middle=st.binary(max_size=40),
    repeat=st.sampled_from([1, 30, 300]),
    after=st.text(alphabet=" \t\r\n\x0b\x0ca", max_size=12),
)
def test_features_are_magikas(
    project: dict[str, ModuleType], magika: Any, before: bytes, spaces: int, middle: bytes, repeat: int, after: str
) -> None:
    for content in (
        before + b" " * spaces + middle * repeat + after.encode(),
        b" " * spaces + middle * repeat + b"\n" * spaces,
    ):
        expected = theirs(magika, content)
        assert project["data"].asks_model(content) == (expected is not None)
        if expected is not None:
            ours = project["data"].preprocess(content)
            assert ours.dtype == np.int32
            assert ours.tolist() == expected


def test_predictions_are_magikas(project: dict[str, ModuleType], magika: Any, wheel_paths: dict[str, Path]) -> None:
    """On real files: our features, through the model, name what Magika names."""
    data = project["data"]
    with zipfile.ZipFile(wheel_paths["luigi"]) as archive:
        contents = [archive.read(path) for _, path in data._files()["luigi"]][::3]
    scores = magika._onnx_session.run(["target_label"], {"bytes": np.stack([data.preprocess(c) for c in contents])})
    names = [str(magika.identify_bytes(content).prediction.dl.label) for content in contents]
    assert data.postprocess({"target_label": scores[0]}) == names
    assert len(set(names)) > 4


def test_edgebuild_reads_the_project() -> None:
    project = load_project(FOLDER)
    assert project.onnx_path is not None
    assert project.onnx_path.is_file()
    assert [(spec.name, spec.shape) for spec in project.sample_specs] == [("bytes", ("batch", 2048))]
    for reference in (
        project.data.calibration,
        project.data.validation,
        project.data.test,
        project.contract.preprocess,
    ):
        assert callable(load_callable(str(reference), FOLDER))


def test_input_is_the_models(magika: Any) -> None:
    declared = tomllib.loads((FOLDER / "edgebuild.toml").read_text())["inputs"]
    (real,) = magika._onnx_session.get_inputs()
    assert [(given["name"], given["dtype"], given["shape"][1:]) for given in declared] == [("bytes", "int32", [2048])]
    assert (real.name, real.type, real.shape[1:]) == ("bytes", "tensor(int32)", [2048])


def test_labels_are_the_knowledge_bases_where_it_is_unambiguous(project: dict[str, ModuleType]) -> None:
    known = json.loads((project["data"].magika_folder() / "config" / "content_types_kb.min.json").read_text())
    claims: dict[str, set[str]] = defaultdict(set)
    for label, facts in known.items():
        for extension in facts["extensions"]:
            claims[extension.lower()].add(label)
    model = set(project["data"].labels())
    assert len(model) == 214
    unambiguous = {
        extension: next(iter(labels))
        for extension, labels in claims.items()
        if len(labels) == 1 and labels <= model and "." not in extension and extension not in REMOVED
    }
    assert not set(ADDED) & set(unambiguous)
    assert project["data"]._label_of_extension() == unambiguous | ADDED


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("a/b.py", "python"),
        ("A.PNG", "png"),
        ("x.tar.gz", "gzip"),
        ("README", None),
        ("notes.txt", None),
        (".py", None),
    ],
)
def test_label_of_a_path(project: dict[str, ModuleType], path: str, label: str | None) -> None:
    assert project["data"].label_of(path) == label


def test_splits_share_no_package_and_no_content(project: dict[str, ModuleType]) -> None:
    split = {row["package"]: row["split"] for row in rows("packages.tsv")}
    assert len(split) == len(rows("packages.tsv"))
    files = rows("files.tsv")
    assert {row["package"] for row in files} == set(split)
    assert len({row["sha256_16"] for row in files}) == len(files)
    sizes = Counter(split[row["package"]] for row in files)
    assert sizes["test"] >= 3000
    assert sizes["validation"] >= 2000
    assert sizes["calibration"] >= 300


def test_no_package_or_type_dominates(project: dict[str, ModuleType]) -> None:
    files = rows("files.tsv")
    counts = Counter((row["package"], project["data"].label_of(row["path"])) for row in files)
    assert max(counts.values()) <= project["pin"].CAP
    assert max(count for (_, label), count in counts.items() if label == "python") <= project["pin"].PYTHON_CAP
    assert max(Counter(row["package"] for row in files).values()) < len(files) / 10
    assert max(Counter(project["data"].label_of(row["path"]) for row in files).values()) < len(files) / 3


def test_the_rule_chooses_the_pinned_files(project: dict[str, ModuleType], wheel_paths: dict[str, Path]) -> None:
    first = project["wheels"].packages()[0].name
    chosen = project["pin"].chosen(wheel_paths[first], set())
    assert [(digest[:16], path) for digest, path in chosen] == project["data"]._files()[first]


def test_samples(project: dict[str, ModuleType], wheel_paths: dict[str, Path]) -> None:
    samples = list(project["data"].calibration())
    labels = project["data"].labels()
    calibration = {row["package"] for row in rows("packages.tsv") if row["split"] == "calibration"}
    assert len(samples) == sum(row["package"] in calibration for row in rows("files.tsv"))
    assert {sample.group for sample in samples} == calibration
    for sample in samples:
        assert sample.inputs["bytes"].shape == (2048,)
        assert sample.inputs["bytes"].dtype == np.int32
        assert labels[sample.target] == sample.slice


def test_model_knows_most_of_them(project: dict[str, ModuleType], magika: Any, wheel_paths: dict[str, Path]) -> None:
    samples = list(project["data"].calibration())[::4]
    (scores,) = magika._onnx_session.run(["target_label"], {"bytes": np.stack([s.inputs["bytes"] for s in samples])})
    assert np.mean(scores.argmax(axis=1) == [sample.target for sample in samples]) > 0.9


def test_a_changed_package_is_refused(
    project: dict[str, ModuleType], wheel_paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = next(package for package in project["wheels"].packages() if package.name == "julia")
    content = bytearray(wheel_paths["julia"].read_bytes())
    monkeypatch.setenv("EDGEBUILD_MAGIKA_PACKAGES", str(tmp_path))
    (tmp_path / package.wheel).write_bytes(content)
    assert project["wheels"].locate([package]) == {"julia": tmp_path / package.wheel}
    content[100] ^= 1
    (tmp_path / package.wheel).write_bytes(content)
    with pytest.raises(DataError, match=r"not the pinned julia 0\.6\.2"):
        project["wheels"].locate([package])


def test_a_changed_list_is_refused(
    project: dict[str, ModuleType], wheel_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = project["data"]
    files = {**data._files(), "ansible_lint": [("0" * 16, data._files()["ansible_lint"][0][1])]}
    monkeypatch.setattr(data, "_files", lambda: files)
    with pytest.raises(DataError, match="is not the pinned file"):
        next(data.calibration())


def test_without_an_index_the_error_says_every_way(
    project: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = project["wheels"]
    monkeypatch.setattr(wheels, "CACHE", tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(EnvironmentGap, match=r"1 of the packages .* can't be downloaded") as raised:
        wheels.locate([wheels.packages()[0]])
    for way in ("package index", "EDGEBUILD_MAGIKA_PACKAGES", "packages.tsv", str(tmp_path / "wheels")):
        assert way in raised.value.hint
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_huge_file_in_a_package_is_not_read(project: dict[str, ModuleType], tmp_path: Path) -> None:
    """A zip bomb ends in an error after 4 MiB, whatever size its directory claims."""
    bomb = tmp_path / "bomb.whl"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.py", b"#" * (8 * 1024 * 1024))
    assert bomb.stat().st_size < 100_000
    with zipfile.ZipFile(bomb) as archive, pytest.raises(DataError, match="larger than"):
        project["wheels"].read(archive, "big.py")


def test_digests_are_of_the_files(project: dict[str, ModuleType], wheel_paths: dict[str, Path]) -> None:
    digest, path = project["data"]._files()["furo"][0]
    with zipfile.ZipFile(wheel_paths["furo"]) as archive:
        assert hashlib.sha256(archive.read(path)).hexdigest().startswith(digest)
