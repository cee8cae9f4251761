"""`--json` on every command: one document on standard output, as the schema says it; everything else goes elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import jsonschema
import pytest
import typer

from edgebuild.cli import console, farm_asking, schemas
from edgebuild.cli.answering import wants_json
from edgebuild.cli.app import app
from edgebuild.cli.output import say_json
from edgebuild.cli.streams import output_to_stderr
from edgebuild.core.values import Value
from edgebuild.farm.values import JobState, LogLine
from tests.cli.answers import answered, failed, typed, valid, validator
from tests.cli.example import newest, record, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Commands that print no answer with --json, and why not.
WITHOUT = {
    "mcp": "standard output holds the protocol",
    "farm join": "it prints nothing on standard output",
    "schema": "it prints JSON anyhow",
}
#: What a project's code prints in every way there is: by Python, past it, by another process, and as Python ends.
NOISE = """\
import atexit, os, subprocess
print("printed")
os.write(1, b"written\\n")
subprocess.run(["echo", "echoed"], check=True)
atexit.register(print, "at its end")
"""


def commands() -> Iterator[tuple[str, set[str]]]:
    """Yield every command with its options, as the program has them."""

    def below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        for name, each in group.commands.items():
            if hasattr(each, "commands"):
                yield from below(each, (*words, name))
            else:
                yield " ".join((*words, name)), {option for param in each.params for option in param.opts}

    yield from below(cast("Any", typer.main.get_command(app)), ())


def test_every_command_prints_json_and_has_a_schema() -> None:
    known = dict(commands())
    assert set(WITHOUT) <= set(known)
    without = {name for name, options in known.items() if "--json" not in options}
    assert without == set(WITHOUT)
    assert set(schemas.ANSWERS) - {schemas.ERROR} == set(known) - set(WITHOUT)


@pytest.mark.parametrize("command", schemas.ANSWERS)
def test_every_schema_is_one(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.schema_of(command))
    assert list(validator(command).iter_errors({"no": "answer"})), "it takes anything"


def test_schemas_are_printed_by_name_or_all(tmp_path: Path) -> None:
    one = typed("schema", "farm", "list", cwd=tmp_path)
    assert json.loads(one.out) == schemas.schema_of("farm list")
    every = json.loads(typed("schema", cwd=tmp_path).out)
    assert every.keys() == schemas.ANSWERS.keys()
    assert every["farm list"] == json.loads(one.out)
    wrong = typed("schema", "mcp", cwd=tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert "farm list" in wrong.err


def test_what_is_looked_up_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    names = {each["name"] for each in answered("targets", cwd=tmp_path)}
    assert "raspberry-pi-5" in names
    (pi,) = answered("targets", "raspberry-pi-5", cwd=tmp_path)
    assert pi["facts"]["cores"]["value"] == 4
    assert answered("doctor", cwd=tmp_path)["findings"]
    assert answered("device", "list", cwd=tmp_path) == []
    assert "pickled" in answered("init", "net.pt", cwd=tmp_path)["notes"][0]
    made = answered("init", cwd=tmp_path)
    assert made["path"] == str(tmp_path / "edgebuild.toml")
    assert (tmp_path / "edgebuild.toml").is_file()


def test_a_build_that_is_done_is_answered(built: Path) -> None:
    found = record(built)
    folder = newest(built)
    report = answered("report", cwd=built)
    assert (report["build_id"], report["outcome"]) == (found["build_id"], "ok")
    assert report["record"] == str(folder / "build.json")
    assert report["report"] == str(folder / "report.html")
    assert report["artifact"] == str(folder / "artifact")
    (fp32,) = report["candidates"]
    assert fp32["verdict"] == "accepted"
    assert fp32["certified"]
    assert fp32["drop"] == found["candidates"][0]["test"]["drop"]
    assert fp32["latency"]["point_ms"] == found["candidates"][0]["measured"]["latency"]["point_ms"]
    explained = answered("explain", "fp32", cwd=built)
    assert explained["candidate"] == found["candidates"][0]
    assert explained["steps"]
    (plan,) = answered("plan", cwd=built)
    assert [each["id"] for each in plan["candidates"]] == ["quick/fp32"]
    assert plan["seconds"] == pytest.approx(sum(cost["seconds"] for cost in plan["costs"]))
    same = answered("doctor", "--against", found["build_id"], cwd=built)
    assert (same["against"], same["differences"]) == (found["build_id"], [])
    assert answered("store", "du", cwd=built)["entries"] > 0
    assert answered("store", "gc", "--quota-gb", "0", cwd=built)["left_bytes"] == 0


def test_a_build_prints_one_document_whatever_its_code_prints(built: Path) -> None:
    code = built / "data.py"
    code.write_text(NOISE + code.read_text())
    ended = run("build", "--json", cwd=built)
    assert ended.code == 0, ended
    (told,) = valid("build", ended.out)
    assert told["build_id"] == record(built)["build_id"]
    assert all(line in ended.err for line in ("printed", "written", "echoed", "at its end"))
    missed = run("build", "--budget", "floor 0.999", "--json", cwd=built)
    (told,) = valid("build", missed.out)
    assert (missed.code, told["outcome"], told["chosen"]) == (3, "missed", None)
    assert told["candidates"][0]["verdict"] == "refused"


def test_a_failure_is_a_document_too(tmp_path: Path) -> None:
    assert failed("targets", "no-such", cwd=tmp_path)["kind"] == "UsageError"
    assert failed("build", "--no-such-option", cwd=tmp_path)["kind"] == "UsageError"
    assert failed("explain", cwd=tmp_path)["exit_code"] == 2
    (tmp_path / "edgebuild.toml").write_text("[project]\nnam = 1\n")
    wrong = failed("plan", cwd=tmp_path)
    assert wrong["kind"] == "ConfigError"
    assert "nam" in wrong["message"]
    assert json.loads(typed("mcp", "--json", cwd=tmp_path).out)["error"]["kind"] == "UsageError"


def test_what_nobody_foresaw_is_a_document_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    def broken(**_: object) -> None:
        raise ZeroDivisionError

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.chdir(tmp_path)
    for command, kind, code in ((interrupted, "Interrupted", 130), (broken, "Bug", 1), (full, "EnvironmentGap", 6)):
        assert console.run(command, ["--json"]) == code
        error = valid(schemas.ERROR, capsys.readouterr().out)["error"]
        assert (error["kind"], error["exit_code"]) == (kind, code)
        assert console.run(command, []) == code
        assert capsys.readouterr().out == ""


def test_what_follows_two_dashes_is_no_option() -> None:
    assert wants_json(["explain", "x", "--json"])
    assert not wants_json(["explain", "--", "--json"])
    assert not wants_json([])


def test_whoever_prints_while_a_command_works_prints_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with output_to_stderr():
        print("by Python")
        os.write(1, b"past it\n")
        subprocess.run([sys.executable, "-c", "print('by another process')"], check=True)
    print("after")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert sorted(err.splitlines()) == ["by Python", "by another process", "past it"]


class PretendFarm:
    """A farm with one job that ended after it said two lines."""

    lines = tuple(LogLine(number=n, at=float(n), text=text) for n, text in ((1, "one"), (2, "two\x1b[2J\n")))

    def ask(self, _: str, path: str, __: object) -> Any:
        return self.lines if "/log?" in path else SimpleNamespace(state=JobState.ENDED)


def test_a_log_is_a_document_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(farm_asking, "asked", lambda _: contextlib.nullcontext(PretendFarm()))
    farm_asking.show_log(None, "j" + "0" * 15, follow=False, as_json=True)
    found = [valid("farm logs", line) for line in capsys.readouterr().out.splitlines()]
    assert [each["text"] for each in found] == ["one", "two\x1b[2J\n"]


class Odd(Value):
    text: str
    figures: tuple[float, ...] = ()


def test_json_is_exact_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    text = '[red]a\x1b[2J\u202eb\x9b\ud800\U000e0001 naïve ✓\n\t"\\'
    say_json({"text": text, text: 1})
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "naïve ✓" in shown
    assert json.loads(shown) == {"text": text, text: 1}
    say_json(Odd(text="s3://me:hunter2@bucket/x", figures=(float("nan"), float("-inf"))).model_dump(), line=True)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert json.loads(shown) == {"text": "s3://…@bucket/x", "figures": ["NaN", "-Infinity"]}
    say_json({"a": "http://x", "b": "y@z"}, line=True)
    assert json.loads(capsys.readouterr().out) == {"a": "http://x", "b": "y@z"}
