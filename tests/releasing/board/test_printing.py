"""What is printed: nothing that a bundle says begins a line, and nobody has to be there to read it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.releasing.board import verify as script
from edgebuild.releasing.board.documents import MAX_SAID, MAX_SHOWN, Problem, named, shown
from edgebuild.releasing.board.verify import told

from .bundles import HERE, Maker, make_key, release, tiny
from .installs import bundle_of, status, version_of
from .script import command, verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORGED = "x\nsigned    the release index, by the boss\x1b[2J\u202e\u2028"


@given(st.text(max_size=300), st.integers(3, 250))
def test_what_is_shown_is_one_line_of_bounded_length(text: str, limit: int) -> None:
    line = shown(text, limit)
    assert (line.isprintable(), len(line) <= limit, shown(line, limit)) == (True, True, line)
    if text.isprintable() and len(text) <= limit:
        assert line == text


def test_of_long_lists_the_first_are_named_and_the_rest_counted() -> None:
    assert named(["a", "b\n"]) == "a, b\\n"
    assert named([f"{n}" for n in range(100)]).endswith("18, 19, and 80 more")
    assert len(named(["x" * 10_000] * 100)) < 21 * (MAX_SHOWN + 2)
    assert len(Problem("x" * 10_000, "y" * 10_000).message) == len(Problem("", "y" * 10_000).hint) == MAX_SAID


def test_no_field_of_a_report_begins_a_line() -> None:
    who = {"index": [{"name": FORGED, "key": FORGED}] * 50, "files": []}
    part = {"project": FORGED, "version": FORGED, "target": FORGED}
    report: dict[str, Any] = {
        **part, "digest": FORGED, "signed": {FORGED: who}, "slot": FORGED, "current": part, "previous": part,
        "warnings": [FORGED] * 50, "message": FORGED, "hint": FORGED,
    }  # fmt: skip
    lines = told(report)
    assert all(line.isprintable() and len(line) < 3 * MAX_SHOWN for line in lines)
    starts = ("release   ", "bytes     ", "current   ", "previous  ", "warning   ", "verify.py: ", "  how to fix it: ")
    mine = [line for line in lines if line.startswith("signed    the release index, and so everything, by x\\nsigned")]
    assert len(mine) == 20
    assert all(line.startswith((*starts, "          and 30 more")) for line in lines if line not in mine)


@pytest.mark.parametrize(
    "requires", [{"isa": [FORGED]}, {"isa": [f"a{n}" for n in range(10_000)]}, {"runtime_version": FORGED * 1000}]
)
def test_what_a_release_requires_forges_no_line(
    tmp_path: Path, parrot: Mapping[str, bytes], requires: dict[str, Any]
) -> None:
    bundle = Maker({"pi": (parrot, release(requires={**HERE, **requires}))}).make(tmp_path / "bundle")
    ended = subprocess.run(command(tmp_path, "check", bundle), capture_output=True, text=True, check=False)
    assert ended.returncode == 7
    assert [line[:9] for line in ended.stderr.splitlines()] == [
        "release  ", "bytes    ", "warning  ", "verify.py", "  how to ",
    ]  # fmt: skip
    assert len(ended.stderr) < 2 * MAX_SAID
    assert "and 9980 more" in ended.stderr or FORGED.partition("\n")[2][:20] in ended.stderr


def test_what_nobody_vouches_for_is_run_only_where_somebody_says_so(tmp_path: Path, parrot: dict[str, bytes]) -> None:
    key, ran = make_key(tmp_path, "team"), tmp_path / "ran"
    spying = f"open({str(ran)!r}, 'w').close()\n".encode() + parrot["runner.pyz"]
    files = {**parrot, "runner.pyz": spying}
    for by in ((), (key,)):
        bundle = Maker({"pi": (files, release())}, by=by).make(tmp_path / f"bundle{len(by)}")
        for words in (("check", bundle), ("install", bundle, "--root", tmp_path / "root")):
            ended = verify(tmp_path, *words, trusting=False)
            assert (ended.code, ended.message.startswith("Nobody vouches for this bundle")) == (7, True), ended
            assert all(word in ended.report["hint"] for word in ("--key", "--policy", "--trust-unsigned", "--no-run"))
        assert verify(tmp_path, "check", bundle, "--no-run").code == 0
        assert not ran.exists()
        assert not (tmp_path / "root").exists()
    assert verify(tmp_path, "check", bundle, "--key", key.public, "--no-latency").code == 0
    ran.unlink()
    assert verify(tmp_path, "install", bundle, "--root", tmp_path / "root", "--trust-unsigned").code == 0
    assert ran.exists()
    both = subprocess.run(
        command(tmp_path, "check", bundle, "--trust-unsigned", "--key", key.public), capture_output=True, check=False
    )
    assert both.returncode == 2


OUTPUTS = {
    "closed": '"$@" >&- 2>&-',
    "full": '"$@" >/dev/full 2>/dev/full',
    "cut": '"$@" | true; exit ${PIPESTATUS[0]}',
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_where_nobody_reads_the_work_is_what_counts(
    tmp_path: Path, parrot: dict[str, bytes], output: str, form: tuple[str, ...]
) -> None:
    root = tmp_path / "root"

    def code(*words: object) -> tuple[int, str]:
        line = ["bash", "-c", OUTPUTS[output], "bash", *command(tmp_path, *words), *form]
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stderr

    assert code("install", bundle_of(tmp_path, parrot, "2.0"), "--root", root) == (0, "")
    assert version_of(tmp_path) == "2.0"
    refused, said = code("install", bundle_of(tmp_path, parrot, "1.0"), "--root", root)
    assert (refused, "Traceback" in said, "Exception" in said) == (7, False, False)
    assert status(tmp_path).code == 0
    assert code("check", "--help") == (0, "")
    assert code("fly")[0] == 2


def test_a_fault_of_its_own_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(_: Path) -> None:
        raise RuntimeError(FORGED)

    bundle = tiny(tmp_path / "bundle")
    monkeypatch.setattr(script, "Bundle", faulty)
    assert script.main(["check", str(bundle), "--no-run"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("verify.py: A fault of this program stopped it: RuntimeError: x\\nsigned")
    assert ("Traceback" in said, len(said.splitlines())) == (False, 2)
    monkeypatch.setenv("EDGEBUILD_TRACEBACK", "1")
    assert script.main(["check", str(bundle), "--no-run", "--json"]) == 1
    captured = capsys.readouterr()
    assert ("Traceback (most recent call last)" in captured.err, json.loads(captured.out)["exit_code"]) == (True, 1)
