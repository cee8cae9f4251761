"""Whatever bytes or values edgebuild.toml holds: a project, or one ``EdgebuildError``; never another exception."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from edgebuild.building import plans
from edgebuild.building.context import Options, store_of
from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.project import load_project
from edgebuild.catalogue.tables import read_toml
from edgebuild.catalogue.targets import load_targets
from edgebuild.errors import ConfigError, EdgebuildError, EnvironmentGap
from edgebuild.fleet.inventory import inventory_path, load_inventory
from edgebuild.fleet.provider import InventoryProvider
from tests.cli.example import write_project
from tests.mutants import COUNTS, altered, damaged

#: What this machine's probe says, so that a plan starts no process.
PROBE = {"arch": "x86_64", "isa": "avx2", "cores": "2", "memory_bytes": "8000000000", "runtime.onnxruntime": "1.20"}
#: Every table that a project may have.
WHOLE: dict[str, Any] = {
    "project": {"name": "tiny"},
    "model": {"onnx": "model.onnx"},
    "inputs": [{"name": "image", "shape": ["batch", 1, 8, 8], "dtype": "float32"}],
    "freeze": {"batch": 1},
    "data": {"calibration": "data:calibration", "validation": "data:validation", "test": "data:test"},
    "metric": {"name": "accuracy"},
    "budget": {"points": 2.0, "per_slice_points": 5.0},
    "limits": {"latency_p99_ms": 5.0, "file_size_mb": 1.0},
    "build": {"targets": ["quick"], "threads": 1, "objective": "latency", "seed": 1, "keep_float": ["head"]},
    "store": {"url": "store", "quota_gb": 2.0},
    "recipes": [{"name": "small", "steps": [{"technique": "prune-structured", "keep": 0.5}]}],
}


def dumped(value: Any) -> str:
    """Return a value as TOML would have it, or nearly: what TOML lacks is written as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 10**4000 else "9" * 5000
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else {"inf": "inf", "-inf": "-inf", "nan": "nan"}[str(value)]
    if isinstance(value, list):
        return f"[{', '.join(map(dumped, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{text(str(key))} = {dumped(inner)}' for key, inner in value.items())}}}"
    return text(str(value))


def text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("hostile") / "project")


def probed(client: object) -> dict[str, str]:
    """What this machine says, without a process that reads it."""
    del client
    return PROBE


