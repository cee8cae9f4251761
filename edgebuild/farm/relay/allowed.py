"""What a host lets the user of a lease do with its device: what the runner's own client does, and nothing else."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgebuild.devices.messages import NotAMessage, one_line, read_message
from edgebuild.devices.runner.protocol import MAX_REQUEST_BYTES
from edgebuild.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The runner's operations that install nothing, and their fields in which it writes.
OPERATIONS = frozenset(
    {
        "bursts",
        "clocks",
        "compile",
        "energy",
        "evaluate",
        "hold",
        "layers",
        "measure",
        "memory",
        "probe",
        "stage",
        "throughput",
    }
)
WRITTEN = ("out", "outputs")
ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}
#: What is said to a runner behind its request is a word.
LONGEST_WORD = 64
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_RUNNER = re.compile(r"runner/([0-9a-f]{64})\.pyz")


class Rules(Protocol):
    """Says what may be done with a device; every method raises ``UsageError`` or ``DeviceError`` for what mayn't."""

    def require_program(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Allow a program to be started."""
        ...

    def request(self, line: str) -> str:
        """Allow the first line to a program, and return it as it is sent."""
        ...

    def word(self, line: str) -> str:
        """Allow a further line, and return it as it is sent."""
        ...

    def own(self, name: str) -> bool:
        """Whether the host places the file of this name itself."""
        ...

    def digest(self, name: str) -> str:
        """Allow a file to be placed, and return the SHA-256 that it has to have; empty for any."""
        ...

    def require_readable(self, remote: str) -> None:
        """Allow a file to be fetched."""
        ...

    def require_removable(self, remote: str) -> None:
        """Allow a file or folder to be removed."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunnerOnly:
    """Lets the runner client do its work, with this host's own runner.

    ``runner`` is its digest and ``backends`` are those in it, ``version`` and ``theirs`` the two ends' edgebuilds.
    """

    device: str
    root: str
    python: str
    runner: str
    backends: frozenset[str]
    version: str
    theirs: str
    native_libraries: bool = False
    pin_clocks: bool = False

    @property
    def runner_name(self) -> str:
        """Where the runner lies below the root."""
        return f"runner/{self.runner}.pyz"

    def require_program(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """The runner, and nothing else."""
        if len(argv) == 3 and argv[:2] == (self.python, "-B"):
            self._require_runner(argv[2].removeprefix(f"{self.root}/"))
        if tuple(argv) != (self.python, "-B", f"{self.root}/{self.runner_name}") or dict(env) != ENVIRONMENT:
            raise UsageError(f"On {self.device} a farm starts nothing but edgebuild's own runner.")

    def request(self, line: str) -> str:
        """Return the request as this host understood it: no other reading of it reaches the runner."""
        try:
            if len(line) > MAX_REQUEST_BYTES:
                raise NotAMessage("it is too long")
            request = read_message(line)
        except NotAMessage as error:
            raise UsageError(f"What was sent to the runner on {self.device} is no request: {error}.") from error
        self._require_allowed(request)
        return json.dumps(request, allow_nan=False)

    def word(self, line: str) -> str:
        """Let short words through."""
        if len(line) > LONGEST_WORD or not line.isprintable():
            raise UsageError(f"What was said to the runner on {self.device} is no word of edgebuild's.")
        return line

    def own(self, name: str) -> bool:
        """The runner comes from this host; another one is refused."""
        if _RUNNER.fullmatch(name) is None:
            return False
        self._require_runner(name)
        return True

    def digest(self, name: str) -> str:
        """Files go where their digests say."""
        found = _BLOB.fullmatch(name)
        if found is None:
            raise UsageError(f"On {self.device} nothing may be placed at {one_line(name)[:100]!r}.")
        return found[1]

    def require_readable(self, remote: str) -> None:
        """What the runner wrote, and the runner."""
        if remote != f"{self.root}/{self.runner_name}" and not self._is_work(remote):
            raise UsageError(f"On {self.device} {one_line(remote)[:100]!r} may not be read.")

    def require_removable(self, remote: str) -> None:
        """What the runner wrote, and a damaged runner."""
        if remote != self.runner_name and not self._is_work(remote):
            raise UsageError(f"On {self.device} {one_line(remote)[:100]!r} may not be removed.")

    def _require_runner(self, name: str) -> None:
        found = _RUNNER.fullmatch(name)
        if found is None or found[1] == self.runner:
            return
        raise UsageError(
            f"You run edgebuild {one_line(self.theirs)} with the runner {found[1][:12]}, the host of {self.device} "
            f"runs edgebuild {self.version} with the runner {self.runner[:12]}: they have to be the same.",
            hint="Install the same edgebuild, with the same plug-ins, on both.",
        )

    def _require_allowed(self, request: Mapping[str, Any]) -> None:
        if request.get("root") != self.root or request.get("op") not in OPERATIONS:
            raise UsageError(f"The runner on {self.device} may not be asked for that through a farm.")
        backends = request.get("backends")
        if not isinstance(backends, list) or not all(isinstance(one, str) and one in self.backends for one in backends):
            raise DeviceError(f"The host of {self.device} has no such backends.")
        if request.get("native_libraries") is not False and not self.native_libraries:
            raise UsageError(
                f"The host of {self.device} runs no native code that artifacts bring.",
                hint="Who runs the host may allow it: `edgebuild farm join --allow-native-libraries`.",
            )
        if request["op"] == "clocks" and not self.pin_clocks:
            raise UsageError(f"The host of {self.device} pins no clocks.", hint="Its inventory says so: pin_clocks.")
        for field in WRITTEN:
            if field in request and not (isinstance(request[field], str) and self._is_work(request[field])):
                raise UsageError(f"On {self.device} nothing is written there through a farm.")
        options = request.get("options", {})
        caches = options.get("timing_caches") if isinstance(options, dict) else None
        if caches is not None and caches != f"{self.root}/timing-caches":
            raise UsageError(f"On {self.device} nothing is cached there through a farm.")

    def _is_work(self, path: str) -> bool:
        return posixpath.normpath(path) == path and path.startswith(f"{self.root}/work/") and "\0" not in path
