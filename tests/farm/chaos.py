"""A farm of real processes whose parts can be made to fail: server, agent, workers, clients, boards, disks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.devices.runner.turns import OVERRIDE
from edgebuild.errors import EdgebuildError
from edgebuild.farm import home, tokens
from edgebuild.farm.client import FarmAddress, FarmAway, FarmClient
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Health, Job, JobEnd, JobSpec, JobState, Lease, Shelved
from tests.boards.rig import Board, command
from tests.farm.hosting import TARGET, Host, wait_for

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

DISK_BYTES = 64 << 20
#: A client that submits a job which ends when nobody waits for it, and waits.
CLIENT = """
import sys, json
from pathlib import Path
from edgebuild.farm.benching import follow
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.values import Ask, Job, JobSpec
given = json.loads(sys.stdin.readline())
farm = FarmClient(FarmAddress(**given["farm"]))
ask = Ask(target=given["target"])
spec = JobSpec(kind="turn", ask=ask, arguments={"seconds": 600}, attended=True)
job = farm.ask("POST", "/api/jobs", Job, spec)
print(job.id, flush=True)
follow(farm, job, print, lambda: None)
"""


class Arena:
    """The farm, one host of it, and its boards. ``boards`` are sshd's in network namespaces."""

    def __init__(self, folder: Path, boards: list[Board], stack: contextlib.ExitStack, database: str = "") -> None:
        self.folder, self.boards, self.stack = folder, boards, stack
        self.disks = {name: _disk(folder / name, stack) for name in ("server", "host")}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.env = {**os.environ, home.FOLDER: str(self.disks["server"] / "farm")}
        self._server: subprocess.Popen[bytes] | None = None
        self._made(database)
        url = f"https://127.0.0.1:{self.port}"
        ca = str(self.disks["server"] / "farm" / "ca.pem")
        shutil.copy(ca, folder / "ca.pem")  # what clients trust isn't on the server's disk
        self.address = FarmAddress(url=url, token=self._token("ada", Scope.ADMIN), authority=str(folder / "ca.pem"))
        self.client = FarmClient(self.address)
        stack.callback(self.client.close)
        self.host = Host(self.disks["host"] / "host", url, self._token("desk", Scope.HOST))
        self.host.config["authority"] = str(folder / "ca.pem")
        for board in boards:
            self._own(board)
        self.start_server()
        stack.callback(self.kill_server)
        self.host.start()
        stack.callback(self.host.close)

    def _made(self, database: str) -> None:
        words = ["farm", "init", "--json", "--name", "127.0.0.1", *(["--database", database] if database else [])]
        subprocess.run([sys.executable, "-m", "edgebuild", *words], env=self.env, check=True, capture_output=True)

    def _token(self, name: str, scope: Scope) -> str:
        settings = home.Home(
            folder=self.disks["server"] / "farm", settings=home.Settings.model_validate({"database": self._url()})
        )
        with contextlib.closing(settings.database()) as database:
            database.upgrade()
            with database.write() as db:
                return tokens.make(db, name, scope, database.clock.now(), days=1)

    def _url(self) -> str:
        import tomllib

        text = (self.disks["server"] / "farm" / home.SETTINGS).read_text()
        return str(tomllib.loads(text).get("database", ""))

    def _own(self, board: Board) -> None:
        """Boards have a lock each, and no runtime: their figures would be nobody's."""
        lock = board.folder / "machine.lock"
        board.program("python-real", f'#!/bin/sh\nexec env {OVERRIDE}={lock} {board.python} -S "$@"\n')
        shutil.copy(board.root / "python-real", board.folder / "python")
        entry = board.entry(TARGET, python=str(board.folder / "python"), root=str(board.root / "edgebuild"))
        (board.root / "edgebuild").mkdir()
        fields = entry.model_dump(mode="json", exclude_defaults=True, exclude={"name", "facts"})
        self.host.own(entry.name, **fields, kind="ssh")

    def start_server(self) -> None:
        log = (self.folder / "server.log").open("ab")
        words = ["farm", "serve", "--json", "--no-devices", "--listen", f"127.0.0.1:{self.port}"]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "edgebuild", *words], env=self.env, stdout=log, stderr=log
        )
        log.close()

    def kill_server(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def ask(self, method: str, path: str, kind: type[Any], body: Any = None) -> Any:
        """Ask until there is an answer."""

        def answer() -> Any:
            try:
                return (self.client.ask(method, path, kind, body),)
            except FarmAway:
                return None

        return wait_for(answer, 120.0, self.said)[0]

    def said(self) -> str:
        return self.host.log()[-4000:] + (self.folder / "server.log").read_text()[-4000:]

    def devices(self) -> tuple[Shelved, ...]:
        found: tuple[Shelved, ...] = self.ask("GET", "/api/devices", tuple[Shelved, ...])
        return found

    def all_good(self, limit_s: float = 120.0) -> None:
        """Wait until every device passed a check; a bad one is asked to be looked at."""

        def good() -> bool:
            found = self.devices()
            for each in found:
                if each.health is Health.BAD and each.lease == "":
                    with contextlib.suppress(EdgebuildError):
                        self.client.ask("POST", f"/api/devices/{each.name}/check", Shelved)
            return bool(found) and all(each.health is Health.GOOD and each.there for each in found)

        wait_for(good, limit_s, lambda: str([d.to_json() for d in self.devices()]) + self.said())

    def submit(self, seconds: float, **ask: Any) -> str:
        spec = JobSpec(kind="turn", ask=Ask(target=TARGET, **ask), arguments={"seconds": seconds})
        job: Job = self.ask("POST", "/api/jobs", Job, spec)
        return job.id

    def job(self, name: str) -> Job:
        found: Job = self.ask("GET", f"/api/jobs/{name}", Job)
        return found

    def notes(self, board: Board) -> list[list[str]]:
        """What the board itself wrote down."""
        try:
            return [line.split() for line in (board.root / "edgebuild" / "turns.log").read_text().splitlines()]
        except OSError:
            return []

    def settle(self, jobs: list[str], limit_s: float) -> list[Job]:
        """Return the jobs once all of them ended and nothing is lent any more."""

        def settled() -> list[Job] | None:
            found = [self.job(name) for name in jobs]
            held = self.ask("GET", "/api/leases?state=held", tuple[Lease, ...])
            over = all(job.state is JobState.ENDED for job in found) and not held
            return found if over else None

        found: list[Job] = wait_for(settled, limit_s, self.said)
        return found

    def require_order(self, jobs: list[Job]) -> None:
        """Every job ended once, those that succeeded as their board says, and no board ever had two."""
        notes = {f"board-{board.number}": self.notes(board) for board in self.boards}
        for name, lines in notes.items():
            assert "CLASH" not in [words[0] for words in lines], (name, lines)
            begun = [int(words[2]) for words in lines if words[0] == "begin" and len(words) == 3]
            assert begun == sorted(set(begun)), (name, begun)
        for job in jobs:
            ends = [attempt.how for attempt in job.attempts]
            assert job.end is not None
            assert ends.count("succeeded") == (job.end is JobEnd.SUCCEEDED), job.to_json()
            assert job.end is JobEnd.SUCCEEDED or job.reason, job.to_json()
            if job.end is JobEnd.SUCCEEDED:
                last = job.attempts[-1]
                assert job.result == {"token": last.token, "device": last.device}
                known = {tuple(words) for words in notes.get(last.device, [])}
                wanted = {(what, job.id, str(last.token)) for what in ("begin", "end")}
                assert last.device not in notes or wanted <= known, (job.to_json(), notes[last.device])


def _disk(where: Path, stack: contextlib.ExitStack) -> Path:
    where.mkdir()
    command("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES + (64 << 20)},mode=755", "chaos", str(where))
    stack.callback(command, "umount", "-l", str(where))
    return where


class Faults:
    """What can go wrong, each as often as a coin says; whatever it breaks is whole again when it returns."""

    def __init__(self, arena: Arena, coin: random.Random, postgres: Any = None) -> None:
        self.arena, self.coin, self.postgres = arena, coin, postgres
        self.done: dict[str, int] = {}
        self.attended: list[str] = []

    def kinds(self) -> list[Callable[[], bool]]:
        found = [
            *(self.worker, self.agent, self.server, self.client, self.ssh, self.runner, self.cable, self.power),
            *(self.full_server, self.full_host, self.full_board, self.host_key, self.liar, self.flood),
        ]
        return [*found, self.database] if self.postgres is not None else found

    def strike(self, kind: Callable[[], bool] | None = None) -> None:
        """Let one thing go wrong. What found nothing to break isn't counted."""
        chosen = kind or self.coin.choice(self.kinds())
        if chosen():
            name = chosen.__name__
            self.done[name] = self.done.get(name, 0) + 1

    def nap(self, most_s: float) -> None:
        time.sleep(self.coin.uniform(0.1, most_s))

    def board(self) -> Board:
        return self.coin.choice(self.arena.boards)

    def worker(self) -> bool:
        return self._kill(self.arena.host.workers())

    def agent(self) -> bool:
        self.arena.host.kill()
        self.nap(2)
        self.arena.host.start()
        return True

    def server(self) -> bool:
        self.arena.kill_server()
        self.nap(2)
        self.arena.start_server()
        return True

    def client(self) -> bool:
        """One who waits for a job dies: nobody else would ever cancel it."""
        process = subprocess.Popen([sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        address = self.arena.address
        farm = {"url": address.url, "token": address.token, "authority": address.authority}
        process.stdin.write(json.dumps({"farm": farm, "target": TARGET}).encode() + b"\n")
        process.stdin.flush()
        job = process.stdout.readline().decode().strip()
        self.nap(1)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        self.attended += [job] if job else []
        return bool(job)

    def ssh(self) -> bool:
        """A board's end of a connection."""
        listeners = {board.sshd.pid for board in self.arena.boards if board.sshd is not None}
        return self._kill(
            [pid for pid, words in self._processes() if words.startswith("sshd") and pid not in listeners]
        )

    def runner(self) -> bool:
        return self._kill([pid for pid, words in self._processes() if "python" in words])

    def _processes(self) -> list[tuple[int, str]]:
        return [each for board in self.arena.boards for each in _processes(board)]

    def cable(self) -> bool:
        board = self.board()
        board.cut()
        self.nap(6)
        board.join()
        return True

    def power(self) -> bool:
        board = self.board()
        board.stop()
        self.nap(2)
        board.start()
        return True

    def full_server(self) -> bool:
        return self._full(self.arena.disks["server"])

    def full_host(self) -> bool:
        return self._full(self.arena.disks["host"])

    def full_board(self) -> bool:
        return self._full(self.board().root)

    def host_key(self) -> bool:
        """Somebody else's machine answers at the board's address for a while."""
        board = self.board()
        kept = [(path, path.read_bytes()) for path in (board.folder / "host_key", board.folder / "host_key.pub")]
        board.set_up_anew()
        self.nap(3)
        board.stop()
        for path, data in kept:
            path.write_bytes(data)
        board.start()
        return True

    def liar(self) -> bool:
        return self._possessed('echo \'{"result": {"attempt": "many", "runtime": 7}}\'; echo begun; echo over')

    def flood(self) -> bool:
        return self._possessed("yes")

    def database(self) -> bool:
        self.postgres.stop()
        self.nap(4)
        self.postgres.start()
        return True

    def _possessed(self, program: str) -> bool:
        board = self.board()
        python, new = board.folder / "python", board.folder / "python.new"
        for text in (f"#!/bin/sh\n{program}\n", (board.root / "python-real").read_text()):
            new.write_text(text)
            new.chmod(0o755)
            new.replace(python)
            self.nap(3)
        return True

    def _full(self, disk: Path) -> bool:
        filler = disk / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free))
        self.nap(3)
        filler.unlink()
        return True

    def _kill(self, pids: list[int]) -> bool:
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.coin.choice(pids), signal.SIGKILL)
        return True


def _processes(board: Board) -> Iterator[tuple[int, str]]:
    for pid in command("ip", "netns", "pids", board.namespace).split():
        with contextlib.suppress(OSError):
            yield int(pid), Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
