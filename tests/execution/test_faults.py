"""Whose fault an exception is: what becomes a result, what ends the build, and what a bug report holds."""

from __future__ import annotations

import errno
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.values import canonical_json
from edgebuild.errors import (
    ConfigError,
    DataError,
    DeviceError,
    EdgebuildError,
    EnvironmentGap,
    Interrupted,
    ModelError,
    RunnerFailed,
    StoreError,
    UsageError,
)
from edgebuild.execution import faults
from edgebuild.execution.faults import Failure, Guard

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = """\
from edgebuild.errors import DataError, ModelError, UsageError
import json

def fail(kind):
    raise {"data": DataError("no"), "usage": UsageError("no"), "key": KeyError("x"), "model": ModelError("no")}[kind]

def fail_in_ours():
    json.loads("{")
"""


class Panic(BaseException):
    """As native code panics: no ``Exception``."""


def alive() -> None:
    """The device answers."""


def guard(folder: Path, **more: Any) -> Guard:
    given = {"alive": alive, "reports": folder / "bugs", "project": folder, "command": "edgebuild build"}
    return Guard(**{**given, **more})


def raising(error: BaseException) -> Any:
    def work() -> None:
        raise error

    return work


def failed(guard: Guard, work: Any) -> Failure:
    found = guard.attempt("quick/int8", work)
    assert isinstance(found, Failure)
    return found


def test_what_works_is_returned(tmp_path: Path) -> None:
    assert guard(tmp_path).attempt("it", lambda: 3) == 3
    assert not (tmp_path / "bugs").exists()


@pytest.mark.parametrize(
    "error",
    [IndexError("7"), RecursionError(), AssertionError(), SystemExit(0), Panic("at a.rs:1"), UnicodeError("\ud800")],
    ids=lambda e: type(e).__name__,
)
def test_any_exception_is_a_result_with_a_bug_report(error: BaseException, tmp_path: Path) -> None:
    found = failed(guard(tmp_path), raising(error))
    assert found.sentence.startswith("a bug in edgebuild: " + type(error).__name__ + " in ")
    assert "\n" not in found.sentence
    assert found.unexpected
    report = (tmp_path / found.report).read_text()
    assert "Traceback (most recent call last)" in report
    assert "command: edgebuild build\npython 3." in report
    assert (type(found.error), found.error.__cause__) == (EdgebuildError, error)
    assert found.notes == (f"bug report: {found.report}",)


def test_no_bug_report_shows_a_password(tmp_path: Path) -> None:
    def work() -> None:
        raise ValueError("can't open s3://me:hunter2@bucket/models")

    found = guard(tmp_path).attempt("fp32", work)
    assert isinstance(found, Failure)
    (report,) = tmp_path.rglob("bug-*.txt")
    assert "bucket/models" in report.read_text()
    assert "hunter2" not in report.read_text() + found.sentence


def test_a_bug_of_ours_is_told_with_its_line(tmp_path: Path) -> None:
    one, other = (failed(guard(tmp_path), lambda: canonical_json(object())) for _ in "12")
    assert one.report == other.report, "the same bug is one file"
    assert one.sentence.startswith("a bug in edgebuild: TypeError in core/values.py:")


def test_too_little_memory_is_no_bug(tmp_path: Path) -> None:
    found = failed(guard(tmp_path), raising(MemoryError()))
    assert found.sentence.startswith("there is too little memory on this machine: MemoryError in ")
    assert isinstance(found.error, EnvironmentGap)


def test_findings_about_the_model_are_what_they_say(tmp_path: Path) -> None:
    for error in (ModelError("no kernel"), EnvironmentGap("no nncf")):
        found = failed(guard(tmp_path), raising(error))
        assert (found.sentence, found.unexpected, found.error, found.report) == (error.message, False, error, "")
    crash = RunnerFailed("It crashed.", said="boom")
    found = failed(guard(tmp_path), raising(crash))
    assert (found.sentence, found.unexpected, found.error) == ("It crashed.", True, crash)
    assert found.notes == ("the end of the runner's error output: boom",)


@pytest.mark.parametrize(
    "error",
    [
        StoreError("full"),
        DataError("bad"),
        UsageError("bad"),
        ConfigError("edgebuild.toml", ("bad",)),
        DeviceError("gone"),
        Interrupted("stopped"),
        KeyboardInterrupt(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_is_not_the_works_fault_ends_the_build(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        guard(tmp_path).attempt("it", raising(error))


def test_a_runner_that_fails_with_its_device_is_the_devices(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="gone"):
        guard(tmp_path, alive=raising(DeviceError("gone"))).attempt("it", raising(RunnerFailed("crashed")))


def test_a_full_disk_is_the_disks(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is full: quick/int8 failed"):
        guard(tmp_path).attempt("quick/int8", raising(OSError(errno.ENOSPC, "No space left on device")))
    assert isinstance(guard(tmp_path).attempt("it", raising(OSError(errno.ENOENT, "no"))), Failure)


def test_a_ctrl_c_that_a_library_wrapped_is_still_one(tmp_path: Path) -> None:
    def work() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("could not load") from error

    with pytest.raises(Interrupted):
        guard(tmp_path).attempt("it", work)


def test_the_users_own_code_is_named_as_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_net.py").write_text("def make():\n    return [][0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = failed(guard(tmp_path), __import__("users_net").make)
    assert (
        found.sentence == "an error in the project's own code: IndexError in users_net.py:2 (list index out of range)"
    )
    assert isinstance(found.error, ModelError)
    monkeypatch.delitem(sys.modules, "users_net")


def test_whatever_a_plug_in_raises_is_its_candidates_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fragile_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    plugin: Any = __import__("fragile_plugin")
    entry = importlib.metadata.EntryPoint("fragile", "fragile_plugin:make", "edgebuild.quantisers")
    monkeypatch.setattr(faults, "entry_points", lambda group: [entry] if group == entry.group else [])
    watching = guard(tmp_path, project=tmp_path / "elsewhere")
    for kind in ("data", "usage", "model"):
        found = failed(watching, lambda kind=kind: plugin.fail(kind))
        assert (found.sentence, found.unexpected) == ("no", False)
    found = failed(watching, lambda: plugin.fail("key"))
    assert found.sentence == "a bug in the plug-in fragile_plugin: KeyError in fragile_plugin.py:5 ('x')"
    assert isinstance(found.error, EnvironmentGap)
    assert "JSONDecodeError in fragile_plugin.py:8" in failed(watching, plugin.fail_in_ours).sentence
    monkeypatch.delitem(sys.modules, "fragile_plugin")
