from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.farm.database import Database, sqlite_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(sqlite_url(tmp_path / "farm.db"))
    made.upgrade()
    yield made
    made.close()
