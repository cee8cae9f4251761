"""Calls the runner on a device: one fresh process per call, and nothing left running however the call ends."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgebuild.core.artifact_files import MANIFEST, check_files, list_files, read_artifact
from edgebuild.core.steps import never_stop
from edgebuild.core.values import digest_bytes, digest_file, digest_json
from edgebuild.devices.bundle import build_bundle
from edgebuild.devices.conversation import Conversation
from edgebuild.errors import (
    DeviceError,
    EdgebuildError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edgebuild.core.steps import StepContext
    from edgebuild.devices import answers
    from edgebuild.devices.transport import Channel, Device

PROTOCOL = 2
Held: TypeAlias = Literal["not", "shared", "alone"]
#: Reading all of a large data set from a slow card takes minutes.
STAGE_LIMIT_S = 1800.0
#: The runner's own limit comes a little later than ours, so that ours speaks where both are alive.
RUNNER_GRACE_S = 5.0
#: Over a link that can be cut a host knocks this often, and the runner ends when it hears nothing for ``SILENCE_S``.
HEARTBEAT_S = 5.0
SILENCE_S = 30.0


def client_of(ctx: StepContext) -> RunnerClient:
    """Return how the device of a running step is reached; raises ``EdgebuildError`` where there is none."""
    if not isinstance(ctx.device, RunnerClient):
        raise EdgebuildError("This step runs on a device, and there is none.")
    return ctx.device


class RunnerClient:
    """Runs operations in the runner on one device. Not to be shared between threads.

    ``backend_device_files`` maps a backend's name to its ``device.py``; they travel inside the runner.
    ``runner_digest`` is the SHA-256 of what runs on the device. ``attempt`` is the number under which the device is
    held (see ``hold_device``) where it numbers them, ``held`` how. ``native_libraries`` allows artifacts to bring
    native code, which is run.
    """

    def __init__(
        self, device: Device, backend_device_files: Mapping[str, Path], *, native_libraries: bool = False
    ) -> None:
        self.device = device
        self.native_libraries = native_libraries
        self.backends = tuple(sorted(backend_device_files))
        self._files = dict(backend_device_files)
        self._bundle = build_bundle(backend_device_files)
        self.runner_digest = digest_bytes(self._bundle)
        self.attempt: int | None = None
        self.held: Held = "not"
        self._runner = ""
        self._folders: dict[str, str] = {}
        self._placed: dict[tuple[object, ...], str] = {}

    def on(self, device: Device) -> RunnerClient:
        """Return a client that runs the same files on another device."""
        return RunnerClient(device, self._files, native_libraries=self.native_libraries)

    def call(
        self,
        op: str,
        request: Mapping[str, Any],
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        time_limit_s: float,
        silence_s: float | None = None,
        check: Callable[[], None] = never_stop,
    ) -> dict[str, Any]:
        """Return the result of one operation in a fresh process, as its schema in ``answers`` has it.

        Raises what the runner says went wrong (``ModelError``, ``DataError``, ``EnvironmentGap``), ``RunnerFailed`` for
        a runner that dies, hangs past ``time_limit_s`` or says nothing for ``silence_s`` while it runs a model,
        ``DeviceError`` where it does so otherwise and where the device is out of reach or speaks nonsense, and whatever
        ``check`` raises. The process is gone when this returns or raises.
        """
        patience = self.device.capabilities.patience
        time_limit_s *= patience
        silence_s = None if silence_s is None else silence_s * patience
        channel = self.start(op, request, time_limit_s=time_limit_s)
        try:
            knock = Heartbeat(channel) if self.device.detached else never_stop
            conversation = Conversation(channel, op, self.device.id, time_limit_s, silence_s, _both(knock, check))
            return conversation.result(on_event)
        finally:
            channel.kill()

    def live(
        self,
        request: Mapping[str, Any],
        *,
        time_limit_s: float,
        silence_s: float,
        check: Callable[[], None] = never_stop,
    ) -> LiveRun:
        """Return a fresh process that takes bursts when asked; whoever asks for it closes it.

        It is over after ``time_limit_s``, and when it says nothing for ``silence_s`` where something is expected.
        """
        channel = self.start("bursts", request, time_limit_s=time_limit_s)
        return LiveRun(channel, self.device, time_limit_s, silence_s, check)

    def start(self, op: str, request: Mapping[str, Any], *, time_limit_s: float) -> Channel:
        """Return the channel of a fresh process that has got its request; whoever asks for it kills it."""
        fence = {} if self.attempt is None else {"attempt": self.attempt}
        line = json.dumps(
            {
                **request,
                **fence,
                **({"silence_s": SILENCE_S} if self.device.detached else {}),
                "protocol": PROTOCOL,
                "op": op,
                "root": self.device.root,
                "backends": list(self.backends),
                "native_libraries": self.native_libraries,
                "time_limit_s": time_limit_s + RUNNER_GRACE_S,
            },
            allow_nan=False,
        )
        argv = [self.device.python, "-B", self._installed()]
        channel = self.device.open(argv, {"PYTHONUNBUFFERED": "1"})
        try:
            channel.send(line)
        except BaseException:
            channel.kill()
            raise
        return channel

    def put_folder(self, folder: Path) -> str:
        """Return where ``folder`` lies on the device, under its digest, every byte verified there.

        Each file travels once, whatever folders it is part of. Changed files make another digest; a folder whose files
        have the sizes, times and inodes of the last time is not read again: what lies on the device is a copy of what
        was read then. An artifact is verified whenever it is opened, data whenever they are evaluated; launches that
        only take times read data as they lie. Raises ``ModelError`` for links, special files, and an artifact whose
        files aren't those that it lists.
        """
        seen = _signature(folder)
        if seen not in self._placed:
            self._placed[seen] = self._place(folder)
        return self._placed[seen]

    def _place(self, folder: Path) -> str:
        files = list_files(folder)
        if any(file.path == MANIFEST for file in files):
            check_files(folder, read_artifact(folder), files)
        entries = [file.model_dump(mode="json") for file in files]
        digest = digest_json(entries)
        if digest not in self._folders:
            self._folders[digest] = self._staged(folder, digest, entries)
        return self._folders[digest]

    def _staged(self, folder: Path, digest: str, entries: list[dict[str, Any]]) -> str:
        """Let the device put the folder together, sending it the files that it says it lacks."""
        paths = {entry["sha256"]: entry["path"] for entry in entries}
        request = {"digest": digest, "files": entries}
        staged = self.call("stage", request, time_limit_s=STAGE_LIMIT_S)
        missing = _known(staged, paths)
        for sha256 in missing:
            self.device.put(folder / paths[sha256], f"blobs/{sha256}")
        if missing:
            staged = self.call("stage", request, time_limit_s=STAGE_LIMIT_S)
        for sha256 in _known(staged, paths):
            raise DeviceError(
                f"The file {paths[sha256]} was damaged on its way to {self.device.id}, or on its disk.",
                hint="Try again.",
            )
        return str(staged["path"])

    @contextlib.contextmanager
    def workspace(self) -> Iterator[str]:
        """Yield the path of a folder on the device for an operation's output; it is removed at the end."""
        path = f"{self.device.root}/work/{uuid.uuid4().hex}"
        try:
            yield path
        except BaseException:
            # The first error says more than that the tidying failed too.
            with contextlib.suppress(DeviceError):
                self.device.remove(path)
            raise
        self.device.remove(path)

    def fetch(self, remote_folder: str, files: Sequence[answers.RemoteFile], destination: Path) -> None:
        """Copy files of a folder on the device into ``destination``, each as the device said that it is.

        Raises ``DeviceError`` for one that arrives with another size or digest, and keeps nothing of it.
        """
        for file in files:
            path = destination / file.name
            self.device.get(f"{remote_folder}/{file.name}", path)
            if path.stat().st_size != file.size_bytes or digest_file(path) != file.sha256:
                path.unlink()
                raise DeviceError(
                    f"{file.name} arrived damaged from {self.device.id}.", hint="Run the same command again."
                )

    def _installed(self) -> str:
        """Return where the runner lies on the device, read back once: it checks all else there, and nothing checks it.

        Raises ``DeviceError`` where it isn't what was sent, twice.
        """
        if not self._runner:
            name = f"runner/{self.runner_digest}.pyz"
            with tempfile.TemporaryDirectory() as scratch:
                source, back = Path(scratch) / "runner.pyz", Path(scratch) / "back.pyz"
                source.write_bytes(self._bundle)
                for _ in range(2):
                    runner = self.device.put(source, name)
                    self.device.get(runner, back)
                    if digest_file(back) == self.runner_digest:
                        self._runner = runner
                        return runner
                    self.device.remove(name)
            raise DeviceError(
                f"The runner on {self.device.id} is damaged, also when it was sent again.",
                hint="Check the device's disk and memory.",
            )
        return self._runner


