from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.releasing.registries.credentials import PASSWORD, USER

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_credentials_of_the_users(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    empty: Path = tmp_path_factory.mktemp("docker")
    monkeypatch.setenv("DOCKER_CONFIG", str(empty))
    monkeypatch.delenv(USER, raising=False)
    monkeypatch.delenv(PASSWORD, raising=False)
