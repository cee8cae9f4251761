"""The farm's own folder: what it is called, its authority, its files, and its database unless that is elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from edgebuild.catalogue.tables import Table, read_toml, validate
from edgebuild.core.files import expanded, home_folder
from edgebuild.errors import ConfigError, StoreError, UsageError
from edgebuild.farm import authority
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.retention import KEEP_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FOLDER = "EDGEBUILD_FARM_HOME"
SETTINGS = "farm.toml"
LISTEN = "127.0.0.1:8443"
#: A name that stands in a certificate and in an address.
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,39}")


class Settings(Table):
    """``farm.toml``. Without ``database`` it is a file in the folder; ``names`` are what clients call this machine.

    ``keep_days``: how long logs, jobs without a record and files that nobody needs are kept. Default: 90.
    ``public``: whoever reaches the server may look at its pages without a token. Default: where only this machine does.
    """

    database: str = ""
    names: tuple[str, ...] = Field(default=(), max_length=32)
    listen: str = LISTEN
    public: bool | None = None
    keep_days: int = Field(default=KEEP_DAYS, ge=1, le=36_500)

    @field_validator("names")
    @classmethod
    def _callable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is no name or address of a machine")
        return names

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        parse_listen(listen)
        return listen


@dataclass(frozen=True, kw_only=True)
class Home:
    """A farm's folder and what its ``farm.toml`` says."""

    folder: Path
    settings: Settings

    @property
    def authority(self) -> Path:
        """The certificate that clients trust."""
        return self.folder / authority.AUTHORITY

    @property
    def blobs(self) -> Blobs:
        """The farm's files."""
        return Blobs(self.folder / "blobs")

    def database(self) -> Database:
        """Return the farm's database, not looked at yet."""
        return Database(self.settings.database or sqlite_url(self.folder / "farm.db"))

    @contextlib.contextmanager
    def only_server(self) -> Iterator[None]:
        """Be this folder's only server while the block runs; raises ``StoreError`` where another one is."""
        with (self.folder / "server.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"Another server runs the farm in {self.folder}.", hint="Stop it, or set EDGEBUILD_FARM_HOME."
                ) from error
            yield


def home_path() -> Path:
    """Return where the farm's folder is: $EDGEBUILD_FARM_HOME, else in the user's data."""
    named = os.environ.get(FOLDER)
    if named:
        return expanded(named).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or home_folder() / ".local/share").absolute() / "edgebuild" / "farm"


def load_home() -> Home:
    """Return the farm of this machine; raises ``UsageError`` where there is none, ``ConfigError`` for a wrong one."""
    folder = home_path()
    path = folder / SETTINGS
    try:
        said = read_toml(path)
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UsageError(f"There is no farm in {folder}.", hint="`edgebuild farm init` makes one.") from error
        raise
    return Home(folder=folder, settings=validate(Settings, said, str(path)))


def make_home(*, database: str, names: Sequence[str], prepare: Callable[[Home], None]) -> Home:
    """Make the farm's folder, whole or not at all, and return it; ``prepare`` fills its database.

    An empty folder that is there stays the same one: a volume of a container can't be replaced.
    Raises ``UsageError`` where a farm is already, or the folder is another user's.
    """
    folder = home_path()
    given = {"names": list(names)} | ({"database": database} if database else {})
    settings = validate(Settings, given, "edgebuild farm init")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"There is something in {folder} already.", hint=f"Set {FOLDER} to another folder.")
    there = folder.exists()
    if there:
        _keep_to_oneself(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder if there else folder.parent, prefix=f".{folder.name}-"))
    try:
        authority.make_authority(scratch)
        (scratch / "blobs").mkdir()
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items()]
        text = "# A farm of edgebuild's. `database` may hold a password.\n" + "".join(lines)
        authority.write_private(scratch / SETTINGS, text.encode())
        prepare(Home(folder=scratch, settings=settings))
        if there:
            _move_out(scratch)
        else:
            scratch.replace(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Home(folder=folder, settings=settings)


def _keep_to_oneself(folder: Path) -> None:
    try:
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be kept from others: {error.strerror or error}.",
            hint=f"Make it this user's, or set {FOLDER} to a new folder in one that this user may write.",
        ) from error


def _move_out(scratch: Path) -> None:
    """Move what a folder holds into the one around it, its settings last: without them there is no farm."""
    moved = []
    try:
        for each in sorted(scratch.iterdir(), key=lambda each: each.name == SETTINGS):
            target = scratch.parent / each.name
            each.replace(target)
            moved.append(target)
    except BaseException:
        for each in moved:
            each.replace(scratch / each.name)
        raise
    scratch.rmdir()


def parse_listen(text: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``; raises ``ValueError`` for something else."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text[:80]!r} isn't HOST:PORT")
    return host, int(port)
