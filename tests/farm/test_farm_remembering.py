"""`farm history` and `farm compare` on the command line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from edgebuild.cli.app import app
from edgebuild.core.values import digest_file
from edgebuild.errors import UsageError
from edgebuild.farm import memory, sessions, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.memory import Origin, Record
from edgebuild.farm.reporting import Used, finished, report_sessions
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Lease
from edgebuild.measuring.protocols import CERTIFY
from tests.cli.answers import valid
from tests.farm.pretend_sessions import PretendSession
from tests.farm.serving import served
from tests.farm.shelves import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

    from edgebuild.farm.database import Database


@pytest.fixture
def kept(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Record, ...]]:
    """The records of two sessions that pretend to be measured, in a farm that is served."""
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    found: list[Record] = []
    for seed, models in enumerate(({"cat": 2.0, "dog\x1b[31m": 2.2}, {"cat": 2.0})):
        made = PretendSession(tmp_path / f"certify-{seed}", models, seed=seed)
        archive = made.pack(tmp_path / f"{seed}.zip")
        farm.blobs.put([archive.read_bytes()], digest_file(archive))
        shown = sessions.require_result(archive, made.result(archive))
        found += farm.do(
            lambda db, now, shown=shown: memory.keep(  # type: ignore[misc]
                db, shown, origin=Origin.HOST, owner="ada", device="pi-1", target="pi", at=now
            )
        )
    monkeypatch.setenv("EDGEBUILD_FARM_TOKEN", farm.do(lambda db, now: tokens.make(db, "r", Scope.READ, now, days=1)))
    with served(farm) as url:
        monkeypatch.setenv("EDGEBUILD_FARM", url)
        yield tuple(found)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["farm", *arguments])


def test_a_history_is_shown_as_text_as_json_and_as_a_file(kept: tuple[Record, ...], tmp_path: Path) -> None:
    shown = run("history", "cat")
    assert shown.exit_code == 0
    assert "cat on pi-1 (pi), 2 records" in shown.output
    assert kept[0].id in shown.output
    told = valid("farm history", run("history", "cat", "--device", "pi-1", "--json").output)
    assert [each["id"] for each in told["devices"][0]["records"]] == [kept[0].id, kept[2].id]
    assert run("history", "cat", "--export", str(tmp_path / "cat.csv")).exit_code == 0
    assert (tmp_path / "cat.csv").read_text().count("\n") == 3
    for wrong in (["cow"], ["cat", "--export", str(tmp_path / "cat.xls")], ["cat", "--export", "/nowhere/cat.csv"]):
        assert isinstance(run("history", *wrong).exception, UsageError)


def test_a_comparison_is_an_exit_code(kept: tuple[Record, ...]) -> None:
    cat, dog, later = (each.id for each in kept)
    better, worse, apart = (run("compare", *pair) for pair in ((cat, dog), (dog, cat), (cat, later)))
    assert (better.exit_code, worse.exit_code, apart.exit_code) == (0, 3, 2)
    assert better.output.startswith("A is faster than B")
    assert apart.output.startswith("not comparable: they weren't measured in one session")
    assert valid("farm compare", run("compare", cat, dog, "--json").output)["comparison"]["outcome"] == "better"


def test_sessions_of_a_build_are_reported_once_with_what_the_samples_say(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    root = tmp_path / "measurements"
    there = "farm-pi-1"  # what a build calls it
    PretendSession(root / "certify-old", seed=1, device=there)
    before = finished(root)
    PretendSession(root / "certify-new", {"int8": 2.0, "fp32": 3.0}, seed=2, device=there)
    PretendSession(root / "certify-flight", seed=3, device=there, protocol=CERTIFY.in_flight())
    farm.do(lambda db, now: fill(db, "pi-1", now=now))
    token = farm.do(lambda db, now: tokens.make(db, "ada", Scope.RUN, now, days=1))
    with served(farm) as url, contextlib.closing(FarmClient(FarmAddress(url=url, token=token))) as client:
        lease = client.ask("POST", "/api/leases", Lease, Ask(device="pi-1"))
        used = [Used(lease=lease.id, since_s=0.0), Used(lease="l" + "0" * 15, since_s=1e11)]
        assert report_sessions(client, root, "cat", {"farm-pi-2": used}, before) == 0
        for _ in range(2):
            assert report_sessions(client, root, "cat", {there: used}, before) == 1, "under the lease of its time"
        found = client.ask("GET", "/api/records", tuple[Record, ...])
    assert [(each.model, each.origin, each.owner) for each in found] == [
        ("cat/int8", "user", "ada"),
        ("cat/fp32", "user", "ada"),
    ]
