"""A board behind SSH as a device. Its host key is pinned: nothing is trusted at first sight, and a changed key ends it.

Everything asynchronous happens in one thread with an event loop of its own; callers see the plain protocols.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import shlex
import time
from typing import TYPE_CHECKING, Any

from edgebuild.core.capabilities import BOARD
from edgebuild.devices.messages import tail, whole_number
from edgebuild.devices.runner.protocol import FULL
from edgebuild.devices.ssh import folder as ssh_folder
from edgebuild.devices.ssh.channel import SshChannel
from edgebuild.devices.ssh.connection import CONNECT_S, connected
from edgebuild.devices.ssh.loop import Loop, import_asyncssh
from edgebuild.devices.transport import MAX_FILE_BYTES
from edgebuild.errors import DeviceError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from edgebuild.devices.ssh.address import SshAddress

#: No single file operation may take longer without moving a byte.
FILE_S = 60.0
CHUNK_BYTES = 1 << 18
#: SFTP's word for a plain file (SSH_FILEXFER_TYPE_REGULAR).
PLAIN_FILE = 1
#: A script of ours prints a number or a few lines.
MAX_SCRIPT_BYTES = 64 << 10


class SshDevice:
    """A machine reached by SSH. Connects when it is first used. Not to be shared between threads.

    ``host_keys`` are the only keys that are accepted, in OpenSSH's form ("ssh-ed25519 AAAA…"). Keys of the user's come
    from the agent and from ~/.ssh, or from ``key_file``; there are no passwords and the agent is not forwarded.
    ``root`` may begin with ``~/``. ``site`` is a folder of Python packages on the board.
    """

    capabilities = BOARD
    detached = True
    on_host = False

    def __init__(
        self,
        name: str,
        *,
        address: SshAddress,
        host_keys: Sequence[str],
        root: str = "~/.edgebuild",
        python: str = "python3",
        jump: SshAddress | None = None,
        jump_host_keys: Sequence[str] = (),
        key_file: Path | None = None,
        site: str = "",
        quota_bytes: int = 4_000_000_000,
    ) -> None:
        self._name = name
        self._address = address
        self._host_keys = tuple(host_keys)
        self._jump = jump
        self._jump_host_keys = tuple(jump_host_keys)
        self._key_file = key_file
        self._python = python
        self._site = site
        self._quota_bytes = quota_bytes
        self._wanted_root = root
        self._used_bytes: int | None = None
        self._tidying: list[Future[Any]] = []
        self._folders: set[str] = set()
        self._loop: Loop | None = None
        self._stack: contextlib.AsyncExitStack | None = None
        self._connection: Any = None
        self._sftp: Any = None
        self._root = ""

    @property
    def id(self) -> str:
        """The name in the inventory, marked as a device behind SSH."""
        return f"ssh-{self._name}"

    @property
    def root(self) -> str:
        """The folder on the board, absolute. Connects."""
        self._connected()
        return self._root

    @property
    def python(self) -> str:
        """The board's interpreter."""
        return self._python

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> SshChannel:
        """Start a program in the root, in a process group of its own, without terminal."""
        root = self.root
        path = [f"PYTHONPATH={self._site}"] if self._site else []
        program = ["env", *path, *(f"{name}={value}" for name, value in env.items()), *argv]
        # The first line of the output is the number of the group, for the kill.
        start = ["sh", "-c", 'cd "$1" && shift && echo $$ && exec "$@"', "sh", root, *program]
        process = self._do(
            self._connection.create_process(f"exec {shlex.join(start)}", encoding=None), "start a program", CONNECT_S
        )
        return SshChannel(self, process)

    def put(self, source: Path, name: str) -> str:
        """Send a file that isn't there yet; what an interrupted sending left is resumed where it is a blob."""
        target = self._inside(name)
        size = source.stat().st_size
        partial = f"{target}.part"
        # Every wait for the board counts on a slow link: both are asked for at once, and folders are made once.
        there, begun = self._do(self._stats(target, partial), f"look at {target}", FILE_S)
        if there == size:
            return target
        self.require_room(size)
        self._used_bytes = (self._used_bytes or 0) + size
        folder = posixpath.dirname(target)
        if folder not in self._folders:
            self._do(self._sftp.makedirs(folder, exist_ok=True), f"make the folder of {target}", FILE_S)
            self._folders.add(folder)
        done = begun or 0 if name.startswith("blobs/") else 0
        self._do(self._send(source, partial, done if done <= size else 0), f"send {target}", None)
        self._do(self._sftp.posix_rename(partial, target), f"place {target}", FILE_S)
        return target

    def get(self, remote: str, destination: Path, *, most_bytes: int = MAX_FILE_BYTES) -> None:
        """Fetch a plain file."""
        source = self._inside(remote)
        partial = destination.with_name(destination.name + ".part")
        kind, size = self._do(self._kind(source), f"look at {remote}", FILE_S)
        if kind != PLAIN_FILE or size > most_bytes:
            what = "too large" if kind == PLAIN_FILE else "no plain file"
            raise DeviceError(f"{self.id}: can't fetch {remote}: it is {what}.")

        def within(_: bytes, __: bytes, copied: int, ___: int) -> None:
            if copied > most_bytes:
                raise DeviceError(f"{self.id}: can't fetch {remote}: it grows beyond what it was said to be.")

        try:
            self._do(self._sftp.get(source, str(partial), progress_handler=within), f"fetch {remote}", None)
            partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, remote: str) -> None:
        """Remove a file or folder under the root."""
        self._folders.clear()
        self._do(self._remove(self._inside(remote)), f"remove {remote}", FILE_S)

    def close(self) -> None:
        """End the connection and the thread."""
        if self._loop is None:
            return
        for future in self._tidying:
            with contextlib.suppress(Exception):
                future.result(CONNECT_S)
        self._tidying.clear()
        if self._stack is not None:
            with contextlib.suppress(Exception):
                self._loop.call(self._stack.aclose(), CONNECT_S)
        self._loop.stop()
        self._loop, self._stack, self._connection, self._sftp = None, None, None, None

    def run_script(self, script: str, *arguments: str) -> str:
        """Run a few lines of Python on the board and return what they print; raises ``DeviceError`` when they fail."""
        channel = self.open([self._python, "-c", script, *arguments], {})
        try:
            lines: list[str] = []
            left = MAX_SCRIPT_BYTES
            deadline = time.monotonic() + FILE_S
            while (line := channel.receive(max(0.0, deadline - time.monotonic()))) is not None:
                lines.append(line)
                left -= len(line) + 1
                if left < 0:
                    raise DeviceError(f"{self.id} answers a short script with more than {MAX_SCRIPT_BYTES} bytes.")
            if channel.wait(FILE_S) != 0:
                raise DeviceError(f"{self.id}: {tail(channel.stderr_tail()) or 'a script failed'}")
            return "\n".join(lines)
        except TimeoutError as error:
            raise DeviceError(f"{self.id} said nothing for {FILE_S:g} s.", hint="Is the board busy?") from error
        finally:
            channel.kill()

    def kill_group(self, group: int, *, leader_ended: bool) -> None:
        """End every process of a group; a board that is away has noticed on its own.

        Where the group's leader ended on its own this only tidies up, and isn't waited for before ``close``: starting
        the login shell that does it takes a while.
        """
        killing = self._connection.run(f"kill -KILL -- -{group}", check=False)
        if leader_ended and self._loop is not None:
            self._tidying = [future for future in self._tidying if not future.done()]
            self._tidying.append(self._loop.begin(killing))
            return
        with contextlib.suppress(DeviceError):
            self._do(killing, "end a program", CONNECT_S)

    def wait_for(self, coroutine: Awaitable[Any], what: str, limit_s: float | None) -> Any:
        """Run a coroutine in the device's thread."""
        return self._do(coroutine, what, limit_s)

    def _connected(self) -> None:
        if self._connection is not None:
            return
        self._loop = self._loop or Loop()
        try:
            self._loop.call(self._connect(), CONNECT_S * 2)
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> None:
        asyncssh = import_asyncssh()
        self._stack = contextlib.AsyncExitStack()
        tunnel = None
        if self._jump is not None:
            tunnel = await self._stack.enter_async_context(await self._reach(self._jump, self._jump_host_keys))
        connection = await self._stack.enter_async_context(await self._reach(self._address, self._host_keys, tunnel))
        try:
            self._sftp = await self._stack.enter_async_context(await connection.start_sftp_client())
            root = await ssh_folder.claim(self._sftp, self._wanted_root)
        except (asyncssh.Error, OSError) as error:
            raise DeviceError(
                f"{self.id}: can't make the folder {self._wanted_root}: {error}.", hint="The board needs SFTP."
            ) from error
        self._root, self._connection = root, connection

    async def reach(self) -> Any:
        """Return a bare connection, for whoever goes through this machine."""
        return await self._reach(self._address, self._host_keys)

    async def _reach(self, address: SshAddress, host_keys: Sequence[str], tunnel: Any = None) -> Any:
        return await connected(self.id, address, host_keys, key_file=self._key_file, tunnel=tunnel)

    def _do(self, coroutine: Awaitable[Any], what: str, limit_s: float | None) -> Any:
        asyncssh = import_asyncssh()
        if self._loop is None:
            raise DeviceError(f"{self.id} is closed.")
        try:
            return self._loop.call(coroutine, limit_s)
        except DeviceError:
            raise
        except TimeoutError as error:
            raise DeviceError(
                f"{self.id}: can't {what}: no answer for {limit_s:g} s.", hint="Is the link up?"
            ) from error
        except (
            asyncssh.ConnectionLost,
            asyncssh.ChannelOpenError,
            asyncssh.SFTPNoConnection,
            asyncssh.SFTPConnectionLost,
            ConnectionError,
        ) as error:
            raise self.lost() from error
        except (asyncssh.Error, OSError) as error:
            # A board's own full disk comes as an error of SFTP's; this number is of a file here.
            if isinstance(error, OSError) and error.errno in FULL:
                raise StoreError(f"{self.id}: can't {what}: {error.strerror}.", hint="Free some space here.") from error
            raise DeviceError(f"{self.id}: can't {what}: {self._reason(error)}.") from error

    def lost(self) -> DeviceError:
        """The error of a link that is gone."""
        return DeviceError(
            f"The connection to {self.id} ({self._address}) was lost.",
            hint="What ran there ends within a minute. Run the command again when the board answers: it "
            "resumes where it was.",
        )

    def _reason(self, error: Exception) -> str:
        with contextlib.suppress(Exception):
            if self._loop is not None and self._loop.call(self._sftp.statvfs(self._root), FILE_S).bavail == 0:
                return "its disk is full"
        return str(error) or type(error).__name__

    async def _stats(self, *paths: str) -> list[int | None]:
        return await asyncio.gather(*map(self._stat, paths))

    async def _kind(self, path: str) -> tuple[int | None, int]:
        """Return what kind of file lies there, None for nothing, and its size; a link is a link."""
        asyncssh = import_asyncssh()
        try:
            found = await self._sftp.lstat(path)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None, 0
        return found.type, found.size or 0

    async def _stat(self, path: str) -> int | None:
        asyncssh = import_asyncssh()
        try:
            found: int = (await self._sftp.stat(path)).size
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None
        return found

    async def _send(self, source: Path, partial: str, offset: int) -> None:
        """Append to the partial file from ``offset`` on, chunk by chunk; each chunk has ``FILE_S`` to arrive."""
        with source.open("rb") as file:
            file.seek(offset)
            async with self._sftp.open(partial, "r+b" if offset else "wb") as remote:
                while chunk := file.read(CHUNK_BYTES):
                    await asyncio.wait_for(remote.write(chunk, offset), FILE_S)
                    offset += len(chunk)

    async def _remove(self, path: str) -> None:
        asyncssh = import_asyncssh()
        with contextlib.suppress(asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            if await self._sftp.isdir(path) and not await self._sftp.islink(path):
                await self._sftp.rmtree(path)
            else:
                await self._sftp.unlink(path)

    def require_room(self, size: int) -> None:
        """Make room for this many bytes under the quota; least recently used goes first. Raises ``DeviceError``."""
        if size <= self._quota_bytes and (self._used_bytes is None or self._used_bytes + size > self._quota_bytes):
            answer = self.run_script(ssh_folder.ROOM, self.root, str(self._quota_bytes - size), self._site)
            self._used_bytes = whole_number(answer)
            if self._used_bytes is None:
                raise DeviceError(f"{self.id} doesn't say how much it holds: {answer[:200]!r}.")
        if (self._used_bytes or 0) + size > self._quota_bytes:
            raise DeviceError(
                f"{self.id}: {size} bytes don't fit into the quota of {self._quota_bytes} bytes on the board.",
                hint="Raise quota_gb in the inventory, or remove other files of edgebuild there.",
            )

    def _inside(self, name: str) -> str:
        root = self.root
        path = posixpath.normpath(posixpath.join(root, name))
        if not path.startswith(root + "/"):
            raise DeviceError(f"{self.id}: {name} lies outside of the device's folder {root}.")
        return path
