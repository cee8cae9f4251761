"""What a record measured again comes to, and which records can't be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from typer.testing import CliRunner

from edgebuild.cli.app import app
from edgebuild.core.measurement import LatencySummary
from edgebuild.core.values import digest_bytes, digest_file
from edgebuild.errors import UsageError
from edgebuild.farm import desk, memory, replaying, sessions, shelf, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.memory import Measured, Origin, WholeRecord
from edgebuild.farm.replaying import Replayed, judge
from edgebuild.farm.schema import devices, jobs
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import Ask, Health, JobSpec
from tests.farm.pretend_sessions import PretendSession
from tests.farm.serving import served
from tests.farm.shelves import PI, fill
from tests.farm.test_comparing import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgebuild.farm.database import Database

MODEL = b"a model"
ANCHORS = (1.0, 1.002)


def session(
    ms: float, anchors: tuple[float, ...] = ANCHORS, *, spread: float | None = 0.01, **more: Any
) -> WholeRecord:
    around = {} if spread is None else {"low_ms": ms / (1 + spread), "high_ms": ms * (1 + spread)}
    latency = LatencySummary(
        launches=6,
        invalid_launches=0,
        point_ms=ms,
        throughput_per_s=1e3 / ms,
        load_ms=1,
        first_inference_ms=1,
        **around,
    )
    arm = {"backend": "onnxruntime", **{each: more.pop(each) for each in ("backend", "settings") if each in more}}
    measured = Measured(latency=latency, anchor_ms=anchors, **arm)
    return record(point_ms=ms, measured=measured, **{"id": "b", **more})


THEN = session(2.0, id="a")


@pytest.mark.parametrize(
    ("now", "agreement", "moved"),
    [
        (session(2.0), "agrees", "no"),
        (session(2.06), "agrees", "no"),
        (session(2.4), "disagrees", "no"),
        (session(1.6), "disagrees", "no"),
        (session(2.4, (1.2, 1.202)), "agrees", "yes"),  # the board is slower, and the model with it
        (session(2.0, (1.2, 1.202)), "inconclusive", "yes"),  # the model isn't slower, though the board is
        (session(4.0, (1.2, 1.202)), "inconclusive", "yes"),
        (session(2.0, (1.0, 1.3)), "inconclusive", "unknown"),  # an anchor that says nothing
        (session(2.4, ()), "disagrees", "unknown"),
        (session(2.0, ()), "agrees", "unknown"),
        (session(2.0, spread=None), "inconclusive", "no"),
        (session(2.0, spread=0.5), "inconclusive", "no"),
        (session(2.0, environment={"kernel": "6.13"}), "inconclusive", "no"),
        (session(2.0, artifact="3" * 64), "inconclusive", "no"),
        (session(2.0, backend="openvino"), "inconclusive", "no"),
        (session(2.0, settings={"threads": 2}), "inconclusive", "no"),
    ],
)
def test_what_two_sessions_of_a_device_come_to(now: WholeRecord, agreement: str, moved: str) -> None:
    found = judge(THEN, now)
    assert (found.agreement, found.board_moved) == (agreement, moved)


def test_the_reasons_and_the_drift_are_said() -> None:
    changed = judge(THEN, session(2.4, (1.2, 1.202), environment={"kernel": "6.13", "power_mode": "15W"}))
    assert "the device was another (kernel: 6.12 and 6.13, power_mode: unknown and 15W)" in changed.text
    assert "The board itself drifted: its anchor takes 1.2" in changed.text
    assert "2.4 ms now, 2 ms on record" in changed.text
    assert "no anchor" in judge(THEN, session(2.0, ())).text


spreads = st.floats(0.001, 0.3)
anchors = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=3).map(tuple)
times = st.floats(0.1, 100.0)


@given(then=times, now=times, one=anchors, other=anchors, spread=spreads, scale=st.floats(0.1, 10.0))
def test_what_the_board_does_to_both_says_nothing_of_the_model(
    then: float, now: float, one: tuple[float, ...], other: tuple[float, ...], spread: float, scale: float
) -> None:
    a, b = session(then, one, spread=spread), session(now, other, spread=spread)
    slower = session(now * scale, tuple(ms * scale for ms in other), spread=spread)
    plain, moved = _model(judge(a, b)), _model(judge(a, slower))
    assert plain == pytest.approx(moved)
    back = _model(judge(b, a))
    assert plain[0] * back[0] == pytest.approx(1)
    assert plain[1] * back[2] == pytest.approx(1)
    assert plain[1] <= plain[0] <= plain[2]


@given(then=times, now=times, one=anchors, other=anchors, spread=spreads)
def test_an_anchor_never_makes_an_interval_narrower(
    then: float, now: float, one: tuple[float, ...], other: tuple[float, ...], spread: float
) -> None:
    a, b = session(then, one, spread=spread), session(now, other, spread=spread)
    bare = _model(judge(a, session(now, (), spread=spread)))
    normal = _model(judge(a, b))
    assert math.log(normal[2] / normal[1]) >= math.log(bare[2] / bare[1]) - 1e-9


def _model(found: Replayed) -> tuple[float, float, float]:
    assert found.model is not None
    return found.model.ratio, found.model.low, found.model.high


class Kept:
    """A farm that keeps two records of sessions that pretend to be measured: one of a job, one of a user's."""

    def __init__(self, folder: Path, url: str, farm: Farm) -> None:
        ada = Identity(id="t", name="ada", scope=Scope.RUN)
        self.farm = farm
        self.model = digest_bytes(MODEL)
        farm.blobs.put([MODEL], self.model)
        sent = {"name": "cat", "files": [{"path": "cat.onnx", "sha256": self.model}], "entry": "cat.onnx"}
        spec = JobSpec(kind="bench", ask=Ask(device="pi-1"), arguments={"model": sent})
        farm.do(lambda db, now: fill(db, "pi-1", now=now))
        self.job = farm.do(lambda db, now: desk.submit(db, ada, spec, now)).id
        self.host = self._keep(folder / "one", 1, Origin.HOST, self.job)
        self.user = self._keep(folder / "other", 2, Origin.USER, "")
        token = farm.do(lambda db, now: tokens.make(db, "r", Scope.READ, now, days=1))
        self.client = FarmClient(FarmAddress(url=url, token=token))

    def change(self, **values: Any) -> None:
        """Make the device another one."""
        with self.farm.database.write() as db:
            db.execute(update(devices).values(**values))

    def _keep(self, folder: Path, seed: int, origin: Origin, job: str) -> str:
        made = PretendSession(folder / "session", seed=seed)
        archive = made.pack(folder / "session.zip")
        result = made.result(archive)
        found = sessions.require_result(archive, result)

        def keep(db: Any, now: float) -> str:
            db.execute(update(jobs).where(jobs.c.id == job).values(result=result.model_dump(mode="json")))
            kept = memory.keep(db, found, origin=origin, owner="ada", device="pi-1", target=PI, at=now, job=job)
            return kept[0].id

        self.farm.blobs.put([archive.read_bytes()], digest_file(archive))
        return self.farm.do(keep)


