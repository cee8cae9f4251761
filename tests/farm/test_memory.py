"""What the farm keeps of every measurement: by jobs, by those who measure from afar, and by nobody who lies."""

from __future__ import annotations

import csv
import io
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from edgebuild.core.values import digest_file
from edgebuild.farm import memory, shelf
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.memory import Record, WholeRecord
from edgebuild.farm.schema import records
from edgebuild.farm.server.app import create_app
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from tests import needs
from tests.farm.pretend_sessions import PretendSession
from tests.farm.shelves import PI
from tests.farm.test_server import BENCH, People

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from edgebuild.farm.database import Database


class Remembering(People):
    """People of a farm with two boards, and models that pretend to be measured there."""

    folder: Path
    count = 0

    def session(self, **more: Any) -> tuple[PretendSession, Path]:
        self.count += 1
        made = PretendSession(self.folder / f"certify-{self.count}", seed=self.count, **more)
        archive = made.pack(self.folder / f"{self.count}.zip")
        with archive.open("rb") as file:
            self.farm.blobs.put(iter(lambda: file.read(1 << 20), b""), digest_file(archive))
        return made, archive

    def finish(self, device: str, result: dict[str, Any] | None) -> Any:
        """Do a bench job on a device with this result, and return the job."""
        ask = {**BENCH, "ask": {"device": device}}
        job = self.ask(Scope.RUN, "POST", "/api/jobs", ask).json()
        (begun,) = self.work()["start"]
        body = {"token": begun["attempts"][-1]["token"], "how": "succeeded", "result": result}
        said = self.ask(Scope.HOST, "POST", f"/api/hosts/desk/jobs/{job['id']}/finish", body)
        assert said.json() == {"counted": True}
        return self.ask(Scope.READ, "GET", f"/api/jobs/{job['id']}").json()

    def measure(self, device: str = "pi-1", **more: Any) -> Any:
        made, archive = self.session(**more)
        return self.finish(device, made.result(archive, device).model_dump(mode="json"))

    def records(self, **query: Any) -> list[Record]:
        said = self.ask(Scope.READ, "GET", "/api/records", params=query)
        return [Record.model_validate(each) for each in said.json()]

    def history(self, model: str, **query: str) -> Any:
        return self.ask(Scope.READ, "GET", "/api/history", params={"model": model, **query}).json()

    def compare(self, a: str, b: str) -> Any:
        return self.ask(Scope.READ, "GET", "/api/compare", params={"a": a, "b": b}).json()


@pytest.fixture
def people(any_database: Database, tmp_path: Path) -> Iterator[Remembering]:
    farm = Farm(any_database, Blobs(tmp_path / "blobs"))
    with TestClient(create_app(farm)) as client:
        made = Remembering(farm, client)
        made.folder = tmp_path
        made.join("pi-1", "pi-2")
        made.check_all()
        yield made


def test_what_a_bench_job_measured_is_kept_with_the_job(people: Remembering) -> None:
    job = people.measure(models={"cat": 2.0, "dog": 2.2})
    assert job["end"] == "succeeded"
    dog, cat = people.records()
    assert (cat.model, dog.model, cat.session) == ("cat", "dog", dog.session)
    assert (cat.job, cat.origin, cat.owner, cat.device, cat.target) == (job["id"], "host", "run-token", "pi-1", PI)
    assert cat.low_ms is not None
    assert cat.low_ms <= cat.point_ms <= (cat.high_ms or 0)
    whole = WholeRecord.model_validate(people.ask(Scope.READ, "GET", f"/api/records/{cat.id}").json())
    assert whole.environment == {"kernel": "6.12", "governor": "performance"}
    assert whole.measured.latency.point_ms == cat.point_ms
    assert whole.measured.anchor_ms != ()
    raw = people.ask(Scope.READ, "GET", f"/api/blobs/{cat.evidence}")
    assert raw.content[:2] == b"PK"
    assert people.ask(Scope.READ, "GET", "/api/records/m000000000000000").status_code == 404


def test_a_job_whose_result_is_a_lie_has_failed_and_leaves_no_record(people: Remembering) -> None:
    made, archive = people.session()
    good = made.result(archive).model_dump(mode="json")
    arm = good["arms"][0]
    lies = [
        (None, "none of a bench"),
        ({"ms": 3}, "none of a bench"),
        ({**good, "device": "pi-2"}, "the job had pi-1"),
        ({**good, "evidence": "0" * 64}, "hasn't the evidence"),
        ({**good, "arms": [{**arm, "summary": {**arm["summary"], "point_ms": 1.0}}]}, "raw samples"),
        ({**good, "arms": [{**arm, "artifact": "1" * 64}]}, "no launch that counts"),
    ]
    for result, why in lies:
        job = people.finish("pi-1", result)
        assert (job["end"], job["result"]) == ("failed", None)
        assert why in job["reason"]
    assert people.records() == []
    assert people.farm.look(lambda db: shelf.get(db, "pi-1")).health == "good"


