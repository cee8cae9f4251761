"""Both backends keep the contract that third parties' must keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.backends.ort.host import OnnxRuntime
from edgebuild.backends.ov.host import OpenVino
from edgebuild.backends.protocol import Backend, check_settings
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import UsageError
from edgebuild.testing import ContractBroken
from edgebuild.testing.backends import check_backend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=lambda b: b.name)
def test_keeps_the_contract(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    check_backend(backend, LocalDevice(tmp_path / "device"), tmp_path / "scratch")


class Careless(OnnxRuntime):
    """A backend whose device code would be imported with its runtime at once."""


def test_the_contract_finds_device_code_that_imports_its_runtime_at_once(tmp_path: Path) -> None:
    backend = Careless()
    source = backend.device_file.read_text(encoding="utf-8")
    broken = tmp_path / "device.py"
    broken.write_text(source.replace("import json\n", "import json\nimport onnxruntime\n", 1))
    backend.device_file = broken
    with pytest.raises(ContractBroken, match="inside functions only"):
        check_backend(backend, LocalDevice(tmp_path / "device"), tmp_path)


@pytest.mark.parametrize(
    ("backend", "setting", "message"),
    [
        (OnnxRuntime(), ("treads", 2), "onnxruntime has no runtime setting 'treads'"),
        (OnnxRuntime(), ("threads", 0), "threads = 0 is not int of 1 or more"),
        (OnnxRuntime(), ("threads", True), "threads = True is not int of 1 or more"),
        (OnnxRuntime(), ("spinning", "yes"), "spinning = 'yes' is not True or False"),
        (OpenVino(), ("hint", "fast"), "hint = 'fast' is not latency or throughput"),
    ],
)
def test_wrong_settings_are_named(backend: Backend, setting: tuple[str, int | str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_settings(backend, (setting,))
