"""The farm as people run it: the server is a process of its own, and what is typed goes to it over TLS."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pytest

from edgebuild.cli import console
from edgebuild.cli.app import app
from edgebuild.errors import DeviceError, EnvironmentGap, UsageError
from edgebuild.farm import endpoint, home
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.values import Ask, Job, JobSpec, Lease
from tests.cli.answers import command_of, valid
from tests.farm.hosting import PRETEND, Host
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 120


class Said(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


class Shell:
    """Somebody at the server's machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "farm"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGEBUILD_FARM")}
        # No devices but those of the test.
        self.env = {**kept, home.FOLDER: str(self.folder), "EDGEBUILD_DEVICES": str(folder / "devices.toml")}

    def run(self, *arguments: str, code: int = 0) -> Said:
        """Type a command. It runs in this process: one of its own takes a second to start."""
        out, err = io.StringIO(), io.StringIO()
        width = {"COLUMNS": "200", "NO_COLOR": "1"}
        there = mock.patch.dict(os.environ, {**self.env, **width}, clear=True)
        with there, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = console.run(app, ["farm", *arguments])
        said = Said(out.getvalue(), err.getvalue())
        assert ended == code, said
        return said

    def json(self, *arguments: str) -> Any:
        return valid(command_of(("farm", *arguments)), self.run(*arguments, "--json").stdout)

    def database(self) -> Database:
        return Database(sqlite_url(self.folder / "farm.db"))

    def uses(self, url: str, token: str) -> None:
        self.env |= {endpoint.URL: url, endpoint.TOKEN: token, endpoint.AUTHORITY: str(self.folder / "ca.pem")}

    @contextlib.contextmanager
    def serving(self, *options: str, listen: str = "127.0.0.1:0") -> Iterator[Serving]:
        command = [sys.executable, "-m", "edgebuild", "farm", "serve", "--json", "--listen", listen, *options]
        process = subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        serving = Serving(process)
        try:
            yield serving
        finally:
            process.kill()
            process.wait()
            serving.close()


