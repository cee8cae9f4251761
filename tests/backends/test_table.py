"""The table knows ours and third parties' backends; a broken or double one is an error, never a log line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from edgebuild.backends.table import GROUP, backends
from edgebuild.errors import EnvironmentGap

HERE = "tests.backends.test_table"


def plugin(value: str) -> EntryPoint:
    return EntryPoint(name="x", value=value, group=GROUP)


def test_ours_are_there() -> None:
    assert list(backends(())) == ["onnxruntime", "openvino", "tensorrt"]


def test_listing_them_imports_no_runtime() -> None:
    code = (
        "import sys; from edgebuild.backends.table import backends\n"
        "[b.installed() for b in backends().values()]\n"
        "print([m for m in ('onnxruntime', 'openvino', 'onnx', 'numpy', 'torch') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("edgebuild.backends.ort.host:OnnxRuntime", "brings a backend named 'onnxruntime', which exists already"),
        ("edgebuild.nowhere:Backend", "can't be loaded: ModuleNotFoundError"),
        ("edgebuild.backends.ort.host:Missing", "can't be loaded: AttributeError"),
        ("builtins:dict", "is no backend"),
    ],
)
def test_a_broken_plugin_is_an_error(value: str, message: str) -> None:
    with pytest.raises(EnvironmentGap, match=message):
        backends((plugin(value),))
