from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.example import Ended, run, write_project, write_quick

if TYPE_CHECKING:
    from pathlib import Path

#: Every precision of one runtime, each with one setting.
PROFILE = """\
title = "ONNX Runtime, three precisions"
backend = "onnxruntime"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32", "fp16", "int8"]
quantisers = ["edgebuild"]

[[fp16]]
meaning = "storage"
source = "a test"
date = "2026-11-22"
verified = "believed"

[[int8]]
schemes = [{ activations = "uint8", weights = "int8", reduce_range = true }]
source = "a test"
date = "2026-11-22"
verified = "believed"

[[settings]]
threads = 1
spinning = false
arena = true
"""
#: Two device models that are the same but for their name, as this machine is.
SAME = 'title = "The same machine by another name"\nprofiles = ["quick", "openvino-quick"]\n'
OPENVINO = """\
title = "OpenVINO, one precision"
backend = "openvino"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32"]

[[settings]]
hint = "latency"
threads = 1
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A project with a convolutional classifier, built for two targets of the same facts. Only to be read or copied."""
    folder = write_project(
        tmp_path_factory.mktemp("classifier") / "project",
        {"build": 'targets = ["quick", "renamed"]\nthreads = 1\nobjective = "size"'},
    )
    write_quick(folder, target=SAME, profile=PROFILE)
    (folder / "targets" / "renamed.toml").write_text(SAME)
    (folder / "profiles" / "openvino-quick.toml").write_text(OPENVINO)
    return folder, run("build", cwd=folder)