def test_the_same_evidence_is_kept_once_and_never_as_that_of_two_devices(people: Remembering) -> None:
    made, archive = people.session()
    for _ in range(2):
        assert people.finish("pi-1", made.result(archive).model_dump(mode="json"))["end"] == "succeeded"
    assert len(people.records()) == 1
    job = people.finish("pi-2", made.result(archive, "pi-2").model_dump(mode="json"))
    assert (job["end"], job["reason"]) == (
        "failed",
        "its result can't be kept: This evidence is kept already, as that of pi-1.",
    )
    with people.farm.database.read() as db:
        assert db.scalar(select(func.count()).select_from(records)) == 1


def reported(made: PretendSession, archive: Path, lease: str, **more: Any) -> dict[str, Any]:
    result = made.result(archive).model_dump(mode="json")
    names = ("model", "artifact", "backend", "settings", "size_bytes", "summary", "memory", "energy")
    arms = [{name: arm[name] for name in names} for arm in result["arms"]]
    said = {name: result[name] for name in ("session", "environment", "evidence")}
    return {**said, "arms": arms, "lease": lease, **more}


def test_what_was_measured_through_a_relay_is_kept_as_reported_by_its_user(people: Remembering) -> None:
    lease = people.ask(Scope.RUN, "POST", "/api/leases", {"device": "pi-2"}).json()
    made, archive = people.session(models={"cat\x1b[31m": 2.0}, started_at="2001-01-01T00:00:00+00:00")
    said = people.ask(Scope.RUN, "POST", "/api/records", reported(made, archive, lease["id"]))
    assert said.status_code == 201
    (record,) = people.records()
    assert said.json() == [record.model_dump(mode="json")]
    assert (record.origin, record.device, record.model) == ("user", "pi-2", "cat\N{REPLACEMENT CHARACTER}[31m")
    assert record.measured_at == lease["granted_at"]  # what it says of the time is no time of the lease
    again = people.ask(Scope.RUN, "POST", "/api/records", reported(made, archive, lease["id"]))
    assert again.json() == said.json()
    assert "report" in {line["action"] for line in people.ask(Scope.READ, "GET", "/api/audit").json()}


def test_nobody_reports_without_a_lease_of_their_own_or_what_the_samples_do_not_show(people: Remembering) -> None:
    lease = people.ask(Scope.ADMIN, "POST", "/api/leases", {"device": "pi-2"}).json()
    waiting = people.ask(Scope.RUN, "POST", "/api/leases", {"device": "pi-2"}).json()
    mine = people.ask(Scope.RUN, "POST", "/api/leases", {"device": "pi-1"}).json()
    made, archive = people.session()
    body = reported(made, archive, mine["id"])
    lie = {**body, "arms": [{**body["arms"][0], "summary": {**body["arms"][0]["summary"], "point_ms": 0.1}}]}
    for scope, given, status in (
        (Scope.READ, body, 403),
        (Scope.RUN, {**body, "lease": lease["id"]}, 409),
        (Scope.RUN, {**body, "lease": waiting["id"]}, 409),
        (Scope.RUN, {**body, "lease": "l000000000000000"}, 404),
        (Scope.RUN, lie, 422),
        (Scope.RUN, {**body, "device": "pi-2"}, 422),
    ):
        assert people.ask(scope, "POST", "/api/records", given).status_code == status
    assert people.records() == []


def test_records_are_found_by_what_they_are_of(people: Remembering) -> None:
    people.measure("pi-1", models={"cat": 2.0})
    people.measure("pi-2", models={"cat": 2.1})
    people.measure("pi-2", models={"dog": 3.0})
    assert [each.model for each in people.records()] == ["dog", "cat", "cat"]
    assert [each.device for each in people.records(model="cat")] == ["pi-2", "pi-1"]
    assert len(people.records(device="pi-2")) == 2
    assert len(people.records(target=PI, most=1)) == 1
    newest = people.records()[0].measured_at
    assert [each.model for each in people.records(since=newest)] == ["dog"]
    assert people.records(since=newest + 1) == []
    with people.farm.database.read() as db:
        assert [each.model for each in memory.each(db)] == ["cat", "cat", "dog"]