class LiveRun:
    """A process on a device that holds a model and takes a burst of samples when asked; it sleeps in between.

    Every method raises what ``RunnerClient.call`` does.
    """

    def __init__(
        self, channel: Channel, device: Device, time_limit_s: float, silence_s: float, check: Callable[[], None]
    ) -> None:
        self._channel = channel
        self.knock: Callable[[], None] = Heartbeat(channel) if device.detached else never_stop
        both = _both(self.knock, check)
        self._conversation = Conversation(channel, "bursts", device.id, time_limit_s, silence_s, both)

    def ready(self) -> int | None:
        """Wait until it has warmed up; return how much memory the device has left, in bytes, where it knows."""
        available: int | None = self._conversation.event("ready").get("available_bytes")
        return available

    def burst(self) -> None:
        """Have it take a burst, and wait for the end of it."""
        self._channel.send("burst")
        self._conversation.event("burst")

    def end(self) -> dict[str, Any]:
        """Return the launch, its samples being written."""
        self._channel.send("end")
        return self._conversation.result(None)

    def close(self) -> None:
        """End it, whatever it does; twice is fine."""
        self._channel.kill()


class Heartbeat:
    """Tells the runner every few seconds that somebody still waits for it. Called often, does little."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._next = time.monotonic() + HEARTBEAT_S

    def __call__(self) -> None:
        """Knock if it is time to."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + HEARTBEAT_S
            # One that reads no more has ended: its output says how.
            with contextlib.suppress(DeviceError):
                self._channel.send("")


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def check() -> None:
        one()
        other()

    return check


def _known(staged: Mapping[str, Any], offered: Mapping[str, str]) -> list[str]:
    """Return what a device says that it lacks; it is asked for nothing else."""
    missing = list(staged.get("missing", ()))
    if not set(missing) <= offered.keys():
        raise DeviceError("The device asks for files that nobody offered it.", hint="Try again.")
    return missing


def _signature(folder: Path) -> tuple[object, ...]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = ((str(path), path.stat()) for path in files)
    return (str(folder), *((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in facts))
