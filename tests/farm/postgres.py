"""A real PostgreSQL server of a test's own: Debian's, in a temporary folder, on a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from edgebuild.farm.database import Database
from tests import needs

#: What the server runs as where the tests run as root, which it refuses.
USER = "postgres"
TEMPLATE = "farm_template"


def binaries() -> Path | None:
    """Return the folder of the newest server that is installed, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return None if program is None else Path(program).resolve().parent


def need() -> needs.Need | None:
    """Return the need of a server, or None where it is there."""
    return None if binaries() else needs.Need("PostgreSQL", "apt", "postgresql")


class Postgres:
    """A server that can be stopped and started; its databases are copies of one whose tables are made."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self._bin = found
        self._user = USER if os.geteuid() == 0 else None
        self.folder = Path(
            tempfile.mkdtemp(prefix="pg-")
        )  # the server's user has to reach it: pytest's folders are shut
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._run(
            "initdb", "--auth=trust", "--username=farm", "--no-sync", "--encoding=UTF8", "--locale=C", "-D", "data"
        )
        self.start()
        self._sql(f"CREATE DATABASE {TEMPLATE}")
        template = Database(self.url(TEMPLATE))
        template.upgrade()
        template.close()

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"postgresql+psycopg://farm@/{name}?host={self.folder}"

    def database(self, name: str, *, empty: bool = False) -> str:
        """Return the URL of a new database, with the farm's tables unless it is to be ``empty``."""
        self._sql(f"CREATE DATABASE {name}" + ("" if empty else f" TEMPLATE {TEMPLATE}"))
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self._sql(f"DROP DATABASE {name} WITH (FORCE)")

    def start(self) -> None:
        """Start the server; nothing is synced, since no test cuts the power."""
        options = f"-c listen_addresses= -c fsync=off -c max_connections=200 -k {self.folder}"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self, *, how: str = "immediate") -> None:
        """Stop the server, at once and without a word to those who are connected unless ``how`` says otherwise."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", how, "stop")

    def close(self) -> None:
        """Stop the server and remove what it kept."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop", check=False)
        shutil.rmtree(self.folder)

    def _sql(self, text: str) -> None:
        with psycopg.connect(host=str(self.folder), user="farm", dbname="postgres", autocommit=True) as connection:
            connection.execute(text.encode())

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            cwd=self.folder,
            user=self._user,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0 or not check, f"{program} failed: {(done.stdout or b'').decode()}"
