"""The farm's database: SQLite in a file unless a URL names another; one writer at a time, a clock without steps."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from edgebuild.errors import EnvironmentGap, StoreError, UsageError, without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

#: The number under which two servers of one PostgreSQL take turns.
_TURN = 0x65646765
_MIGRATIONS = Path(__file__).parent / "migrations"


class Clock:
    """Seconds since 1970 when it was made, and from then on what really passed: a step of the host's clock is none."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the time."""
        return self._offset + time.monotonic()


class Database:
    """Transactions on the farm's tables, one after the other."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._engine = _engine(url)
        self._writer = self._engine.execution_options(writes=True)
        self._writing = threading.Lock()
        self.url = without_passwords(url)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection whose changes are all kept, or none; the only one that writes.

        Raises ``StoreError`` when the database can't be reached or is full.
        """
        with self._writing, self._told(), self._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection to look with; raises ``StoreError`` when the database can't be reached."""
        with self._told(), self._engine.connect() as connection:
            yield connection

    def upgrade(self) -> None:
        """Bring the tables to this version's form; raises ``StoreError`` for those of a newer edgebuild."""
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self.write() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise StoreError(
                    f"The farm's database {self.url} is of another edgebuild: {error}.",
                    hint="Run the edgebuild that wrote it, or a newer one.",
                ) from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
            why = said.splitlines() or [type(error).__name__]
            raise StoreError(
                f"The farm's database {self.url} doesn't do its work: {without_passwords(why[0])}.",
                hint="Check that it runs, that it can be reached, and that its disk has room.",
            ) from error


def sqlite_url(path: Path) -> str:
    """Return the URL of a file."""
    return f"sqlite:///{path.absolute()}"


def _engine(url: str) -> Engine:
    parsed = _parsed(url)
    # As many at once as a server has threads for requests, and some more; who waits for a turn to write holds none.
    # A connection to a server may be cut while nobody uses it; one to a file isn't.
    cut = parsed.get_backend_name() != "sqlite"
    engine = create_engine(parsed, pool_pre_ping=cut, pool_size=20, max_overflow=40)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _parsed(url: str) -> URL:
    """Return a URL of a database that the farm's SQL is for, with the driver that comes with edgebuild."""
    hint = "Write postgresql://USER:PASSWORD@HOST/NAME, or sqlite:////PATH."
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError("The farm's database isn't given as a URL.", hint=hint) from error
    backend = parsed.get_backend_name()
    if backend not in {"postgresql", "sqlite"}:
        raise UsageError(f"The farm doesn't speak to databases of {backend}.", hint=hint)
    if backend == "postgresql":
        if importlib.util.find_spec("psycopg") is None:
            raise EnvironmentGap("PostgreSQL needs psycopg.", hint="pip install 'edgebuild[postgresql]' brings it.")
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _prepare_sqlite(connection: Any, record: object) -> None:
    del record
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that turns from reading to writing half-way may find that it has to start over.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
