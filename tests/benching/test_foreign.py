"""What a stranger's artifact may not do: run its code, or read what isn't its own."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from edgebuild.backends.protocol import write_artifact
from edgebuild.backends.table import backends
from edgebuild.benching.foreign import read_foreign
from edgebuild.core.artifact import Contract, Precision, TensorSpec
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import EdgebuildError, ModelError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

#: A library that does something as soon as it is loaded.
EVIL = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) {{ fclose(fopen("{path}", "w")); }}
"""


def test_a_bench_runs_the_code_of_a_stranger_only_when_told_to(tmp_path: Path) -> None:
    """It is neither loaded here nor sent anywhere: the library would leave a file behind."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler on this machine")
    trace, folder = tmp_path / "ran", tmp_path / "artifact"
    folder.mkdir()
    (tmp_path / "evil.c").write_text(EVIL.format(path=trace))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libevil.so", tmp_path / "evil.c"], check=True)
    x = TensorSpec(name="x", shape=(1, 2), dtype="float32")
    contract = Contract(inputs=(x,), outputs=(x.model_copy(update={"name": "y"}),))
    net = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
    )
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    given = {"backend": "onnxruntime", "entry": "model.onnx", "contract": contract, "precision": Precision(kind="fp32")}
    write_artifact(folder, **given, load=(("libraries", "libevil.so"),))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"brings native code, which would run with your rights: libevil\.so"):
        read_foreign(folder, backends(()), native_libraries=False)
    artifact = read_foreign(folder, backends(()), native_libraries=True)
    files = {"onnxruntime": backends(())["onnxruntime"].device_file}
    request = {"settings": dict(artifact.settings)}
    for allowed in (False, True):
        client = RunnerClient(LocalDevice(tmp_path / "device"), files, native_libraries=allowed)
        with pytest.raises(EdgebuildError) as refused_with:
            client.call("layers", {**request, "artifact": client.put_folder(folder)}, time_limit_s=60.0)
        assert ("nobody allowed it" in refused_with.value.message) is not allowed
        assert trace.exists() is allowed


def test_an_artifact_that_reads_elsewhere_is_refused(tmp_path: Path) -> None:
    """ONNX names its external data; a manifest says which files there are."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], bytes(8), raw=True)
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    for key, value in (("location", "../outside.bin"), ("length", "8")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "outside.bin").write_bytes(bytes(8))
    x = TensorSpec(name="x", shape=(2,), dtype="float32")
    net = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [weight],
    )
    (folder / "model.onnx").write_bytes(helper.make_model(net).SerializeToString())
    contract = Contract(inputs=(x,), outputs=(x.model_copy(update={"name": "y"}),))
    write_artifact(
        folder, backend="onnxruntime", entry="model.onnx", contract=contract, precision=Precision(kind="fp32")
    )
    with pytest.raises(ModelError, match=r"reads data from '\.\./outside\.bin', which is none of the artifact's files"):
        read_foreign(folder, backends(()), native_libraries=False)
