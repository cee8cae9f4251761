"""This machine as a device: a folder and subprocesses, used exactly as a board over a network is."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgebuild.core.capabilities import BOARD
from edgebuild.devices.local_folder import QUOTA_BYTES, claim, tidy
from edgebuild.devices.messages import tail
from edgebuild.devices.runner.protocol import FULL
from edgebuild.devices.transport import MAX_FILE_BYTES, MAX_LINE_BYTES
from edgebuild.errors import DeviceError, EnvironmentGap, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READ_BYTES = 1 << 16
#: What says that these two files can't be copied by the kernel (copy_file_range(2)); a full disk says something else.
NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
STDERR_TAIL_BYTES = 16 << 10
#: In a project's own folder, what stands for this machine's disk: copies of results, for the runs here.
DEVICE = "device"


class LocalDevice:
    """This machine. ``root`` is made if missing; it holds nothing but what edgebuild put there (see ``claim``)."""

    capabilities = BOARD
    detached = False
    on_host = True

    def __init__(self, root: Path, python: str = sys.executable, *, name: str = "") -> None:
        self._python = python
        self._id = name or f"local-{socket.gethostname()}"
        with _writing(root):
            self._held = weakref.finalize(self, os.close, claim(root))
            self._root = root.resolve()

    @property
    def id(self) -> str:
        """The host's name, marked as local."""
        return self._id

    @property
    def root(self) -> str:
        """The folder that stands for the device's disk."""
        return str(self._root)

    @property
    def python(self) -> str:
        """The interpreter that runs the runner."""
        return self._python

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> ProcessChannel:
        """Start a process in a session of its own, so that a Ctrl-C here doesn't hit it half-way."""
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._root,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(
                f"{self.id} can't start {argv[0]}: {error.strerror or error}.",
                hint="The device needs a Python of 3.8 or later at that path.",
            ) from error
        return ProcessChannel(process)

    def put(self, source: Path, name: str) -> str:
        """Place a copy, which shares its blocks with the source where the disk can do that.

        Never a link: damage on one side, or a writer there, would change the other.
        """
        target = self._inside(name)
        if _size(target) == source.stat().st_size:
            return str(target)
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".put-", dir=target.parent))
            try:
                _copy(source, scratch / "file")
                (scratch / "file").replace(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return str(target)

    def get(self, remote: str, destination: Path, *, most_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a plain file out of the device's folder."""
        source = self._inside(remote)
        partial = destination.with_name(destination.name + ".part")
        try:
            # No link is followed, and opening a pipe doesn't wait for whoever writes to it.
            handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
                    what = "too large" if stat.S_ISREG(found.st_mode) else "no plain file"
                    raise DeviceError(f"{self.id}: can't fetch {remote}: it is {what}.")
                with partial.open("wb") as target:
                    shutil.copyfileobj(file, target, READ_BYTES)
            partial.replace(destination)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in FULL:
                raise StoreError(f"Can't write {destination}: {error.strerror}.", hint="Free some space.") from error
            raise DeviceError(f"{self.id}: can't fetch {remote}: {error.strerror or error}.") from error

    def remove(self, remote: str) -> None:
        """Remove a file or folder under the root."""
        target = self._inside(remote)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the folder be tidied."""
        self._held()

    def _inside(self, name: str) -> Path:
        path = Path(os.path.normpath(self._root / name))
        if not path.is_relative_to(self._root) or path == self._root:
            raise DeviceError(f"{self.id}: {name} lies outside of the device's folder {self._root}.")
        for parent in path.parents[: len(path.relative_to(self._root).parts) - 1]:
            if parent.is_symlink():
                raise DeviceError(f"{self.id}: {parent} is a link, and is not followed.", hint="Remove it.")
        return path


class ProcessChannel:
    """A subprocess that leads its own session; ``kill`` ends the whole group."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: list[bytes] = []
        self._partial = bytearray()
        self._stderr = bytearray()
        self._selector = selectors.DefaultSelector()
        self._output_open = True
        for pipe, take in ((process.stdout, self._take_output), (process.stderr, self._take_error)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, take)

    @property
    def pid(self) -> int:
        """The process, which is also its group."""
        return self._process.pid

    def send(self, line: str) -> None:
        """Write one line; the pipe takes a request at once or the program isn't reading."""
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            raise DeviceError("The runner's input is closed.")
        try:
            pipe.write(line.encode() + b"\n")
            pipe.flush()
        except OSError as error:
            raise DeviceError(
                f"The runner ended before it read its request.\n{tail(self.stderr_tail())}".strip()
            ) from error

    def receive(self, timeout_s: float) -> str | None:
        """Return the next line, reading both pipes so that neither can fill and block the program."""
        deadline = time.monotonic() + timeout_s
        while not self._lines:
            if not self._output_open:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._pump(left)
        return self._lines.pop(0).decode("utf-8", errors="replace")

    def wait(self, timeout_s: float) -> int:
        """Wait for the end, draining what is still written."""
        deadline = time.monotonic() + timeout_s
        while (status := self._status()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self._selector.get_map():
                self._pump(min(left, 0.02))
                self._lines.clear()
            else:
                time.sleep(min(left, 0.01))
        return status

    def kill(self) -> None:
        """Kill the group, reap the leader, close the pipes."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._drain_error()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _close(pipe)

    def stderr_tail(self) -> str:
        """Return at most 16 KiB from the end of the error output."""
        return self._stderr.decode("utf-8", errors="replace").strip()

    def _status(self) -> int | None:
        """The leader's status, leaving it unreaped: so its group's number can't be another's when ``kill`` uses it."""
        if self._process.returncode is not None:
            return self._process.returncode
        seen = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if seen is None:
            return None
        return seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status

    def _pump(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, READ_BYTES)
            key.data(data)
            if not data:
                self._selector.unregister(key.fileobj)

    def _drain_error(self) -> None:
        pipe = self._process.stderr
        if pipe is None or pipe.closed:
            return
        try:
            while data := os.read(pipe.fileno(), READ_BYTES):
                self._take_error(data)
        except BlockingIOError:
            return

    def _take_output(self, data: bytes) -> None:
        if not data:
            self._output_open = False
            if self._partial:
                self._lines.append(bytes(self._partial))
                self._partial.clear()
            return
        self._partial += data
        if b"\n" in data:
            *lines, rest = self._partial.split(b"\n")
            self._lines += [bytes(line) for line in lines]
            self._partial = bytearray(rest)
        if len(self._partial) > MAX_LINE_BYTES:
            raise DeviceError(f"The runner wrote a line of more than {MAX_LINE_BYTES} bytes.")

    def _take_error(self, data: bytes) -> None:
        self._stderr += data
        del self._stderr[:-STDERR_TAIL_BYTES]


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        try:
            pipe.close()
        except BrokenPipeError:  # unsent input of a program that is gone
            return


def _size(path: Path) -> int | None:
    """The size of a plain file; None for a link, and for anything else."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _copy(source: Path, target: Path) -> None:
    """Let the kernel copy, which shares blocks on disks that can; read and write where it can't."""
    with source.open("rb") as file, target.open("xb") as copy:
        left = os.fstat(file.fileno()).st_size
        try:
            while left > 0 and (done := os.copy_file_range(file.fileno(), copy.fileno(), left)):
                left -= done
        except OSError as error:
            if error.errno not in NO_KERNEL_COPY:
                raise
            shutil.copyfileobj(file, copy, READ_BYTES)
    target.chmod(0o444)


class _writing:  # noqa: N801  a with-block, not a type
    """Turns a disk that is full or read-only into a sentence."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise EnvironmentGap(f"{error.filename} is missing.") from error
        if isinstance(error, OSError):
            raise StoreError(
                f"Can't write {self._path}: {error.strerror or error}.", hint="Free some space, or name another folder."
            ) from error


def local_device(home: Path) -> LocalDevice:
    """Return this machine as a device; its folder below ``home`` is tidied first, unless another process uses it."""
    tidy(home / DEVICE, QUOTA_BYTES)
    return LocalDevice(home / DEVICE)
