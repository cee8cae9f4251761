"""What a device says of a release is believed as far as its form allows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from edgebuild.core.steps import never_stop
from edgebuild.errors import DeviceError
from edgebuild.releasing.on_device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.devices.client import RunnerClient


class SaidByADevice:
    """Stands for a device whose check says what a test wants: no real one lies."""

    id, python, root = "a board", "python3", "/board"

    def __init__(self, lines: Sequence[str], code: int) -> None:
        self._lines, self._code = list(lines), code
        self.device = self

    def put(self, source: Path, name: str) -> str:
        assert source.read_bytes()
        return f"/board/{name}"

    def open(self, argv: Sequence[str], env: object) -> SaidByADevice:
        assert argv[-1] == "--json"
        assert env == {}
        return self

    def receive(self, timeout_s: float) -> str | None:
        assert timeout_s > 0
        return self._lines.pop(0) if self._lines else None

    def wait(self, timeout_s: float) -> int:
        assert timeout_s > 0
        return self._code

    def kill(self) -> None:
        pass

    def stderr_tail(self) -> str:
        return "its last words"


def asked(lines: Sequence[str], code: int) -> Any:
    client = cast("RunnerClient", SaidByADevice(lines, code))
    return run_on_device(client, "status", (), check=never_stop)


@pytest.mark.parametrize("code", [0, 1, 2, 6, 7, 130])
def test_a_report_with_its_exit_code_is_taken(code: int) -> None:
    report = {"exit_code": code, "warnings": ["odd"]}
    found = asked(["what else it prints", json.dumps(report)], code)
    assert (found.code, found.report) == (code, report)
    assert any("odd" in line for line in found.lines)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], 0),
        (["nonsense"], 0),
        (["[]"], 0),
        (['{"exit_code": 0, "warnings": []}'], 7),
        (['{"exit_code": 3, "warnings": []}'], 3),
        (["[" * 100_000], 0),
        (['{"exit_code": 0, "warnings": 7}'], 0),
        (['{"exit_code": 0, "warnings": [], "answers": 1}'], 0),
        (['{"exit_code": 0, "warnings": [], "signed": {"a": 1}}'], 0),
        (["x"] * 20_000, 0),
    ],
)
def test_anything_else_is_one_sentence(lines: list[str], code: int) -> None:
    with pytest.raises(DeviceError) as caught:
        asked(lines, code)
    assert "a board" in caught.value.message
