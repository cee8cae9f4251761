"""The API does what its description says: schemathesis asks it everything that it allows, and much that it doesn't."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from edgebuild.farm import tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.server import identity
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.routes import hosting
from edgebuild.farm.tokens import Scope
from tests.farm.serving import served
from tests.farm.shelves import fill
from tests.needs import marked, module

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from edgebuild.farm.database import Database

#: No description can say which bytes have a digest: others are refused, and are right to be.
CONFIG = """
headers = { Authorization = "Bearer ${FARM_TOKEN}" }

[[operations]]
include-method = "PUT"
include-path = "/api/blobs/{digest}"
checks.positive_data_acceptance.enabled = false
"""
#: Which token asks what: a host's speaks for devices, an admin's does everything else.
ASKS = ((Scope.ADMIN, "--exclude-path-regex"), (Scope.HOST, "--include-path-regex"))


def make(scope: Scope, db: Connection, now: float) -> str:
    return tokens.make(db, f"{scope}-token", scope, now, days=1)


def ask_everything(farm: Farm, folder: Path, scope: Scope, which: str, *options: str) -> None:
    """Let schemathesis run all its checks with a token of a scope; raises with what it found."""
    token = farm.do(partial(make, scope))
    (folder / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"), "run"]
    with served(farm) as url:
        done = subprocess.run(
            [*command, f"{url}/openapi.json", which, "^/api/hosts", "--no-color", *options],
            cwd=folder,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "FARM_TOKEN": token},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert "Tested: 0" not in done.stdout


@pytest.fixture
def farm(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    # Wrong tokens are part of what is asked.
    monkeypatch.setattr(identity, "MOST_WRONG", 10**9)
    monkeypatch.setattr(hosting, "LONGEST_WAIT_S", 0.05)
    made = Farm(database, Blobs(tmp_path / "blobs"))
    made.do(lambda db, now: fill(db, "pi-1", "pi-2", now=now + 3600))
    return made


@marked(module("schemathesis", "schemathesis"))
@pytest.mark.parametrize(("scope", "which"), ASKS, ids=[scope.value for scope, _ in ASKS])
def test_the_api_is_as_it_is_described(farm: Farm, tmp_path: Path, scope: Scope, which: str) -> None:
    options = ("--phases", "fuzzing", "--max-examples", "4", "--generation-deterministic")
    ask_everything(farm, tmp_path, scope, which, *options)


@pytest.mark.proof
@marked(module("schemathesis", "schemathesis"))
@pytest.mark.parametrize(("scope", "which"), ASKS, ids=[scope.value for scope, _ in ASKS])
def test_the_api_is_as_it_is_described_at_length(farm: Farm, tmp_path: Path, scope: Scope, which: str) -> None:
    ask_everything(farm, tmp_path, scope, which, "--max-examples", "200", "--generation-database", "none")