@pytest.fixture
def planned(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what reads the file as ``plan`` does before any data are read; whether nothing was wrong with it."""
    monkeypatch.setattr(plans, "probe_here", probed)

    def read(content: bytes) -> bool:
        (project / "edgebuild.toml").write_bytes(content)
        try:
            loaded = load_project(project)
            assert loaded.store.quota_gb is None or int(loaded.store.quota_gb * 1e9) >= 0
            return bool(plans.plan_only(loaded, Options(), InventoryProvider()))
        except EdgebuildError as error:
            return not error.message.strip()

    return read


WHOLE_TEXT = "\n".join(f"{key} = {dumped(value)}" for key, value in WHOLE.items()).encode()


def test_the_whole_file_is_sound(planned: Any) -> None:
    assert planned(WHOLE_TEXT)


@pytest.mark.parametrize("count", COUNTS)
def test_any_bytes_are_a_project_or_one_error(count: int, planned: Any) -> None:
    assert 0 < sum(planned(damaged(WHOLE_TEXT, seed)) for seed in range(count)) < count


@pytest.mark.parametrize("count", COUNTS)
def test_any_values_are_a_project_or_one_error(count: int, planned: Any) -> None:
    sound = 0
    for seed in range(count):
        tables = altered(WHOLE, seed)
        lines = [f"{text(str(k))} = {dumped(v)}" for k, v in tables.items()] if isinstance(tables, dict) else ["x"]
        sound += planned("\n".join(lines).encode("utf-8", "surrogatepass"))
    assert 0 < sound < count


PROBLEMS: dict[str, tuple[bytes, str]] = {
    "a number of 5,000 digits": (b"x = " + b"9" * 5000, "a number or a date is out of range"),
    "a number of 65 bits": (b"[budget]\npoints = 18446744073709551616", r"[budget].points: a whole number has 64 bits"),
    "a hexadecimal number of 5,000 digits": (b"x = 0x" + b"f" * 5000, "x: a whole number has 64 bits at most"),
    "lists in lists": (b"x = " + b"[" * 30 + b"]" * 30, "more than 20 deep"),
    "lists in lists without end": (b"x = " + b"[" * 50_000, "more than 20 deep"),
    "tables in tables": (b".".join([b"a"] * 300) + b" = 1", "more than 20 deep"),
    "NUL in a path": (b'[model]\nonnx = "a\\u0000.onnx"', "[model].onnx: holds a control character"),
    "ESC in a key": (b'"\\u001b[31m" = 1', "a key holds a control character"),
    "UTF-16": ("x = 1".encode("utf-16"), "not UTF-8"),
    "Latin-1": ('x = "é"'.encode("latin-1"), "line 1: not UTF-8"),
    "a key twice": (b"x = 1\nx = 2", "not valid TOML"),
    "a date that isn't one": (b"x = 2026-13-45", "not valid TOML"),
    "larger than 1 MiB": (b"#" * (1 << 20) + b"#", "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_no_file_of_ours_holds_is_said(name: str, tmp_path: Path) -> None:
    content, message = PROBLEMS[name]
    (tmp_path / "edgebuild.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert message in caught.value.message


def test_windows_line_ends_and_a_byte_order_mark_are_fine(planned: Any) -> None:
    assert planned(b"\xef\xbb\xbf" + WHOLE_TEXT.replace(b"\n", b"\r\n"))


def test_dates_and_numbers_that_are_none_are_the_wrong_type(tmp_path: Path) -> None:
    file = tmp_path / "edgebuild.toml"
    file.write_text("[budget]\npoints = nan\n[limits]\nlatency_p99_ms = inf\n[build]\nthreads = nan\nseed = 2026-01-01")
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    for key in ("[budget].points", "[limits].latency_p99_ms", "[build].threads", "[build].seed"):
        assert f"  - {key}: must be" in caught.value.message


SPECIAL = {
    "folder": "a folder",
    "pipe": "a named pipe",
    "device": "a device",
    "socket": "a socket",
    "loop": "Too many levels of symbolic links",
    "long": "File name too long",
}


def special(kind: str, path: Path) -> Path:
    """Make something at ``path`` that is no plain file; return where it is."""
    if kind == "folder":
        path.mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    elif kind == "loop":
        path.symlink_to(path)
    return path.with_name("x" * 5000) if kind == "long" else path


@pytest.mark.parametrize("kind", SPECIAL)
def test_no_plain_file_is_read_for_a_configuration(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = special(kind, Path("e.toml"))
    with pytest.raises(ConfigError, match=f"the file can't be read: .*{SPECIAL[kind]}"):
        read_toml(path)


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "socket"])
@pytest.mark.parametrize(("table", "key"), [("model", "onnx"), ("data", "test")])
def test_a_file_that_is_none_is_a_problem_like_any_other(kind: str, table: str, key: str, tmp_path: Path) -> None:
    ending = {"onnx": ".onnx", "test": ".npz"}[key]
    name = "x" * 5000 + ending if kind == "long" else "f" + ending
    if kind != "long":
        special(kind, tmp_path / name)
    tables = {**WHOLE, table: {**WHOLE[table], key: name}, "budget": {"points": -1}}
    (tmp_path / "edgebuild.toml").write_text("\n".join(f"{k} = {dumped(v)}" for k, v in tables.items()))
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert f"[{table}].{key}: {tmp_path / name}" in caught.value.message
    assert SPECIAL[kind] in caught.value.message
    assert "[budget].points: must be greater than 0" in caught.value.message


@pytest.mark.parametrize("load", [load_targets, load_profiles])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
def test_targets_and_profiles_of_the_users_are_plain_files_too(load: Any, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / ("targets" if load is load_targets else "profiles")
    folder.mkdir()
    special(kind, folder / "mine.toml")
    with pytest.raises(ConfigError, match=SPECIAL[kind]):
        load(tmp_path)


@pytest.mark.parametrize("load", [load_targets, load_profiles])
def test_a_folder_of_targets_that_is_none_has_none(load: Any, tmp_path: Path) -> None:
    (tmp_path / "targets").symlink_to("targets")
    (tmp_path / "profiles").symlink_to("profiles")
    assert load(tmp_path)


@pytest.mark.parametrize("url", ["http://[::1", "nosuch://x", "s3:///", "~nobody-here/store"])
def test_odd_urls_of_a_store_are_one_error(url: str, project: Path) -> None:
    tables = {**WHOLE, "store": {"url": url}}
    (project / "edgebuild.toml").write_text("\n".join(f"{k} = {dumped(v)}" for k, v in tables.items()))
    with pytest.raises(EdgebuildError), store_of(load_project(project)):
        pass


def test_an_inventory_that_is_none_and_one_that_can_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "devices.toml"
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(path))
    assert load_inventory() == {}
    path.write_text("devices = 3")
    with pytest.raises(ConfigError, match=r"\[devices\] should be a table"):
        load_inventory()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="a named pipe"):
        load_inventory()


def test_who_has_no_home_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEBUILD_DEVICES", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(homeless))
    assert load_inventory() == {}
    with pytest.raises(EnvironmentGap, match="no home folder"):
        inventory_path()
