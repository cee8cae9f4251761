"""A host's agent as the process that it is, beside a test's server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.farm.values import Job, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.farm.client import FarmClient

PRETEND = Path(__file__).parent / "pretend"
TARGET = "raspberry-pi-5"
#: See ``pretend_farm``.
QUICK = "PRETEND_FARM_QUICK"


class Host:
    """An agent with an inventory of its own. ``folder`` is all of its disk."""

    def __init__(self, folder: Path, url: str, token: str, name: str = "desk", *, quick: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.inventory = folder / "devices.toml"
        self.config = {"url": url, "token": token, "host": name, "folder": str(folder / "agent")}
        #: Whether jobs measure for so short that nobody reads the figures.
        self.quick = quick
        self.owned: dict[str, dict[str, Any]] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def own(self, name: str, **fields: Any) -> None:
        """Have the inventory hold a pretend device."""
        self.owned[name] = {"target": TARGET, "kind": "pretend", "address": str(self.disk(name)), **fields}
        self._write()

    def disown(self, name: str) -> None:
        del self.owned[name]
        self._write()

    def _write(self) -> None:
        text = ""
        for name, fields in self.owned.items():
            text += f"[devices.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
        partial = self.inventory.with_suffix(".new")
        partial.write_text(text)
        partial.replace(self.inventory)

    def disk(self, name: str) -> Path:
        return self.folder / "disks" / name

    def start(self) -> None:
        paths = [str(PRETEND), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        about = {
            "EDGEBUILD_DEVICES": str(self.inventory),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            QUICK: "1" if self.quick else "",
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgebuild.farm.host.agent"],
                stdin=subprocess.PIPE,
                stderr=log,
                env={
                    **os.environ,
                    **about,
                    "XDG_CACHE_HOME": str(self.folder / "cache"),
                    QUICK: "1" if self.quick else "",
                },
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.config).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return the status with which the agent ends."""
        assert self.process is not None
        code = self.process.wait(30)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.end()

    def workers(self, job: str = "") -> list[int]:
        """The processes of jobs that were started by the agent of this host, also by one that is gone."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                where = str((path / "cwd").readlink())
            except OSError:
                continue
            if b"edgebuild.farm.host.worker" in words and where.startswith(str(self.folder)) and job in where:
                found.append(int(path.name))
        return found

    def log(self) -> str:
        return (self.folder / "log").read_text()


def wait_for(what: Callable[[], Any], limit_s: float = 30.0, why: Callable[[], str] = str) -> Any:
    """Return what becomes true; the limit is for a test that hangs, nothing is timed."""
    until = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < until, f"waited {limit_s:g} s in vain: {why()}"
        time.sleep(0.05)
    return found


def job_of(client: FarmClient, job: str) -> Job:
    return client.ask("GET", f"/api/jobs/{job}", Job)


def ended(client: FarmClient, job: str, limit_s: float = 60.0) -> Job:
    """Return a job once it ended."""

    def over() -> Job | None:
        found = job_of(client, job)
        return found if found.state is JobState.ENDED else None

    found: Job = wait_for(over, limit_s, lambda: job_of(client, job).to_json())
    return found


def begun(client: FarmClient, job: str) -> Job:
    """Return a job once it says that it began."""

    def going() -> Job | None:
        said = client.ask("GET", f"/api/jobs/{job}/log", list[dict[str, Any]])
        return job_of(client, job) if any("begun" in line["text"] for line in said) else None

    found: Job = wait_for(going, 60.0, lambda: job_of(client, job).to_json())
    return found
