"""What the farm promises, in plain Python: devices, leases and jobs, without a word of how tables do it.

The model decides everything but who gets which device; of that it only knows what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgebuild.farm.shelf import CHECK_LIMIT_S
from edgebuild.farm.values import (
    BEAT_S,
    MOST_ATTEMPTS,
    MOST_FAILURES,
    PREEMPT_GRACE_S,
    SILENCE_S,
    Ask,
    Health,
    JobEnd,
    JobState,
    LeaseEnd,
    LeaseState,
)


@dataclass
class Board:
    """A device."""

    host: str
    target: str
    labels: dict[str, str]
    health: Health = Health.UNKNOWN
    draining: bool = False
    offered: bool = True
    there: bool = True
    failures: int = 0
    token: int = 0
    lease: str = ""

    def can_have(self, ask: Ask, name: str) -> bool:
        """Whether it is what an ask names, whatever its health."""
        right = ask.target in {"", self.target} and ask.device in {"", name}
        return right and ask.labels.items() <= self.labels.items()

    @property
    def usable(self) -> bool:
        """Whether it takes part at all."""
        return self.there and not self.draining and self.health not in {Health.MAINTENANCE, Health.RETIRED}


@dataclass
class Held:
    """A lease, from its ask to its end."""

    ask: Ask
    owner: str
    turn: int
    job: str
    beat: float
    checks: bool = False
    due: bool = True
    state: LeaseState = LeaseState.WAITING
    end: LeaseEnd | None = None
    device: str = ""
    token: int = 0
    expires: float = 0.0
    room_at: float | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the queue."""
        return (-1 if self.checks else 9 - self.ask.priority, self.turn)


@dataclass
class Task:
    """A job."""

    ask: Ask
    owner: str
    lease: str
    check: bool = False
    state: JobState = JobState.QUEUED
    end: JobEnd | None = None
    stop: bool = False
    lost: int = 0
    result: object = None


