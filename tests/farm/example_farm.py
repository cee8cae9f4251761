"""An example of a farm to look at: a made-up shelf of boards in every state, with a queue, ended jobs and records.

    python -m tests.farm.example_farm [FOLDER]

serves it on localhost, and prints a token of each scope. Nothing in it was measured.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, update

from edgebuild.farm import audit, jobs, leases, shelf, tokens
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.memory import Measured
from edgebuild.farm.schema import attempts, checks, devices, hosts, records
from edgebuild.farm.schema import jobs as job_rows
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Health, JobEnd, JobSpec, LeaseEnd, Offered
from tests.reporting.sample_record import latency

if TYPE_CHECKING:
    from sqlalchemy import Connection

DAY_S = 86_400.0
PI, NANO, N100 = "raspberry-pi-5", "jetson-orin-nano-8gb", "intel-n100"
SHELF = {
    "rack-1": [*((f"pi-{n}", PI) for n in range(1, 7)), ("n100-1", N100), ("n100-2", N100)],
    "rack-2": [*((f"nano-{n}", NANO) for n in range(1, 4)), ("pi-7", PI)],
    "garage": [("pi-8", PI)],
}
FACTS = {
    PI: {"cpu": "Cortex-A76", "cores": "4", "memory": "8.0 GiB", "kernel": "6.12.25+rpt-rpi-2712", "python": "3.11.2"},
    NANO: {"cpu": "Cortex-A78AE", "cores": "6", "gpu": "Ampere, 1024 cores", "memory": "7.4 GiB", "python": "3.10.12"},
    N100: {"cpu": "Intel N100", "cores": "4", "memory": "15.4 GiB", "kernel": "6.1.0-28-amd64", "python": "3.11.2"},
}
ANCHORS_MS = {PI: 21.4, NANO: 8.2, N100: 12.9}
MODELS = ("shelf-detector", "keyword-spotter")
LOG = (
    "runner 4f1c… is there already",
    "artifact shelf-detector-int8.onnx: 3.1 MiB sent in 0.4 s",
    "governor performance, 51.2 °C, load 0.04",
    "warm-up: 2.0 s, 94 inferences",
    "launch 1 of 10: median 21.31 ms",
    "launch 2 of 10: median 21.38 ms",
    "launch 3 of 10: median 21.29 ms",
)


def fill(db: Connection, now: float) -> None:
    """Fill an empty farm."""
    chance = random.Random(7)
    _stock(db, now, chance)
    _ended(db, now, chance)
    _at_work(db, now)
    _troubles(db, now)
    _remember(db, now, chance)


def _stock(db: Connection, now: float, chance: random.Random) -> None:
    for host, held in SHELF.items():
        offered = [
            Offered(name=name, target=target, facts=FACTS[target], labels={"rack": host} if host != "garage" else {})
            for name, target in held
        ]
        shelf.register(db, host, f"t-{host}", "0.1.0", offered, now - 40 * DAY_S)
        audit.note(db, f"{host}-host", "hello", host, now - 40 * DAY_S, devices=[name for name, _ in held])
        for name, target in held:
            past = [
                _check(name, target, now - n * 0.25 * DAY_S - chance.random() * 900, n, chance)
                for n in range(40, 0, -1)
            ]
            db.execute(insert(checks), past[:-1])
            last = past[-1]
            shelf.checked(db, name, True, "", last["readings"], last["at"], anchor_ms=last["anchor_ms"])
        shelf.seen(db, host, now - 3)


def _check(name: str, target: str, at: float, n: int, chance: random.Random) -> dict[str, Any]:
    slow = 1.07 if name == "pi-3" and n < 12 else 1.0
    passed = not (name == "pi-5" and n in {20, 21})
    at -= chance.random() * 900
    readings = {"echo_ms": round(0.9 + chance.random(), 2), "temperature_c": round(48 + 6 * chance.random(), 1)}
    readings |= {"disk_free_bytes": 11_450_000_000, "clock_skew_s": round(chance.random() / 50, 3)}
    anchor = ANCHORS_MS[target] * slow * (1 + chance.gauss(0, 0.004))
    why = "" if passed else "throttled: under-voltage since it was started"
    found = {"device": name, "at": at, "passed": passed, "reason": why}
    return {**found, "readings": readings, "anchor_ms": anchor}


def _ended(db: Connection, now: float, chance: random.Random) -> None:
    ends = [JobEnd.SUCCEEDED] * 14 + [JobEnd.FAILED, JobEnd.TIMED_OUT, JobEnd.CANCELLED, JobEnd.DEVICE_LOST] * 2
    for n, end in enumerate(chance.sample(ends, len(ends))):
        at = now - (len(ends) - n) * 3000.0
        target = chance.choice([PI, NANO, N100])
        owner = chance.choice(["ada", "grace", "ci"])
        spec = JobSpec(
            kind="bench",
            name=f"{chance.choice(MODELS)}, candidate {n + 1}",
            ask=Ask(
                target=target,
                duration_s=1800.0,
                preemptible=n % 3 == 0,
                affinity=f"search of {target}" if n % 4 == 0 else "",
            ),
            arguments={"artifact": f"{n:064x}", "protocol": "screen" if n % 3 else "certify"},
        )
        job = jobs.submit(db, spec, owner, at).id
        audit.note(db, owner, "submit", job, at, kind="bench", name=spec.name)
        _end(db, job, end, at, chance)


def _end(db: Connection, job: str, end: JobEnd, at: float, chance: random.Random) -> None:
    tries = 3 if end is JobEnd.DEVICE_LOST else 1
    for n in range(tries):
        token = jobs.start(db, job, at + 60 * n + 4).attempts[-1].token
        jobs.log(db, job, token, list(LOG), at + 60 * n + 9)
        if end is JobEnd.TIMED_OUT:
            jobs.end_lease(db, jobs.get(db, job).attempts[-1].lease, LeaseEnd.EXPIRED, at + 1804)
            return
        reason = {
            JobEnd.FAILED: "The operator NonMaxSuppression isn't supported by this runtime.",
            JobEnd.DEVICE_LOST: "the connection ended: no route to host",
            JobEnd.CANCELLED: "cancelled while it ran",
        }.get(end, "")
        result = {"p50_ms": round(20 + chance.random() * 3, 3), "launches": 10, "verdict": "equivalent"}
        over = at + 60 * n + 40 + chance.random() * 400
        jobs.finish(db, job, token, end, over, reason=reason, result=result if end is JobEnd.SUCCEEDED else None)


def _at_work(db: Connection, now: float) -> None:
    for n, (device, target, owner) in enumerate(
        [("pi-1", PI, "ada"), ("pi-2", PI, "ci"), ("nano-1", NANO, "grace"), ("n100-1", N100, "ci")]
    ):
        ask = Ask(target=target, device=device, duration_s=3600.0, preemptible=n == 1)
        spec = JobSpec(kind="bench", name=f"{MODELS[n % 2]}, certify", ask=ask, arguments={"artifact": f"{n:064x}"})
        job = jobs.submit(db, spec, owner, now - 900 + 60 * n)
        token = jobs.start(db, job.id, now - 880 + 60 * n).attempts[-1].token
        jobs.log(db, job.id, token, list(LOG), now - 200)
        leases.beat(db, job.attempts[-1].lease, now)
    for device, owner in (("nano-2", "grace"), ("pi-4", "ada")):
        afar = Ask(device=device, duration_s=7200.0, purpose=f"build shelf-detector on {device}")
        leases.beat(db, leases.ask(db, afar, owner, now - 1900).id, now)


def _troubles(db: Connection, now: float) -> None:
    shelf.set_health(db, "nano-3", Health.MAINTENANCE, "a new fan, back on Thursday", now - DAY_S)
    audit.note(db, "root", "maintenance", "nano-3", now - DAY_S, reason="a new fan, back on Thursday")
    shelf.set_health(db, "pi-6", Health.RETIRED, "its card wore out", now - 3 * DAY_S)
    audit.note(db, "root", "retired", "pi-6", now - 3 * DAY_S, reason="its card wore out")
    for at in (now - 2000, now - 1000):
        shelf.checked(db, "pi-5", False, "throttled: under-voltage since it was started", {"throttled": "0x50005"}, at)
    shelf.checked(db, "pi-3", False, "the anchor took 22.9 ms, 7 % more than in its own history", {}, now - 600)
    shelf.drain(db, "n100-2", True, now - 60)
    db.execute(update(devices).where(devices.c.host == "garage").values(there=False))
    db.execute(update(hosts).where(hosts.c.name == "garage").values(seen_at=now - 5 * 3600))
    waits: list[tuple[str, str, dict[str, Any]]] = [
        ("keyword-spotter, screen 12", "ci", {"target": NANO, "priority": 8}),
        ("shelf-detector, certify", "ada", {"target": PI, "device": "pi-3"}),
        ("keyword-spotter, screen 13", "ci", {"target": NANO, "preemptible": True}),
        ("shelf-detector, nightly", "ci", {"target": N100, "begin_at": now + 5 * 3600}),
        ("shelf-detector on a fresh card", "grace", {"device": "pi-5", "priority": 3}),
    ]
    for n, (name, owner, wanted) in enumerate(waits):
        jobs.submit(db, JobSpec(kind="bench", name=name, ask=Ask(**wanted)), owner, now - 700 + 100 * n)


def _remember(db: Connection, now: float, chance: random.Random) -> None:
    number, rows = 0, []
    for model, (device, target) in ((m, d) for m in MODELS for d in (("pi-1", PI), ("pi-3", PI), ("nano-1", NANO))):
        base = (ANCHORS_MS[target] * 1.6) if model == MODELS[0] else 3.1
        for n in range(30, 0, -1):
            at = now - n * DAY_S - chance.random() * 4000
            drift = 1.07 if device == "pi-3" and n < 9 else 1.0
            point = base * drift * (0.86 if n < 14 and device == "pi-1" else 1.0) * math.exp(chance.gauss(0, 0.006))
            number += 1
            measured = Measured(latency=latency(point, certified=True), backend="onnxruntime")
            row = {
                "id": f"m{number:015x}",
                "session": f"s{number // 2:015x}",
                "job": "",
                "origin": "host",
                "owner": chance.choice(["ada", "ci"]),
                "model": model,
                "artifact": f"{1 if n >= 14 else 2:064x}",
                "device": device,
                "target": target,
                "protocol": "certify",
                "measured_at": at,
                "point_ms": point,
                "low_ms": point * 0.993,
                "high_ms": point * 1.008,
                "anchor_ms": ANCHORS_MS[target] * drift * (1 + chance.gauss(0, 0.003)),
                "environment": {"governor": "performance", "kernel": FACTS[target].get("kernel", "5.15.148-tegra")},
                "summary": measured.model_dump(mode="json"),
                "evidence": f"{number // 2:064x}",
            }
            rows.append(row)
    db.execute(insert(records), rows)


def give_tokens(db: Connection, now: float) -> dict[Scope, str]:
    """Return a token of each scope that people have."""
    scopes = {Scope.READ: "reader", Scope.RUN: "ada", Scope.ADMIN: "root"}
    return {scope: tokens.make(db, name, scope, now, days=1) for scope, name in scopes.items()}


def crowd(db: Connection, now: float, count: int) -> None:
    """Put many good devices on the shelf, half of them in use, and as many jobs into the queue."""
    row = {"host": "rack-9", "kind": "ssh", "facts": {}, "labels": {}, "reason": "", "failures": 0, "draining": False}
    shelf.register(db, "rack-9", "t-9", "0.1.0", [], now)
    db.execute(
        insert(devices),
        [
            {**row, "name": f"board-{n:04d}", "target": PI, "health": "good", "there": True, "added_at": now}
            | {"checked_at": now - n, "token": 0, "lease": f"l{n:015x}" if n % 2 else ""}
            for n in range(count)
        ],
    )
    ask = Ask(target=PI).model_dump(mode="json")
    spec = JobSpec(kind="bench", name="a crowd's", ask=Ask(target=PI)).model_dump(mode="json")
    lease = {"owner": "ci", "ask": ask, "target": PI, "wanted": "", "affinity": "", "rank": 4, "preemptible": False}
    lease |= {"checks": False, "begin_at": 0.0, "due": True, "turn": 0, "asked_at": now, "beat_at": now}
    taken, waits = [n for n in range(count) if n % 2], range(count, 2 * count)
    held = {"state": "held", "token": 1, "granted_at": now, "expires_at": now + 900}
    made = [{**lease, **held, "id": f"l{n:015x}", "job": f"j{n:015x}", "device": f"board-{n:04d}"} for n in taken]
    db.execute(insert(lease_rows), made)
    db.execute(
        insert(lease_rows), [{**lease, "state": "waiting", "id": f"l{n:015x}", "job": f"j{n:015x}"} for n in waits]
    )
    job = {"owner": "ci", "kind": "bench", "spec": spec, "submitted_at": now}
    states = [(n, "running") for n in taken] + [(n, "queued") for n in waits]
    db.execute(
        insert(job_rows), [{**job, "id": f"j{n:015x}", "lease": f"l{n:015x}", "state": state} for n, state in states]
    )
    tries = [{"job": f"j{n:015x}", "number": 1, "lease": f"l{n:015x}", "began_at": now} for n, _ in states]
    db.execute(insert(attempts), tries)
    db.execute(insert(checks), [{"device": "board-0001", "at": now, "passed": True, "reason": "", "readings": {}}])


def main(argv: list[str]) -> None:
    """Serve the example until it is ended."""
    import uvicorn

    from edgebuild.farm.blobs import Blobs
    from edgebuild.farm.server.app import create_app
    from edgebuild.farm.server.farm import Farm

    folder = Path(argv[0] if argv else tempfile.mkdtemp(prefix="edgebuild-example-farm-"))
    database = Database(sqlite_url(folder / "farm.db"))
    database.upgrade()
    farm = Farm(database, Blobs(folder / "blobs"))
    farm.do(fill)
    if len(argv) > 1:
        farm.do(partial(crowd, count=int(argv[1])))
    for scope, token in farm.do(give_tokens).items():
        sys.stdout.write(f"{scope}: {token}\n")
    sys.stdout.flush()
    # Without its lifespan nothing is put right: nobody keeps these leases, and the picture is to stay.
    uvicorn.run(create_app(farm), host="127.0.0.1", port=8765, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(sys.argv[1:])