class Serving:
    """A server that runs, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, self.said
        self.about = valid("farm serve", first)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_S)
        self._reader.join()
        return code

    def close(self) -> None:
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(json.loads(line))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    made = Shell(tmp_path_factory.mktemp("machine"))
    about = made.json("init")
    assert about["authority"] == str(made.folder / "ca.pem")
    made.env["ADMIN"] = about["token"]
    return made


def test_init_says_what_is_next_and_refuses_to_do_it_twice(tmp_path: Path) -> None:
    made = Shell(tmp_path)
    said = made.run("init", "--name", "desk", "--name", "192.0.2.7").stdout
    assert "edgebuild farm serve" in said
    assert said.count("ebf_") == 1
    assert "already" in made.run("init", code=UsageError.exit_code).stderr
    with contextlib.closing(made.database()) as database, database.read() as db:
        (kept,) = db.exec_driver_sql("SELECT * FROM tokens").mappings()
    secret = said[said.index("ebf_") :].split()[0].split("_", 2)[2]
    assert secret not in str(dict(kept)), "tokens are kept as digests"
    assert all(secret.encode() not in path.read_bytes() for path in made.folder.rglob("*") if path.is_file())


def test_a_farm_from_the_first_command_to_the_last(shell: Shell) -> None:
    with shell.serving("--no-devices") as serving:
        shell.uses(serving.about["url"], shell.run("token", "make", "ada", "--scope", "admin").stdout.strip())
        assert shell.json("list") == []
        assert shell.json("status")["queued"] == 0
        assert "no jobs" in shell.run("jobs", "--state", "queued").stdout
        with contextlib.closing(shell.database()) as database, database.write() as db:
            fill(db, "pi-1", now=database.clock.now() + 3600)
        assert "pi-1" in shell.run("list").stdout
        assert shell.json("drain", "pi-1")["draining"]
        assert "good" in shell.run("undrain", "pi-1").stdout
        assert "a new card" in shell.run("maintenance", "pi-1", "--reason", "a new card").stdout
        assert "restore" in shell.run("check", "pi-1", code=UsageError.exit_code).stderr
        assert shell.json("restore", "pi-1")["health"] == "unknown"
        assert shell.json("check", "pi-1")["name"] == "pi-1"
        assert shell.json("retire", "pi-1", "--reason", "it burnt")["health"] == "retired"
        did = [line["action"] for line in shell.json("audit") if line["who"] == "ada"]
        assert did == ["retired", "check", "unknown", "maintenance", "undrain", "drain"]
        assert "it burnt" in shell.run("audit").stdout
        assert serving.end(signal.SIGTERM) == 0
    assert [each["event"] for each in serving.said][-1] == "ended"
    assert "can't be reached" in shell.run("list", code=DeviceError.exit_code).stderr


def test_jobs_and_leases_on_the_command_line(shell: Shell) -> None:
    with shell.serving("--no-devices") as serving:
        shell.uses(serving.about["url"], shell.run("token", "make", "bob", "--scope", "run").stdout.strip())
        with contextlib.closing(shell.database()) as database, database.write() as db:
            fill(db, "pi-2", now=database.clock.now() + 3600)
        where = FarmAddress(
            url=shell.env[endpoint.URL], token=shell.env[endpoint.TOKEN], authority=shell.env[endpoint.AUTHORITY]
        )
        with contextlib.closing(FarmClient(where)) as client:
            lease = client.ask("POST", "/api/leases", Lease, Ask(target=PI))
            job = client.ask("POST", "/api/jobs", Job, JobSpec(kind="bench", ask=Ask(target=PI), name="cat"))
        assert shell.json("status", lease.id)["device"] == "pi-2"
        assert "pi-2: in use" in shell.run("status", job.id).stdout
        assert shell.run("logs", job.id).stdout == ""
        assert "cat" in shell.run("jobs").stdout
        assert shell.json("cancel", lease.id)["end"] == "released"
        assert "cancelled" in shell.run("cancel", job.id).stdout
        assert shell.run("logs", job.id, "--follow").stdout == ""
        ended = {each["id"]: each["end"] for each in shell.json("jobs", "--state", "ended")}
        assert ended[job.id] == "cancelled"
        assert "no id" in shell.run("status", "../x", code=UsageError.exit_code).stderr
        assert "doesn't allow" in shell.run("drain", "pi-2", code=EnvironmentGap.exit_code).stderr
        assert serving.end(signal.SIGINT) == 0


def test_a_server_that_was_killed_starts_again_and_knows_everything(shell: Shell) -> None:
    with shell.serving("--no-devices") as serving:
        port = serving.about["url"].rpartition(":")[2]
        shell.uses(serving.about["url"], shell.env["ADMIN"])
        before = shell.json("audit")
        assert serving.end(signal.SIGKILL) == -signal.SIGKILL
    with shell.serving("--no-devices", listen=f"127.0.0.1:{port}") as serving:
        assert shell.json("audit") == before
        assert "Another server" in shell.run("serve", code=EnvironmentGap.exit_code).stderr
        assert serving.end(signal.SIGTERM) == 0


def test_the_servers_own_devices_are_lent_and_leave_with_it(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    admin = shell.json("init")["token"]
    host = Host(tmp_path / "desk", "", "")
    host.own("pi-9")
    where = [str(PRETEND), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    shell.env |= {"EDGEBUILD_DEVICES": str(host.inventory), "PYTHONPATH": os.pathsep.join(where)}
    with shell.serving() as serving:
        shell.uses(serving.about["url"], admin)
        while not (found := shell.json("list")):
            time.sleep(0.1)
        assert [each["name"] for each in found] == ["pi-9"]
        host.own("pi-10")
        while len(found := shell.json("list")) < 2:
            time.sleep(0.1)
        assert serving.end(signal.SIGKILL) == -signal.SIGKILL
        (agent,) = [each["pid"] for each in serving.said if each["event"] == "agent began"]
        while Path(f"/proc/{agent}").exists():
            time.sleep(0.05)
    with shell.serving() as serving:
        shell.uses(serving.about["url"], admin)
        while not all(each["there"] for each in shell.json("list")):
            time.sleep(0.1)
        assert serving.end(signal.SIGTERM) == 0
    assert all("ebf_" not in json.dumps(line) for line in serving.said)


def test_tokens_are_made_listed_and_revoked(shell: Shell) -> None:
    made = shell.json("token", "make", "eve", "--scope", "read", "--days", "1")
    assert made["token"].startswith("ebf_")
    assert "already" in shell.run("token", "make", "eve", "--scope", "read", code=UsageError.exit_code).stderr
    assert shell.json("token", "revoke", "eve")["name"] == "eve"
    assert made["token"] not in json.dumps(shell.json("token", "list"))
    assert "revoked" in next(line for line in shell.run("token", "list").stdout.splitlines() if "eve" in line)
    assert "no token" in shell.run("token", "revoke", "nobody", code=UsageError.exit_code).stderr


def test_a_server_is_this_machines_only_unless_it_is_told_otherwise(shell: Shell) -> None:
    listening = home.Settings().listen
    assert listening.startswith("127.0.0.1:")
    assert "HOST:PORT" in shell.run("serve", "--help").stdout
    assert "can't listen" in shell.run("serve", "--listen", "192.0.2.7:0", code=EnvironmentGap.exit_code).stderr


def test_a_token_is_in_no_command_line_and_no_log(shell: Shell) -> None:
    with shell.serving("--no-devices") as serving:
        shell.uses(serving.about["url"], shell.env["ADMIN"])
        client = subprocess.Popen(
            [sys.executable, "-m", "edgebuild", "farm", "logs", "--follow", "j" + "0" * 15],
            env=shell.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seen = b"".join(
            path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists() and _mine(path)
        )
        assert client.wait(LIMIT_S) == UsageError.exit_code, "the farm was asked, and knows no such job"
        assert serving.end(signal.SIGTERM) == 0
    assert b"ebf_" not in seen
    assert b"farm" in seen
    assert "ebf_" not in json.dumps(serving.said)


def _mine(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_uid == os.getuid()
    return False


def test_commands_say_which_farm_is_missing(tmp_path: Path) -> None:
    made = Shell(tmp_path)
    assert "Which farm?" in made.run("list", code=UsageError.exit_code).stderr
    assert "no farm in" in made.run("token", "list", code=UsageError.exit_code).stderr
    assert "no farm in" in made.run("serve", code=UsageError.exit_code).stderr
