"""Has a device check, install or roll back a release by itself: the program that it does so with is ours, not the
bundle's, and what it answers is believed as far as its form allows.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.core.values import digest_bytes
from edgebuild.errors import DeviceError
from edgebuild.releasing.board.verify import told
from edgebuild.releasing.board_script import board_script

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgebuild.devices.client import RunnerClient

#: Putting a release together, loading its model and answering takes a slow board less than this.
LIMIT_S = 3600.0
POLL_S = 0.5
#: What the program may say, but for its last line.
MAX_LINES = 10_000
#: The exit codes that it documents.
EXIT_CODES = frozenset({0, 1, 2, 6, 7, 130})


@dataclass(frozen=True, kw_only=True)
class BoardAnswer:
    """What the device's own check came to: its exit code, its report, and what people read of that."""

    code: int
    report: Mapping[str, Any]
    lines: tuple[str, ...]


def run_on_device(
    client: RunnerClient,
    command: str,
    arguments: Sequence[str],
    *,
    bundle: Path | None = None,
    files: Mapping[str, bytes] | None = None,
    check: Callable[[], None],
) -> BoardAnswer:
    """Run a command of ``verify.py`` on a device, with a bundle that is sent to it and ``files`` for its options.

    Raises ``DeviceError`` where the device is out of reach or answers nonsense, and whatever ``check`` raises.
    """
    device = client.device
    words = [device.python, "-B", _sent(client, board_script(), "verify.py"), command]
    words += [client.put_folder(bundle)] if bundle is not None else []
    for option, data in (files or {}).items():
        words += [option, _sent(client, data, "option")]
    channel = device.open([*words, *arguments, "--json"], {})
    try:
        line = _last_line(channel, device.id, check)
        code = channel.wait(LIMIT_S)
        return _answer(line, code, device.id, channel.stderr_tail())
    finally:
        channel.kill()


def _sent(client: RunnerClient, data: bytes, kind: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, kind)
        source.write_bytes(data)
        return client.device.put(source, f"release/{digest_bytes(data)}-{kind}")


def _last_line(channel: Any, who: str, check: Callable[[], None]) -> str:
    deadline, last = time.monotonic() + LIMIT_S, ""
    for _ in range(MAX_LINES):
        while True:
            check()
            if time.monotonic() > deadline:
                raise DeviceError(f"{who} didn't finish within {LIMIT_S:,.0f} s.", hint="Look at what else it does.")
            try:
                line = channel.receive(POLL_S)
                break
            except TimeoutError:
                continue
        if line is None:
            return last
        last = line
    raise DeviceError(f"{who} says more than any check of a release has to say.")


def _answer(line: str, code: int, who: str, stderr: str) -> BoardAnswer:
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or code not in EXIT_CODES or report.get("exit_code") != code:
        said = stderr.strip().splitlines()[-1:] or ["nothing"]
        raise DeviceError(
            f"The check on {who} ended with {code} and without a report; its last words: {said[0][:300]}.",
            hint="`edgebuild doctor` checks the device.",
        )
    try:
        lines = tuple(map(str, told(report)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DeviceError(f"{who} reports nonsense of the release.", hint="`edgebuild doctor` checks it.") from error
    return BoardAnswer(code=code, report=report, lines=lines)
