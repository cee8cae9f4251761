"""The device code uses only what each TensorRT release has: 8.5.2 and RTX for real, 10 and 11 as transcribed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from edgebuild.backends.trt import device, gate
from edgebuild.backends.trt.device import engine
from tests import needs
from tests.backends.trt.api_look import arguments, miscounted, missing
from tests.backends.trt.api_names import ASKED_FOR, calls, used

HERE = Path(__file__).parent
BRANCHES = ("10", "11")
#: Where the 8.5.2 bindings are kept: 2.7 GB with the CUDA libraries that they link to.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgebuild" / "tensorrt-8.5.2"
#: The wheel asks for any cuDNN; it links to version 8.
PACKAGES = ("tensorrt==8.5.2.2", "nvidia-cudnn-cu11<9", "numpy==1.26.4")
REQUESTS = (
    {"precision": "fp32", "workspace_bytes": 1, "profiles": {"x": [[1], [1], [2]]}, "timing_caches": "t"},
    {"precision": "fp16"},
    {"precision": "int8"},
    {"precision": "int8", "sparse_weights": True, "workspace_bytes": 1},
    {"precision": "fp16", "accelerator": "dla"},
)


def facts(branch: str) -> dict[str, Any]:
    return tomllib.loads((HERE / f"api_facts_{branch}.toml").read_text(encoding="utf-8"))


def listed(branch: str) -> set[str]:
    return {each["name"] for each in facts(branch)["names"] if each["exists"]}


@pytest.mark.parametrize("branch", BRANCHES)
def test_the_facts_say_where_they_are_from_and_that_nobody_ran_them(branch: str) -> None:
    found = facts(branch)
    assert found["status"] == "unverified"
    assert all(url.startswith("https://") for url in found["sources"].values())
    assert {each["source"] for each in found["names"]} <= set(found["sources"])
    assert len({each["name"] for each in found["names"]}) == len(found["names"])


@pytest.mark.parametrize("branch", BRANCHES)
def test_what_is_used_is_listed_or_asked_for_first(branch: str) -> None:
    assert {each["name"] for each in facts(branch)["names"]} == used()
    assert used() - listed(branch) <= ASKED_FOR


class Part:
    """An object with the listed members of one class and no others; a method takes anything."""

    def __init__(self, kind: str, names: set[str]) -> None:
        object.__setattr__(self, "_members", {n.partition(".")[2] for n in names if n.startswith(f"{kind}.")})

    def __getattr__(self, name: str) -> Any:
        if name not in self._members:
            raise AttributeError(name)
        return lambda *_: types.SimpleNamespace(set_shape=lambda *_: None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._members:
            raise AttributeError(name)


def module_of(names: set[str]) -> Any:
    """A module whose enumerations have the listed values."""
    found = types.SimpleNamespace()
    for name in sorted(names):
        kind, _, member = name.partition(".")
        if not hasattr(found, kind):
            setattr(found, kind, types.SimpleNamespace())
        if member:
            setattr(getattr(found, kind), member, len(vars(getattr(found, kind))))
    return found


@pytest.mark.parametrize("options", REQUESTS, ids=lambda o: "-".join(str(v) for v in o.values() if isinstance(v, str)))
@pytest.mark.parametrize("branch", BRANCHES)
def test_the_branch_that_is_taken_uses_listed_names_only(branch: str, options: dict[str, Any]) -> None:
    names = listed(branch)
    trt, config, builder = module_of(names), Part("IBuilderConfig", names), Part("Builder", names)
    engine._network_flags(trt, options)
    engine._configure(trt, builder, config, options, b"")
    if "accelerator" in options:
        network = types.SimpleNamespace(num_layers=0)
        assert engine._use_dla(trt, network, config) == []


@pytest.mark.parametrize("branch", BRANCHES)
def test_flags_choose_the_precision_only_where_there_are_flags(branch: str) -> None:
    trt = module_of(listed(branch))
    assert not engine._weakly_typed(trt, {"precision": "fp16"})
    assert engine._weakly_typed(trt, {"precision": "fp16", "accelerator": "dla"}) is (branch == "10")


class Flags:
    """A configuration that keeps the flags that are set."""

    def __init__(self) -> None:
        self.flags: set[Any] = set()

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)


#: Lines as in https://github.com/NVIDIA/TensorRT/issues/1403; none seen here yet.
SPARSE_LINES = [
    "INFO (Sparsity) Layers eligible for sparse math: conv1, conv2",
    "INFO Detected 1 inputs",
    "INFO (Sparsity) TRT inference plan picked sparse implementation for layers: conv2",
]


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("branch", BRANCHES)
def test_zeros_may_be_skipped_where_that_was_asked_for_and_the_log_says_so(branch: str, asked: bool) -> None:
    trt, config = module_of(listed(branch)), Flags()
    options = {"precision": "fp16", **({"sparse_weights": True} if asked else {})}
    engine._configure(trt, None, config, options, b"")
    assert (trt.BuilderFlag.SPARSE_WEIGHTS in config.flags) is asked
    said = ["SPARSE_WEIGHTS is set", *(line[len("INFO ") :] for line in SPARSE_LINES[::2])]
    assert engine.sparsity(trt, options, SPARSE_LINES) == (said if asked else [])


def test_a_library_without_the_flag_says_so() -> None:
    trt, config = module_of(listed("11") - {"BuilderFlag.SPARSE_WEIGHTS"}), Flags()
    options = {"precision": "fp16", "sparse_weights": True}
    engine._configure(trt, None, config, options, b"")
    assert config.flags == set()
    assert "has no SPARSE_WEIGHTS" in " ".join(engine.sparsity(trt, options, SPARSE_LINES))


def test_signatures_are_read() -> None:
    text = "set_timing_cache(self: tensorrt.IBuilderConfig, cache: tensorrt.ITimingCache, ignore: bool = 1) -> bool"
    assert arguments(text) == (1, 2)


@needs.marked(needs.module(gate.PACKAGE, gate.DISTRIBUTION))
def test_the_rtx_bindings_have_what_is_used() -> None:
    module = importlib.import_module(gate.PACKAGE)
    assert set(missing(module, used())) <= ASKED_FOR
    assert miscounted(module, calls()) == []


@pytest.mark.proof
def test_the_8_5_2_bindings_have_what_is_used(tmp_path: Path) -> None:
    """Installs them on first use, which takes minutes. Without a GPU they can be imported and looked at, no more."""
    python = bindings_8_5()
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"used": sorted(used()), "calls": calls()}))
    done = subprocess.run(
        [str(python), str(HERE / "api_look.py"), str(Path(device.__file__).parent), str(names)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["version"] == "8.5.2.2"
    assert set(said["missing"]) <= ASKED_FOR
    assert said["miscounted"] == []
    assert said["phases"] is False
    assert said["facts"] == {}
    for what in ("builder", "runtime", "plan"):
        assert said[what] == ["environment", "TensorRT is installed, but there is no CUDA driver that it can use."]
    assert said["compile"][0] == "environment"
    assert said["types"] == ["float32", "float16", "int8", "int32", "bool", "uint8"]
    assert said["session"][0] == "environment"


def bindings_8_5() -> Path:
    """Return a Python that can import them; skips where it can't be had."""
    python = CACHE / "bin" / "python"
    if not (CACHE / "complete").is_file():
        base = python_3_10()
        steps = ([base, "-m", "venv", str(CACHE)], [str(python), "-m", "pip", "install", "--quiet", *PACKAGES])
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"TensorRT 8.5.2 can't be installed here: {done.stderr.strip()[-300:]}")
        (CACHE / "complete").touch()
    return python


def python_3_10() -> str:
    """The only Python that has wheels of it."""
    needs.skip_without(needs.python_need("3.10"))
    return str(needs.python("3.10"))
