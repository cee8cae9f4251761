from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.farm.database import Database, sqlite_url
from tests import needs
from tests.farm import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    needs.skip_without(postgres.need())
    server = postgres.Postgres()
    yield server
    server.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new farm's tables in SQLite."""
    yield from _opened(sqlite_url(tmp_path / "farm.db"))


@pytest.fixture(params=["sqlite", "postgresql"])
def any_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database."""
    return str(request.param)


@pytest.fixture
def any_url(request: pytest.FixtureRequest, tmp_path: Path, any_kind: str) -> Iterator[str]:
    """The URL of a new farm's database, of each kind."""
    yield from _url(request, tmp_path, any_kind, empty=False)


@pytest.fixture
def any_empty_url(request: pytest.FixtureRequest, tmp_path: Path, any_kind: str) -> Iterator[str]:
    """The URL of a database without tables, of each kind."""
    yield from _url(request, tmp_path, any_kind, empty=True)


@pytest.fixture
def any_database(any_url: str) -> Iterator[Database]:
    """A new farm's tables in each kind of database."""
    yield from _opened(any_url)


def _opened(url: str) -> Iterator[Database]:
    made = Database(url)
    made.upgrade()
    yield made
    made.close()


def _url(request: pytest.FixtureRequest, folder: Path, kind: str, *, empty: bool) -> Iterator[str]:
    if kind == "sqlite":
        yield sqlite_url(folder / "farm.db")
        return
    server: postgres.Postgres = request.getfixturevalue("postgres_server")
    yield server.database("test", empty=empty)
    server.drop("test")