@pytest.fixture
def kept(database: Database, tmp_path: Path) -> Iterator[Kept]:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm, reconciled=False) as url:
        made = Kept(tmp_path, url, farm)
        yield made
        made.client.close()


def test_a_record_of_a_job_can_be_measured_again(kept: Kept) -> None:
    found = replaying.find(kept.client, kept.host)
    assert (found.record.id, found.place) == (kept.host, 0)
    assert found.arguments.model.files[0].sha256 == kept.model


def test_a_record_that_cannot_be_measured_again_says_why(kept: Kept) -> None:
    def refused(record: str, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            replaying.find(kept.client, record)

    refused("../status", "no id of a record")
    refused("m" + "0" * 15, "There is no record")
    refused(kept.user, "measured by ada through a relay: its artifact isn't in the farm")
    kept.farm.blobs.path(kept.model).unlink()
    refused(kept.host, r"hasn't cat\.onnx of m.* any more")
    kept.farm.do(lambda db, now: shelf.set_health(db, "pi-1", Health.RETIRED, "", now))
    refused(kept.host, "pi-1 is retired")
    kept.change(target="jetson", health=Health.GOOD)
    refused(kept.host, "pi-1 is of jetson now")
    kept.change(name="pi-2")
    refused(kept.host, "pi-1 isn't in the farm any more")


@pytest.mark.parametrize(
    "more", [["m.onnx"], ["--target", "pi"], ["--device", "pi-1"], ["--quick"], ["--threads", "2"], ["--shape", "n=1"]]
)
def test_what_is_on_record_is_not_given_once_more(more: list[str]) -> None:
    found = CliRunner().invoke(app, ["bench", "--replay", "m" + "0" * 15, *more]).exception
    assert isinstance(found, UsageError)
    assert "as it was measured" in found.message


def test_there_is_something_to_measure() -> None:
    assert isinstance(CliRunner().invoke(app, ["bench"]).exception, UsageError)
