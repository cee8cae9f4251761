from __future__ import annotations

import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.catalogue.project import Project, parse_project
from edgebuild.catalogue.samples import NpzSamples, open_split
from edgebuild.core.artifact import TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import ConfigError, DataError, EdgebuildError
from edgebuild.models.dataset import digest_samples
from tests.catalogue.example import tables
from tests.mutants import COUNTS, damaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def project(folder: Path, **arrays: Any) -> Project:
    np.savez(folder / "val.npz", **arrays)
    data = {"calibration": "tiny_samples:calibration", "validation": "val.npz", "test": "tiny_samples:nothing"}
    (folder / "tiny_samples.py").write_text(
        "import numpy as np\nfrom edgebuild.core.data import Sample\n"
        "def calibration():\n    for i in range(3):\n        yield Sample(inputs={'image': np.full((2,), i)})\n"
    )
    return parse_project(tables(data=data), folder)


def test_a_file_and_a_callable_yield_the_same_form_again_and_again(tmp_path: Path) -> None:
    made = project(
        tmp_path,
        image=np.arange(8, dtype=np.float32).reshape(4, 2),
        target=np.array([0, 1, 0, 1]),
        group=np.array(["a", "a", "b", "b"]),
        slice=np.array([1, 2, 1, 2]),
    )
    file = open_split(made, "validation")
    assert file is not None
    samples = list(file())
    assert [int(sample.target) for sample in samples] == [0, 1, 0, 1]
    assert [(sample.group, sample.slice) for sample in samples] == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]
    np.testing.assert_array_equal(samples[3].inputs["image"], [6, 7])
    assert len(list(file())) == 4

    callable_ = open_split(made, "calibration")
    assert callable_ is not None
    for _ in range(2):
        yielded = list(callable_())
        assert len(yielded) == 3
        assert all(isinstance(sample, Sample) for sample in yielded)

    assert open_split(made, "train") is None
    with pytest.raises(ConfigError, match='there is no "nothing"'):
        open_split(made, "test")


def test_without_targets_and_groups(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros((2, 3)))
    (first, _) = NpzSamples(path=tmp_path / "x.npz", inputs=("image",))()
    assert (first.target, first.group, first.slice) == (None, None, None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imag": np.zeros((2, 3))}, "has no array 'image'"),
        ({"image": np.zeros((2, 3)), "target": np.zeros(3)}, "'target' has 3 entries, 'image' has 2"),
        ({"image": np.zeros((2, 3)), "group": np.array("a")}, "'group' has 0 entries, 'image' has 2"),
        ({"image": np.array([{}])}, "can't be read: Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError) as caught:
        list(NpzSamples(path=path, inputs=("image",))())
    assert caught.value.message.startswith(f"{path}")
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04pickle"])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="can't be read"):
        list(NpzSamples(path=path, inputs=("image",))())


def archive(folder: Path) -> bytes:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    names = np.array(["a", "a", "b", "é"])
    np.savez_compressed(folder / "whole.npz", image=rows, target=np.array(["x", "yz", "", "w"]), group=names)
    return (folder / "whole.npz").read_bytes()


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path: Path, count: int) -> None:
    """Through the checks that every sample goes through; what a checksum of the archive doesn't hold may be read."""
    whole, path = archive(tmp_path), tmp_path / "x.npz"
    spec = TensorSpec(name="image", shape=("batch", 2), dtype="float32")
    refused = 0
    for seed in range(count):
        path.write_bytes(damaged(whole, seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                digest_samples(
                    NpzSamples(path=path, inputs=("image",))(),
                    specs=(spec,),
                    stateful=False,
                    source="x.npz",
                    task=NoProgress(),
                    check=never_stop,
                )
            except EdgebuildError:
                refused += 1
    assert refused > count / 2


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda file: file.writestr("image", b"no array"), id="no .npy"),
        pytest.param(lambda file: file.writestr("image.npy", b"\x93NUMPY\x01\x00\x02\x00[["), id="header"),
        pytest.param(
            lambda file: file.writestr(
                "image.npy",
                b"\x93NUMPY\x01\x00\x76\x00"
                + b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999, 2)}".ljust(117)
                + b"\n",
            ),
            id="bomb",
        ),
    ],
)
def test_an_archive_that_holds_something_else(tmp_path: Path, content: Callable[[zipfile.ZipFile], None]) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        content(file)
    with pytest.raises(DataError, match=r"x\.npz"):
        list(NpzSamples(path=tmp_path / "x.npz", inputs=("image",))())


def test_an_archive_of_an_unknown_version_or_compression(tmp_path: Path) -> None:
    """The bytes of a central directory and a local header that say so."""
    whole = archive(tmp_path)
    at = whole.index(b"PK\x01\x02")
    for offset, value in ((6, b"\x6d"), (10, b"\x63")):
        path = tmp_path / "x.npz"
        path.write_bytes(whole[: at + offset] + value + whole[at + offset + 1 :])
        with pytest.raises(DataError, match="can't be read: NotImplementedError"):
            list(NpzSamples(path=path, inputs=("image",))())
