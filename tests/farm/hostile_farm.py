"""A farm in which everybody who can say something says it with ill will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert

from edgebuild.farm import jobs, leases, shelf
from edgebuild.farm.memory import Measured
from edgebuild.farm.schema import audit, records
from edgebuild.farm.values import Ask, JobEnd, JobSpec, Offered
from tests.farm.shelves import PI
from tests.reporting.sample_record import latency

if TYPE_CHECKING:
    from sqlalchemy import Connection

HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202egnp.exe\"'`{{7919*7919}}"
#: What no page may hold: what steers a terminal, or the text around it.
STEERING = frozenset("\x1b\u202e")


def fill(db: Connection, now: float) -> str:
    """Let everybody who can say something say it with ill will."""
    facts = {HOSTILE: HOSTILE}
    shelf.register(db, "desk", "t", HOSTILE, [Offered(name="pi-1", target=PI, facts=facts, labels=facts)], now)
    readings = {HOSTILE: HOSTILE, "temperature_c": float("1e308"), "list": [HOSTILE]}
    shelf.checked(db, "pi-1", True, HOSTILE, readings, now, anchor_ms=1e300)
    ask = Ask(target=PI, purpose=HOSTILE, affinity=HOSTILE.translate({27: None}), labels=facts, begin_at=1e300)
    waits = JobSpec(kind="bench", name=HOSTILE, ask=ask, arguments={HOSTILE: HOSTILE})
    jobs.submit(db, waits, HOSTILE, now)
    leases.ask(db, Ask(target=PI, purpose=HOSTILE, begin_at=1e300), HOSTILE, now)
    job = jobs.submit(
        db, JobSpec(kind="bench", name=HOSTILE, ask=Ask(target=PI), arguments={"x": HOSTILE}), HOSTILE, now
    )
    token = jobs.start(db, job.id, now).attempts[-1].token
    jobs.log(db, job.id, token, [HOSTILE, "\ud800 half a character"[1:]], now)
    jobs.finish(db, job.id, token, JobEnd.FAILED, now, reason=HOSTILE, result={HOSTILE: HOSTILE})
    db.execute(insert(audit).values(at=1e300, who=HOSTILE, action=HOSTILE, what=HOSTILE, detail={HOSTILE: HOSTILE}))
    summary = Measured(latency=latency(1.0, certified=True), backend=HOSTILE, settings={HOSTILE: HOSTILE})
    measured: dict[str, Any] = {"job": "", "origin": "user", "owner": HOSTILE, "artifact": HOSTILE, "target": PI}
    measured |= {"session": HOSTILE, "protocol": "certify", "environment": {HOSTILE: HOSTILE}}
    measured |= {"evidence": "0" * 64, "point_ms": 1e-300, "anchor_ms": 0.0}
    measured |= {
        "summary": summary.model_dump(mode="json"),
        "measured_at": -1e300,
        "point_ms": 1e-300,
        "anchor_ms": 0.0,
    }
    measured |= {"model": "</title>\u202e<b>", "device": "pi-1", "low_ms": -1e300, "high_ms": 1e300}
    db.execute(insert(records), [{**measured, "id": f"m{number:015x}"} for number in (1, 2)])
    return job.id


def pages(job: str) -> tuple[str, ...]:
    """Return where all that is shown."""
    model = "/history/%3C%2Ftitle%3E%E2%80%AE%3Cb%3E"
    jobs_pages = ("/jobs", f"/jobs/{job}")
    return (
        "/",
        "/queue",
        *jobs_pages,
        "/devices/pi-1",
        "/audit",
        "/history",
        model,
        f"/compare?a=m{1:015x}&b=m{2:015x}",
    )
