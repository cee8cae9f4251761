"""The runner's file has the same bytes wherever, and whenever, it is built."""

from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING

import pytest

from edgebuild.devices.bundle import build_bundle
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_same_bytes_from_another_folder_at_another_time(tmp_path: Path) -> None:
    files = []
    for name, stamp in (("a", 1_000_000_000), ("b", 1_700_000_000)):
        path = tmp_path / name / "device.py"
        path.parent.mkdir()
        path.write_text("VALUE = 1\n")
        os.utime(path, (stamp, stamp))
        files.append(path)
    assert build_bundle({"x": files[0]}) == build_bundle({"x": files[1]})


def test_order_of_the_backends_does_not_matter(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("A = 1\n")
    two.write_text("B = 1\n")
    assert build_bundle({"x": one, "y": two}) == build_bundle({"y": two, "x": one})


def test_a_changed_backend_changes_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "device.py"
    path.write_text("A = 1\n")
    before = build_bundle({"x": path})
    path.write_text("A = 2\n")
    assert build_bundle({"x": path}) != before


def test_no_module_shadows_a_runtime(tmp_path: Path) -> None:
    path = tmp_path / "device.py"
    path.write_text("")
    names = zipfile.ZipFile(io.BytesIO(build_bundle({"onnxruntime": path, "openvino": path}))).namelist()
    top = {name.partition("/")[0].removesuffix(".py") for name in names}
    assert top == {"__main__", "edgebuild_runner", "backend_onnxruntime", "backend_openvino"}


def test_two_backends_of_one_module_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.py"
    path.write_text("")
    with pytest.raises(UsageError, match=r"backend_a_b\.py"):
        build_bundle({"a.b": path, "a-b": path})


def test_device_code_of_several_files_travels_as_a_package(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "device" / f"{name}.py").write_text("")
    bundle = build_bundle({"x": tmp_path / "device" / "__init__.py"})
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    assert {name for name in names if name.startswith("backend_")} == {"backend_x/__init__.py", "backend_x/part.py"}
    with pytest.raises(UsageError, match=r"backend_a_b\.py"):
        build_bundle({"a.b": tmp_path / "device" / "__init__.py", "a-b": tmp_path / "device" / "part.py"})
