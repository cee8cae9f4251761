"""The farm's tables, in SQL that SQLite and PostgreSQL both know. ``migrations`` makes them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
#: Rows are numbered in the order in which they came; SQLite numbers by itself only what it calls INTEGER.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

hosts = Table(
    "hosts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("token", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("seen_at", Float, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("host", String(64), ForeignKey("hosts.name"), nullable=False),
    Column("target", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("facts", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("health", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("failures", Integer, nullable=False, default=0),
    Column("draining", Boolean, nullable=False, default=False),
    # Whether its host offers it, and whether it can be reached: the host isn't silent either.
    Column("offered", Boolean, nullable=False, default=True),
    Column("there", Boolean, nullable=False, default=True),
    Column("token", _NUMBER, nullable=False, default=0),
    Column("lease", String(32), nullable=False, default=""),
    Column("checked_at", Float),
    Column("check_due_at", Float),
    Column("added_at", Float, nullable=False),
)
Index("devices_free", devices.c.target, devices.c.lease, devices.c.name)
# What a host has to do is read whenever it asks: from those of its devices that somebody has, and those that were away.
Index("devices_host", devices.c.host, devices.c.lease)
Index("devices_away", devices.c.there, devices.c.host)
Index("devices_due", devices.c.there, devices.c.check_due_at)

leases = Table(
    "leases",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    # Its place in the queue; that of its job's first lease, where one was lost or gave way.
    Column("turn", _NUMBER, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("job", String(32), nullable=False, default=""),
    Column("ask", JSON, nullable=False),
    # What of the ask decides whose turn it is, in columns that an index can hold.
    Column("target", String(64), nullable=False),
    Column("wanted", String(64), nullable=False),
    Column("affinity", String(200), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("preemptible", Boolean, nullable=False),
    Column("checks", Boolean, nullable=False, default=False),
    Column("begin_at", Float, nullable=False),
    # Whether the time to begin was seen to have come; nobody waits in a queue before.
    Column("due", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("end", String(16)),
    Column("device", String(64), nullable=False, default=""),
    Column("token", _NUMBER, nullable=False, default=0),
    Column("asked_at", Float, nullable=False),
    Column("granted_at", Float),
    Column("beat_at", Float),
    Column("expires_at", Float),
    Column("ended_at", Float),
    Column("make_room_at", Float),
)
# What ended stays in the table and out of the way: every index begins with the state.
Index("leases_turn", *(leases.c[name] for name in ("state", "due", "target", "wanted", "rank", "turn")))
Index("leases_wanted", leases.c.state, leases.c.due, leases.c.wanted, leases.c.rank, leases.c.turn)
Index("leases_preemptible", leases.c.state, leases.c.preemptible)
Index("leases_begin", leases.c.state, leases.c.due, leases.c.begin_at)
Index("leases_silent", leases.c.state, leases.c.job, leases.c.beat_at)

affinities = Table(
    "affinities",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("affinity", String(200), primary_key=True),
    Column("target", String(64), primary_key=True),
    Column("device", String(64), nullable=False),
    Column("used_at", Float, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("end", String(16)),
    Column("reason", Text, nullable=False, default=""),
    Column("result", JSON),
    Column("lease", String(32), nullable=False, default=""),
    Column("stop", Boolean, nullable=False, default=False),
    # When whoever waits for it last said so; empty where nobody has to.
    Column("attended_at", Float),
    Column("submitted_at", Float, nullable=False),
    Column("ended_at", Float),
)
Index("jobs_state", jobs.c.state, jobs.c.number)
Index("jobs_attended", jobs.c.state, jobs.c.attended_at)
Index("jobs_ended", jobs.c.state, jobs.c.ended_at)

attempts = Table(
    "attempts",
    metadata,
    Column("job", String(32), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("lease", String(32), nullable=False, unique=True),
    Column("began_at", Float),
    Column("ended_at", Float),
    Column("how", String(16), nullable=False, default=""),
)

logs = Table(
    "logs",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("job", String(32), nullable=False),
    Column("at", Float, nullable=False),
    Column("text", Text, nullable=False),
)
Index("logs_job", logs.c.job, logs.c.number)

checks = Table(
    "checks",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("device", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("readings", JSON, nullable=False),
    Column("anchor_ms", Float),
)
Index("checks_device", checks.c.device, checks.c.number)

records = Table(
    "records",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    # Several records of one session share it; only those can be held against each other.
    Column("session", String(64), nullable=False),
    Column("job", String(32), nullable=False, default=""),
    Column("origin", String(16), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("artifact", String(64), nullable=False),
    Column("device", String(64), nullable=False),
    Column("target", String(64), nullable=False),
    Column("protocol", String(32), nullable=False),
    Column("measured_at", Float, nullable=False),
    Column("point_ms", Float, nullable=False),
    # Of one launch there is no interval.
    Column("low_ms", Float),
    Column("high_ms", Float),
    Column("anchor_ms", Float),
    Column("environment", JSON, nullable=False),
    Column("summary", JSON, nullable=False),
    # The archive with the raw samples, among the blobs.
    Column("evidence", String(64), nullable=False),
)
Index("records_model", records.c.model, records.c.device, records.c.number)
Index("records_session", records.c.session)
Index("records_job", records.c.job)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("made_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("revoked_at", Float),
    UniqueConstraint("name", name="tokens_name"),
)

audit = Table(
    "audit",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("what", String(200), nullable=False),
    Column("detail", JSON, nullable=False),
)
