"""What the farm speaks of: devices, leases of them, and jobs that need one. Times are seconds of the server's clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from edgebuild.core.values import Value
from edgebuild.farm.exact import cleaned, require_plain, require_types
from edgebuild.fleet.inventory import NAME

#: A name of a device, a host or a target.
NAMED = rf"^{NAME}$"
TARGET = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
#: The longest a lease may be asked for.
LONGEST_LEASE_S = 7 * 86_400.0
#: Who holds or waits for a lease says so this often, and loses it after this much silence.
BEAT_S = 10.0
SILENCE_S = 45.0
#: A job that somebody attends to is cancelled after this much silence of theirs: a cancelled pipeline frees its board.
UNATTENDED_S = 30.0
#: The label that every device has by itself: its kind.
KIND_LABEL = "kind"
#: The label of a device whose clocks are pinned while it is measured.
PINS_CLOCKS = "pin_clocks"
#: How long a lease that is to make room may go on, to end what it measures.
PREEMPT_GRACE_S = 120.0
#: How often a job whose device was lost is tried again.
MOST_ATTEMPTS = 3
#: So many failures in a row, of checks or of jobs that lost it, and a device is bad.
MOST_FAILURES = 2


class Message(Value):
    """A value that goes over HTTP; built at once, since FastAPI takes no schema that is built when it is needed."""

    model_config = ConfigDict(defer_build=False)


class Given(Message):
    """A message that somebody sends to the farm: taken at its word, and refused where nobody could keep it."""

    @model_validator(mode="before")
    @classmethod
    def _at_its_word(cls, data: Any) -> Any:
        if isinstance(data, dict):
            require_types(cls.model_fields, data)
            require_plain(data)
        return data


class Problem(Message):
    """What went wrong, and what to do."""

    message: str
    hint: str = ""


class Health(StrEnum):
    """What is known of a device; only a good one is lent."""

    GOOD = "good"
    UNKNOWN = "unknown"
    BAD = "bad"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


class LeaseState(StrEnum):
    """Where a lease stands."""

    WAITING = "waiting"
    HELD = "held"
    ENDED = "ended"


class LeaseEnd(StrEnum):
    """How a lease ended."""

    RELEASED = "released"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its time was over
    SILENT = "silent"  # nobody heard of its holder any more
    PREEMPTED = "preempted"
    LOST = "lost"  # the device, or the host that reaches it


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


class JobEnd(StrEnum):
    """How a job ended; a preempted one is queued again and isn't over."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    DEVICE_LOST = "device lost"
    CANCELLED = "cancelled"
    INCONCLUSIVE = "inconclusive"  # the device was too busy with something else for anything to count


class Ask(Given):
    """Which device is wanted, for how long, and how urgently.

    ``target`` or ``device`` is given. ``labels`` are those that the device has to have. Somebody's leases of one
    ``affinity`` get one physical device of a target, as long as it isn't retired and has what labels they ask for. A
    higher ``priority`` goes first; within one it is first come, first served. A ``preemptible`` lease gives way to a
    higher priority. Nothing is lent before ``begin_at``.
    """

    target: str = Field(default="", pattern=r"^$|" + TARGET)
    device: str = Field(default="", pattern=r"^$|" + NAMED)
    labels: dict[str, str] = Field(default_factory=dict, max_length=16)
    affinity: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f]*$")
    priority: int = Field(default=5, ge=0, le=9)
    preemptible: bool = False
    begin_at: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    duration_s: float = Field(default=3600.0, gt=0.0, le=LONGEST_LEASE_S)
    purpose: str = Field(default="", max_length=200)


class Lease(Message):
    """A device lent, or waited for. ``token`` numbers the turns of the device: only the newest one's word counts."""

    id: str
    ask: Ask
    owner: str
    state: LeaseState
    end: LeaseEnd | None = None
    device: str = ""
    token: int = 0
    job: str = ""
    asked_at: float
    granted_at: float | None = None
    beat_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    make_room: bool = False
    why: str = ""


class JobSpec(Given):
    """What is to be done with a device: ``kind`` names what hosts know how to do, the rest are its own.

    Whoever submits an ``attended`` job says every few seconds that they still wait for it, or it is cancelled.
    """

    kind: str = Field(pattern=r"^[a-z][a-z_]{0,31}$")
    ask: Ask
    arguments: dict[str, Any] = Field(default_factory=dict)
    name: str = Field(default="", max_length=200)
    attended: bool = False


class Attempt(Message):
    """One try of a job on a device, and how it ended."""

    number: int
    lease: str
    device: str = ""
    token: int = 0
    began_at: float | None = None
    ended_at: float | None = None
    how: str = ""


class Job(Message):
    """A job and what became of it. ``result`` is what it answered, ``reason`` says why it ended so."""

    id: str
    spec: JobSpec
    owner: str
    state: JobState
    end: JobEnd | None = None
    reason: str = ""
    result: dict[str, Any] | None = None
    attempts: tuple[Attempt, ...] = ()
    submitted_at: float
    ended_at: float | None = None
    stop: bool = False


class Turn(Given):
    """A job, or a lease that somebody uses from afar, with the token of its turn."""

    id: str
    token: int
    device: str = ""


class Stop(Turn):
    """A turn that is to end: cancelled, over (its word no longer counts), or to make room."""

    why: str


class Work(Message):
    """What a host is to do now. ``relays`` are the leases that are used from afar, all of them."""

    start: tuple[Job, ...] = ()
    stop: tuple[Stop, ...] = ()
    relays: tuple[Turn, ...] = ()


class Finished(Given):
    """How a job's attempt ended. ``readings`` are what a check found, also the one before another job."""

    token: int
    how: JobEnd
    reason: str = ""
    result: dict[str, Any] | None = None
    readings: dict[str, Any] | None = None
    anchor_ms: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, data: Any) -> Any:
        """Let a reason say anything: what is no character of it is shown as that."""
        reason = data.get("reason") if isinstance(data, dict) else None
        return {**data, "reason": cleaned(reason)} if isinstance(reason, str) else data


class Offered(Given):
    """A device as its host offers it."""

    name: str = Field(pattern=NAMED)
    target: str = Field(pattern=TARGET)
    kind: str = Field(default="ssh", max_length=64)
    facts: dict[str, str] = Field(default_factory=dict, max_length=400)
    labels: dict[str, str] = Field(default_factory=dict, max_length=16)


class Shelved(Message):
    """A device in the farm. ``draining`` ends what runs and takes no more."""

    name: str
    host: str
    target: str
    kind: str
    facts: dict[str, str]
    labels: dict[str, str]
    health: Health
    reason: str = ""
    failures: int = 0
    draining: bool = False
    there: bool = False
    token: int = 0
    lease: str = ""
    checked_at: float | None = None
    added_at: float


class LogLine(Message):
    """What a job said."""

    number: int
    at: float
    text: str


class Standing(Message):
    """The farm as a whole. ``trouble`` says why its tables can't be put right at the moment; empty while they can."""

    devices: dict[Health, int]
    held: int
    waiting: int
    queued: int
    running: int
    trouble: str = ""


class AuditLine(Message):
    """Who did what, and when."""

    number: int
    at: float
    who: str
    action: str
    what: str
    detail: dict[str, Any]
