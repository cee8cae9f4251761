"""What one process on a device says, from its first line to its end."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

from edgebuild.devices import answers
from edgebuild.devices.messages import MESSAGE_CHARACTERS, NotAMessage, printable, read_message
from edgebuild.devices.runner.protocol import ORPHANED
from edgebuild.errors import (
    DataError,
    DeviceError,
    EdgebuildError,
    EnvironmentGap,
    ModelError,
    RunnerFailed,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgebuild.devices.transport import Channel

POLL_S = 0.1
EXIT_S = 10.0
MAX_TOTAL_BYTES = 16 << 20
MAX_LINES = 100_000
#: Operations that run the user's model in a runtime: when one dies, that may be the model's doing.
MODEL_OPS = frozenset({"compile", "evaluate", "measure", "bursts", "throughput", "memory", "energy", "layers"})

_ERRORS: Mapping[str, type[EdgebuildError]] = {
    "model": ModelError,
    "data": DataError,
    "environment": EnvironmentGap,
    "full": StoreError,
    "usage": UsageError,
    "device": DeviceError,
    "runtime": RunnerFailed,
}


class Conversation:
    """What one process says until its result, its error or its end; all of it is taken as hostile."""

    def __init__(
        self,
        channel: Channel,
        op: str,
        device: str,
        limit_s: float,
        silence_s: float | None,
        check: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._op = op
        self._who = f"The runner on {device} ({op})"
        self._runs_model = op in MODEL_OPS
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._silence_s = limit_s if silence_s is None else silence_s
        self._check = check
        self._bytes = 0
        self._lines = 0

    def result(self, on_event: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
        """Return the result; raises what ``RunnerClient.call`` says."""
        while True:
            message = self._next()
            if "event" in message:
                event = answers.checked(answers.Event, message, self._who)
                if on_event is not None:
                    on_event(event)
            elif isinstance(message.get("result"), dict):
                self._end()
                return answers.answered(self._op, message["result"], self._who)
            elif isinstance(message.get("error"), dict):
                raise self._error(message["error"])
            else:
                raise self._nonsense(json.dumps(message))

    def event(self, kind: str) -> dict[str, Any]:
        """Return the next event of a kind, passing over others; raises what ``RunnerClient.call`` says."""
        while True:
            message = self._next()
            if isinstance(message.get("error"), dict):
                raise self._error(message["error"])
            if "event" not in message:
                raise self._nonsense(json.dumps(message))
            event = answers.checked(answers.Event, message, self._who)
            if event["event"] == kind:
                return event

    def _next(self) -> dict[str, Any]:
        line = self._line()
        if line is None:
            raise self._ended()
        self._bytes += len(line)
        self._lines += 1
        if self._bytes > MAX_TOTAL_BYTES or self._lines > MAX_LINES:
            raise self._broken(f"wrote more than {MAX_TOTAL_BYTES} bytes or {MAX_LINES} lines and was stopped")
        try:
            return read_message(line)
        except NotAMessage:
            raise self._nonsense(line) from None

    def _line(self) -> str | None:
        patience = time.monotonic() + self._silence_s
        while True:
            self._check()
            now = time.monotonic()
            left = self._deadline - now
            if left <= 0:
                raise self._failed(f"gave no answer within {self._limit_s:g} s and was stopped")
            if now >= patience:
                raise self._failed(f"said nothing for {self._silence_s:g} s and was stopped")
            try:
                return self._channel.receive(min(POLL_S, left))
            except TimeoutError:
                continue

    def _end(self) -> None:
        status = self._exit_status()
        if status != 0:
            raise self._failed(f"answered, but {_how_it_ended(status)}")

    def _ended(self) -> DeviceError:
        status = self._exit_status()
        if status == ORPHANED:
            return self._broken("ended because nobody seemed to wait for it: the connection was cut")
        return self._failed(f"{_how_it_ended(status)} without an answer")

    def _exit_status(self) -> int:
        deadline = time.monotonic() + EXIT_S
        while True:
            self._check()
            try:
                return self._channel.wait(POLL_S)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise self._failed("closed its output but did not end, and was stopped") from None

    def _error(self, error: dict[str, Any]) -> EdgebuildError:
        message, hint = error.get("message"), error.get("hint", "")
        kind = _ERRORS.get(str(error.get("kind")), DeviceError)
        if not isinstance(message, str) or not isinstance(hint, str):
            return self._nonsense(json.dumps(error))
        if kind is RunnerFailed:
            return self._failed(f"failed: {printable(message)}", hint=printable(hint))
        if kind is DeviceError:
            return self._broken(f"failed: {printable(message)}", hint=printable(hint))
        return kind(printable(message), hint=printable(hint))

    def _nonsense(self, line: str) -> DeviceError:
        return self._broken(f"wrote something that is not its protocol: {printable(line[:200])!r}")

    def _broken(self, what: str, *, hint: str = "") -> DeviceError:
        """The device or the way to it is at fault, not what the runner ran."""
        failed = self._failed(what, hint=hint)
        return DeviceError(failed.message, hint=failed.hint)

    def _failed(self, what: str, *, hint: str = "") -> DeviceError:
        """This process is at fault; where it ran a model, perhaps that."""
        said = printable(self._channel.stderr_tail()[-MESSAGE_CHARACTERS:])
        failed = RunnerFailed(
            f"{self._who} {what}.", hint=hint or "Try again; `edgebuild doctor` checks the device.", said=said
        )
        return failed if self._runs_model else DeviceError(failed.message, hint=failed.hint)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in signal.Signals.__members__.values() else f"signal {-status}"
    meaning = {
        "SIGKILL": "something killed it; the system does so when memory runs out",
        "SIGALRM": "its own time limit",
        "SIGILL": "the runtime used an instruction that this CPU lacks",
        "SIGSEGV": "the runtime crashed",
        "SIGABRT": "the runtime gave up",
    }.get(name, "it was stopped")
    return f"was ended by {name} ({meaning})"