@dataclass
class Model:
    """The farm as it should be."""

    now: float = 1000.0
    hosts: dict[str, float] = field(default_factory=dict)
    boards: dict[str, Board] = field(default_factory=dict)
    leases: dict[str, Held] = field(default_factory=dict)
    jobs: dict[str, Task] = field(default_factory=dict)
    affinities: dict[tuple[str, str, str], str] = field(default_factory=dict)
    turns: int = 0
    #: Jobs that ask for another lease now, with their old turns.
    again: dict[str, int] = field(default_factory=dict)
    #: When a check of a device last ended without a word of what it found.
    unsaid: dict[str, float] = field(default_factory=dict)

    def possible(self, ask: Ask) -> bool:
        """Whether a device could be somebody's, however long it takes."""
        return any(b.health is not Health.RETIRED and b.can_have(ask, name) for name, b in self.boards.items())

    def may_have(self, lease: Held, name: str) -> bool:
        """Whether a device is one that a lease waits for."""
        bound = self.affinities.get((lease.owner, lease.ask.affinity, self.boards[name].target))
        if lease.ask.affinity and not lease.ask.device and bound not in {None, name}:
            other = self.boards[bound] if bound is not None else None
            if other is not None and other.can_have(lease.ask, bound or "") and other.health is not Health.RETIRED:
                return False
        return self.boards[name].can_have(lease.ask, name)

    def lendable(self, lease: Held, name: str) -> bool:
        """Whether a device could be lent to a lease if it were free."""
        board = self.boards[name]
        healthy = board.usable and (lease.checks or board.health is Health.GOOD)
        return healthy and lease.due and self.may_have(lease, name)

    def waiting(self) -> list[Held]:
        """Return who waits, in the order of their turns."""
        waits = [lease for lease in self.leases.values() if lease.state is LeaseState.WAITING]
        return sorted(waits, key=lambda lease: lease.place)

    def grant(self, number: str, device: str, token: int) -> None:
        """Take note of a grant, and require that it was right."""
        lease, board = self.leases[number], self.boards[device]
        assert board.lease == "", "it was lent already"
        assert self.lendable(lease, device), "it could not be lent to this lease"
        assert token == board.token + 1, "a turn of its own"
        lease.state, lease.device, lease.token = LeaseState.HELD, device, token
        lease.beat, lease.expires = self.now, self.now + lease.ask.duration_s
        board.lease, board.token = number, token
        if lease.ask.affinity:
            self.affinities.setdefault((lease.owner, lease.ask.affinity, board.target), device)

    def over(self, number: str, how: LeaseEnd, *, said: JobEnd | None = None) -> None:
        """End a lease, and do what that means for its job; ``said`` is the word of the job's host."""
        lease = self.leases[number]
        assert lease.state is not LeaseState.ENDED, "a lease ends once"
        if lease.state is LeaseState.HELD:
            self.boards[lease.device].lease = ""
        lease.state, lease.end, lease.room_at = LeaseState.ENDED, how, None
        if not lease.job:
            return
        task = self.jobs[lease.job]
        if task.check and (said is None or said is JobEnd.CANCELLED) and task.ask.device in self.boards:
            self.unsaid[task.ask.device] = self.now
        if said is not None and said is not JobEnd.DEVICE_LOST:
            self._finish(task, said)
        elif said is None and (task.stop or how is LeaseEnd.CANCELLED):
            self._finish(task, JobEnd.CANCELLED)
        elif how is LeaseEnd.EXPIRED and task.state is JobState.RUNNING:
            self._finish(task, JobEnd.TIMED_OUT)
        elif how is LeaseEnd.PREEMPTED:
            self._again(lease.job, task)
        else:
            task.lost += 1
            if task.stop:
                self._finish(task, JobEnd.CANCELLED)
            elif task.check or task.lost >= MOST_ATTEMPTS:
                self._finish(task, JobEnd.DEVICE_LOST)
            else:
                self._again(lease.job, task)

    def checked(self, name: str, passed: bool) -> None:
        """Take note of what a check found, or of a job that lost its device."""
        board = self.boards[name]
        if board.health in {Health.MAINTENANCE, Health.RETIRED}:
            return
        board.failures = 0 if passed else board.failures + 1
        bad = board.failures >= MOST_FAILURES
        board.health = Health.GOOD if passed else Health.BAD if bad else Health.UNKNOWN

    def come_back(self, name: str) -> None:
        """Let a device be there again."""
        board = self.boards[name]
        board.there = True
        if board.health is Health.GOOD:
            board.health = Health.UNKNOWN

    def heard(self, last: float) -> float:
        """Return when somebody who speaks now was last heard: what is nearly as new is as good, and saves a write."""
        return self.now if last < self.now - BEAT_S / 2 else last

    def overdue(self, lease: Held) -> LeaseEnd | None:
        """Return how a lease is to end by now, if it is."""
        silent = lease.beat < self.now - SILENCE_S
        if lease.state is LeaseState.WAITING:
            return LeaseEnd.SILENT if silent and not lease.job else None
        if lease.state is LeaseState.ENDED:
            return None
        if lease.expires < self.now:
            return LeaseEnd.EXPIRED
        if lease.room_at is not None and lease.room_at < self.now - PREEMPT_GRACE_S:
            return LeaseEnd.PREEMPTED
        return LeaseEnd.SILENT if silent else None

    def check_missing(self, name: str) -> bool:
        """Whether a device that nobody knows to be good or bad waits for no check, without a reason."""
        board = self.boards[name]
        pending = any(
            task.check and task.ask.device == name and task.state is not JobState.ENDED for task in self.jobs.values()
        )
        lately = self.now - self.unsaid.get(name, -1e9) <= CHECK_LIMIT_S
        return board.health is Health.UNKNOWN and board.there and not board.draining and not pending and not lately

    def _again(self, number: str, task: Task) -> None:
        if not self.possible(task.ask):
            self._finish(task, JobEnd.DEVICE_LOST)
            return
        task.state = JobState.QUEUED
        self.again[number] = self.leases[task.lease].turn

    def _finish(self, task: Task, how: JobEnd) -> None:
        assert task.state is not JobState.ENDED, "a job ends once"
        task.state, task.end = JobState.ENDED, how