def test_records_of_one_session_are_compared_in_pairs_and_no_others(people: Remembering) -> None:
    people.measure("pi-1", models={"cat": 2.0, "dog": 2.2})
    people.measure("pi-1", models={"cat": 2.0}, anchor_ms=1.2)
    people.measure("pi-2", models={"cat": 2.0})
    other, later, dog, cat = people.records()
    paired = people.compare(cat.id, dog.id)
    assert paired["comparison"]["outcome"] == "better"
    assert paired["text"].startswith("A is faster than B: 0.9")
    assert people.compare(dog.id, cat.id)["comparison"]["outcome"] == "worse"
    apart = people.compare(cat.id, later.id)
    assert apart["comparison"] is None
    assert "weren't measured in one session" in apart["text"]
    assert "the board itself drifted" in apart["anchors"]
    boards = people.compare(cat.id, other.id)
    assert "two devices, pi-1 and pi-2" in boards["text"]
    assert "fewer than 3 anchors" in boards["anchors"]
    assert people.compare(cat.id, cat.id)["comparison"] is None
    assert people.ask(Scope.READ, "GET", f"/api/compare?a={cat.id}&b=m000000000000000").status_code == 404


def test_a_history_tells_a_slower_model_from_a_board_that_drifts(people: Remembering) -> None:
    for number in range(10):
        late = number >= 5
        people.measure(models={"cat": 2.2 if late else 2.0})
        people.measure(models={"dog": 3.3 if late else 3.0}, anchor_ms=1.1 if late else 1.0)
    (cat,), (dog,) = (people.history(name)["devices"] for name in ("cat", "dog"))
    assert len(cat["records"]) == 10
    (slower,), (drift,) = cat["changes"], dog["changes"]
    assert (slower["what"], slower["index"]) == ("model", 5)
    assert slower["low"] < 1.1 < slower["high"] < 1.12
    assert (drift["what"], drift["index"]) == ("board", 5)
    assert slower["at"] == cat["records"][5]["measured_at"]
    assert "the model got slower by 10" in slower["text"]
    assert "the board drifted: its anchor got slower by 10" in drift["text"]


def test_devices_of_a_history_are_never_pooled_and_their_boards_are_told(people: Remembering) -> None:
    people.measure("pi-1", models={"cat": 2.0})
    people.measure("pi-2", models={"cat": 2.0})
    for name, ms in (("pi-1", 20.0), ("pi-2", 30.0)):
        for shift in (1.0, 1.001, 0.999, 1.002):
            people.farm.do(partial(_checked, name, ms * shift))
    found = people.history("cat")
    assert [len(each["records"]) for each in found["devices"]] == [1, 1]
    assert found["boards"]["pi-2"]["outcome"] == "different"
    assert [each["device"] for each in people.history("cat", device="pi-2")["devices"]] == ["pi-2"]
    missing = people.ask(Scope.READ, "GET", "/api/history", params={"model": "cow"})
    assert missing.status_code == 404


def _checked(name: str, ms: float, db: Connection, now: float) -> None:
    shelf.checked(db, name, True, "", {}, now, anchor_ms=ms)


def test_records_are_exported_as_tables_that_nobody_computes(people: Remembering) -> None:
    people.measure(models={"=HYPERLINK(1)": 2.0, 'a,"b"': 2.2})
    said = people.ask(Scope.READ, "GET", "/api/records/export")
    assert said.headers["content-type"].startswith("text/csv")
    first, second = csv.DictReader(io.StringIO(said.text))
    assert (first["model"], second["model"]) == ("'=HYPERLINK(1)", 'a,"b"')
    kept = people.records()[-1]
    assert (float(first["point_ms"]), first["id"], first["job"]) == (kept.point_ms, kept.id, kept.job)
    assert people.ask(Scope.READ, "GET", "/api/records/export?model=x").text.count("\n") == 1
    assert people.ask(Scope.READ, "GET", "/api/records/export?format=xml").status_code == 422


def test_records_are_exported_as_parquet(people: Remembering, tmp_path: Path) -> None:
    needs.skip_without(needs.module("pyarrow", "pyarrow"))
    import pyarrow.parquet as parquet

    people.measure(models={"=cat": 2.0})
    said = people.ask(Scope.READ, "GET", "/api/records/export?format=parquet")
    (tmp_path / "r.parquet").write_bytes(said.content)
    (row,) = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert row == people.records()[0].model_dump(mode="json")


def test_without_what_writes_parquet_csv_is_named(people: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = people.ask(Scope.READ, "GET", "/api/records/export?format=parquet")
    assert said.status_code == 422
    assert "CSV" in said.json()["hint"]
