"""The farm's tables beside a plain model of what they promise, through whatever may happen in whatever order."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from edgebuild.errors import UsageError
from edgebuild.farm import desk, jobs, shelf
from edgebuild.farm.schema import attempts, devices
from edgebuild.farm.schema import jobs as job_rows
from edgebuild.farm.schema import leases as lease_rows
from edgebuild.farm.tokens import Identity, Scope
from edgebuild.farm.values import (
    KIND_LABEL,
    SILENCE_S,
    Ask,
    Finished,
    Health,
    JobEnd,
    JobSpec,
    JobState,
    LeaseEnd,
    LeaseState,
    Offered,
    Turn,
)
from tests.farm.model import Board, Held, Model, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.farm.database import Database

NAMES = ("a-1", "a-2", "a-3", "b-1")
HOSTS = ("east", "west")
ADA = Identity(id="t-ada", name="ada", scope=Scope.ADMIN)
HOST = {name: Identity(id=f"t-{name}", name=name, scope=Scope.HOST) for name in HOSTS}
LABELS = st.sampled_from([{}, {}, {"rack": "x"}])
ASKS = st.builds(
    Ask,
    target=st.sampled_from(["a", "a", "a", "b"]),
    labels=LABELS,
    affinity=st.sampled_from(["", "", "one", "two"]),
    priority=st.sampled_from([3, 5, 8]),
    preemptible=st.booleans(),
    begin_at=st.sampled_from([0.0, 0.0, 0.0, 1100.0, 1500.0]),
    duration_s=st.sampled_from([30.0, 600.0]),
) | st.builds(Ask, device=st.sampled_from(NAMES), priority=st.sampled_from([3, 8]), labels=LABELS)


class Undo(Exception):
    """Everything of one example goes."""


class Beside(RuleBasedStateMachine):
    """Does the same to the tables and to the model, and compares; all of an example is one transaction, undone."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.db = self.stack.enter_context(self.database.write())
        self.model = Model()
        for host in HOSTS:
            self._hello(host, {name: {} for name in NAMES[:2]} if host == "east" else {"a-3": {"rack": "x"}, "b-1": {}})
        for name in NAMES:
            shelf.checked(self.db, name, True, "", {}, self.model.now)
            self.model.checked(name, True)

    def teardown(self) -> None:
        with contextlib.suppress(Undo):
            self.stack.__exit__(Undo, Undo(), None)

    # What people do.

    @rule(ask=ASKS)
    def ask(self, ask: Ask) -> None:
        model = self.model
        if not model.possible(ask):
            with pytest.raises(UsageError), self.db.begin_nested():
                desk.ask(self.db, ADA, ask, model.now)
            return
        made = desk.ask(self.db, ADA, ask, model.now)
        self._asked(made.id, ask, "ada")

    @rule(ask=ASKS)
    def submit(self, ask: Ask) -> None:
        model = self.model
        spec = JobSpec(kind="bench", ask=ask, arguments={"quick": True})
        if not model.possible(ask):
            with pytest.raises(UsageError), self.db.begin_nested():
                desk.submit(self.db, ADA, spec, model.now)
            return
        made = desk.submit(self.db, ADA, spec, model.now)
        lease = made.attempts[-1].lease
        model.jobs[made.id] = Task(ask=ask, owner="ada", lease=lease)
        self._asked(lease, ask, "ada", job=made.id)

    @precondition(lambda self: self._going(job=False))
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self._going(job=False)))
        desk.beat(self.db, ADA, number, self.model.now)
        self.model.leases[number].beat = self.model.now

    @precondition(lambda self: any(not lease.job for lease in self.model.leases.values()))
    @rule(data=st.data(), token=st.sampled_from([None, 0, -1]))
    def release(self, data: st.DataObject, token: int | None) -> None:
        own = [number for number, lease in self.model.leases.items() if not lease.job]
        number = data.draw(st.sampled_from(own))
        lease = self.model.leases[number]
        said = None if token is None else lease.token + token
        how = LeaseEnd.RELEASED if lease.state is LeaseState.HELD else LeaseEnd.CANCELLED
        desk.release(self.db, ADA, number, self.model.now, token=said)
        if lease.state is not LeaseState.ENDED and said in {None, lease.token}:
            self.model.over(number, how)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.model.jobs)))
        task = self.model.jobs[number]
        desk.cancel(self.db, ADA, number, self.model.now)
        if task.state is JobState.QUEUED:
            self.model.over(task.lease, LeaseEnd.CANCELLED)
        elif task.state is JobState.RUNNING:
            task.stop = True

    @rule(name=st.sampled_from(NAMES), health=st.sampled_from(list(Health)))
    def set_health(self, name: str, health: Health) -> None:
        model = self.model
        if name not in model.boards:
            return
        desk.set_health(self.db, ADA, name, health, "", model.now)
        board = model.boards[name]
        for number, lease in list(model.leases.items()):
            if lease.checks and lease.state is LeaseState.WAITING and lease.ask.device == name:
                model.over(number, LeaseEnd.CANCELLED)
        model.unsaid.pop(name, None)
        board.health, board.failures, board.draining = health, 0, False
        if health is Health.RETIRED:
            model.affinities = {key: device for key, device in model.affinities.items() if device != name}
            for number, lease in list(model.leases.items()):
                about = lease.ask.device == name or (not lease.ask.device and lease.ask.target == board.target)
                if about and lease.state is LeaseState.WAITING and not model.possible(lease.ask):
                    model.over(number, LeaseEnd.LOST)

    @rule(name=st.sampled_from(NAMES), draining=st.booleans())
    def drain(self, name: str, draining: bool) -> None:
        if name in self.model.boards:
            desk.drain(self.db, ADA, name, draining, self.model.now)
            self.model.boards[name].draining = draining

    # What hosts do.

    @rule(host=st.sampled_from(HOSTS), offered=st.dictionaries(st.sampled_from(NAMES), LABELS))
    def hello(self, host: str, offered: dict[str, dict[str, str]]) -> None:
        self._hello(host, offered)

    @rule(host=st.sampled_from(HOSTS), data=st.data(), forget=st.booleans())
    def poll(self, host: str, data: st.DataObject, forget: bool) -> None:
        """Say what runs, some of it forgotten, and something of an old turn."""
        model = self.model
        runs = [n for n, t in model.jobs.items() if t.state is JobState.RUNNING and self._host_of(n) == host]
        said = set(data.draw(st.lists(st.sampled_from(runs), unique=True))) if runs and forget else set(runs)
        turns = [Turn(id=number, token=self._token(number)) for number in sorted(said)]
        stale = [Turn(id=number, token=self._token(number) - 1) for number in runs[:1]]
        rooms = {number for number in said if model.leases[model.jobs[number].lease].room_at is not None}
        stopped = {number for number in said if model.jobs[number].stop}
        for name, board in model.boards.items():
            if board.host == host and board.offered and not board.there:
                model.come_back(name)
        model.hosts[host] = model.heard(model.hosts[host])
        work = desk.work(self.db, HOST[host], host, [*turns, *stale], model.now)
        for number in said:
            lease = model.leases[model.jobs[number].lease]
            lease.beat = model.heard(lease.beat)
        for number in set(runs) - said:
            model.over(model.jobs[number].lease, LeaseEnd.LOST)
        told = {(stop.id, stop.why) for stop in work.stop}
        expected = {(turn.id, "over") for turn in stale} | {(number, "cancelled") for number in stopped}
        assert told == expected | {(number, "make room") for number in rooms - stopped}
        relayed = {n for n, le in model.leases.items() if not le.job and self._lease_host(le) == host}
        assert {relay.id for relay in work.relays} == relayed
        self._settle(begun=[job.attempts[-1].lease for job in work.start])
        for job in work.start:
            task = model.jobs[job.id]
            lease = model.leases[task.lease]
            assert (task.state, lease.state, job.attempts[-1].token) == (JobState.QUEUED, LeaseState.HELD, lease.token)
            task.state, lease.expires = JobState.RUNNING, model.now + task.ask.duration_s
        left = [n for n, t in model.jobs.items() if t.state is JobState.QUEUED and self._host_of(n) == host]
        assert left == [], "all that could begin has begun"

    @precondition(lambda self: self._with_device())
    @rule(data=st.data(), how=st.sampled_from(list(JobEnd)), old=st.booleans())
    def finish(self, data: st.DataObject, how: JobEnd, old: bool) -> None:
        number = data.draw(st.sampled_from(self._with_device()))
        task, lease = self.model.jobs[number], self.model.leases[self.model.jobs[number].lease]
        word = Finished(token=lease.token - old, how=how, result={"of": lease.token})
        who = HOST[self.model.boards[lease.device].host]
        assert desk.finish(self.db, who, number, word, self.model.now) is not old
        if old:
            return
        if how is JobEnd.DEVICE_LOST or (task.check and how is not JobEnd.CANCELLED):
            self.model.checked(lease.device, how is JobEnd.SUCCEEDED)
        end = LeaseEnd.LOST if how is JobEnd.DEVICE_LOST else LeaseEnd.RELEASED
        self.model.over(task.lease, end, said=how)
        task.result = None if how is JobEnd.DEVICE_LOST else {"of": lease.token}
        assert not desk.finish(self.db, who, number, word, self.model.now), "a second word counts for nothing"

    @precondition(lambda self: self._with_device())
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self._with_device()))
        who = HOST[self._host_of(number)]
        assert desk.give_back(self.db, who, number, self._token(number), self.model.now)
        self.model.over(self.model.jobs[number].lease, LeaseEnd.PREEMPTED)

    # What time does.

    @rule(seconds=st.sampled_from([1.0, 20.0, 46.0, 130.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.model.now += seconds

    @rule()
    def reconcile(self) -> None:
        model = self.model
        ends: dict[str, LeaseEnd] = {}
        for board in model.boards.values():
            board.there = board.there and model.hosts[board.host] >= model.now - SILENCE_S
            if board.lease and not board.there:
                ends[board.lease] = LeaseEnd.LOST
        for number, lease in model.leases.items():
            if number not in ends and (how := model.overdue(lease)) is not None:
                ends[number] = how
            lease.due = lease.due or lease.ask.begin_at <= model.now
        desk.reconcile(self.db, model.now)
        for number, how in ends.items():
            lease = model.leases[number]
            model.over(number, how)
            if how is LeaseEnd.EXPIRED and lease.checks:
                model.unsaid.pop(lease.device)
                model.checked(lease.device, False)
        self._new_checks()
        self._settle()
        for name in model.boards:
            assert not model.check_missing(name), f"nobody looks at {name}"
        self._rooms_are_right()

    @rule()
    def restart(self) -> None:
        model = self.model
        for lease in model.leases.values():
            lease.due = lease.due or (lease.state is LeaseState.WAITING and lease.ask.begin_at <= model.now)
        desk.spare(self.db, model.now)
        model.hosts = dict.fromkeys(model.hosts, model.now)
        for lease in model.leases.values():
            if lease.state is not LeaseState.ENDED and lease.state is LeaseState.HELD:
                lease.expires = max(lease.expires, model.now + SILENCE_S)
            lease.beat = model.now
            lease.room_at = None if lease.room_at is None else model.now

    # What holds whatever happened.

    @invariant()
    def everything_holds(self) -> None:
        self._settle()
        self._the_tables_are_the_model()
        self._no_device_is_idle_while_somebody_waits_for_it()
        self._every_attempt_has_its_lease_and_its_end()

    def _the_tables_are_the_model(self) -> None:
        for row in self.db.execute(select(devices)):
            board = self.model.boards[row.name]
            said = Board(row.host, row.target, row.labels, Health(row.health), row.draining, row.offered, row.there)
            said.failures, said.token, said.lease = row.failures, row.token, row.lease
            assert said == board
        for row in self.db.execute(select(job_rows)):
            task = self.model.jobs[row.id]
            assert (row.state, row.end, row.stop, row.lease) == (task.state, task.end, task.stop, task.lease)
            assert row.result == task.result
            going = [n for n, le in self.model.leases.items() if le.job == row.id and le.state is not LeaseState.ENDED]
            assert going == ([] if task.state is JobState.ENDED else [task.lease])
            assert (row.state == JobState.ENDED) == (row.ended_at is not None)

    def _no_device_is_idle_while_somebody_waits_for_it(self) -> None:
        for lease in self.model.waiting():
            for name, board in self.model.boards.items():
                assert board.lease or not self.model.lendable(lease, name), f"{name} could be lent"

    def _every_attempt_has_its_lease_and_its_end(self) -> None:
        for row in self.db.execute(select(attempts)):
            lease = self.model.leases[row.lease]
            assert (row.ended_at is None) == (lease.state is not LeaseState.ENDED)

    def _settle(self, begun: Sequence[str] = ()) -> None:
        """Take in what the tables decided themselves: who got which device, and the leases that take others' turns."""
        model = self.model
        rows = list(self.db.execute(select(lease_rows).order_by(lease_rows.c.granted_at, lease_rows.c.number)))
        for row in rows:
            if row.id not in model.leases:
                assert row.job in model.again, "nobody asked for this lease"
                task = model.jobs[row.job]
                self._add(row.id, task.ask, task.owner, model.again.pop(row.job), job=row.job, checks=row.checks)
                task.lease = row.id
        assert model.again == {}, "a job that is to be tried again asked for nothing"
        granted = [row for row in rows if model.leases[row.id].state is LeaseState.WAITING and row.state == "held"]
        for row in sorted(granted, key=lambda row: model.leases[row.id].place):
            ahead = [w for w in model.waiting() if w.place < model.leases[row.id].place]
            assert not any(model.lendable(other, row.device) for other in ahead), "it wasn't its turn"
            model.grant(row.id, row.device, row.token)
        for number in begun:
            model.leases[number].beat = model.now
        for row in rows:
            lease = model.leases[row.id]
            assert (row.state, row.end, row.device, row.token) == (lease.state, lease.end, lease.device, lease.token)
            assert row.state == LeaseState.ENDED or row.beat_at == lease.beat
            if row.make_room_at is not None and lease.room_at is None:
                assert (row.state, row.preemptible, row.make_room_at) == (LeaseState.HELD, True, model.now)
            lease.room_at = row.make_room_at

    def _rooms_are_right(self) -> None:
        """As many make room as are in a hurry for what they have, and the first of those has somebody."""
        model = self.model
        asked = [le for le in model.leases.values() if le.room_at is not None]
        held = [le for le in model.leases.values() if le.state is LeaseState.HELD and le.ask.preemptible]
        urgent = [le for le in model.waiting() if not le.checks]

        def serves(giver: Held, one: Held) -> bool:
            return giver.place[0] > one.place[0] and model.lendable(one, giver.device)

        matched: dict[int, int] = {}

        def match(giver: int, seen: set[int]) -> bool:
            for index, one in enumerate(urgent):
                if serves(asked[giver], one) and index not in seen:
                    seen.add(index)
                    if index not in matched or match(matched[index], seen):
                        matched[index] = giver
                        return True
            return False

        assert all(match(giver, set()) for giver in range(len(asked))), "somebody makes room for nobody"
        first = next((one for one in urgent if any(serves(giver, one) for giver in held)), None)
        assert first is None or any(serves(giver, first) for giver in asked), "nobody makes room"

    def _new_checks(self) -> None:
        for job in jobs.find(self.db, most=1000):
            if job.id not in self.model.jobs:
                assert job.spec.kind == "check"
                name = job.spec.ask.device
                same = [t for t in self.model.jobs.values() if t.check and t.ask.device == name]
                assert all(task.state is JobState.ENDED for task in same), "one check at a time"
                lease = job.attempts[0].lease
                self.model.jobs[job.id] = Task(ask=job.spec.ask, owner="farm", lease=lease, check=True)
                self._asked(lease, job.spec.ask, "farm", job=job.id, checks=True)

    def _hello(self, host: str, offered: dict[str, dict[str, str]]) -> None:
        model = self.model
        boards = [Offered(name=name, target=name[0], labels=labels) for name, labels in offered.items()]
        taken = [n for n in offered if n in model.boards and model.boards[n].host != host and model.boards[n].there]
        if taken:
            with pytest.raises(UsageError, match="another host's"), self.db.begin_nested():
                shelf.register(self.db, host, HOST[host].id, "1", boards, model.now)
            return
        shelf.register(self.db, host, HOST[host].id, "1", boards, model.now)
        model.hosts[host] = model.now
        for name, given in offered.items():
            labels = {KIND_LABEL: "ssh", **given}
            board = model.boards.setdefault(name, Board(host, name[0], labels))
            if board.host != host and board.lease:
                model.over(board.lease, LeaseEnd.LOST)
            board.host, board.offered, board.labels = host, True, labels
            if not board.there:
                model.come_back(name)
        for name, board in model.boards.items():
            if board.host == host and name not in offered:
                board.there = board.offered = False

    def _asked(self, number: str, ask: Ask, owner: str, **more: Any) -> None:
        self.model.turns += 1
        self._add(number, ask, owner, self.model.turns, **more)

    def _add(self, number: str, ask: Ask, owner: str, turn: int, *, job: str = "", checks: bool = False) -> None:
        due = ask.begin_at <= self.model.now
        self.model.leases[number] = Held(ask, owner, turn, job, self.model.now, checks=checks, due=due)

    def _going(self, *, job: bool) -> list[str]:
        alive = ((n, le) for n, le in self.model.leases.items() if le.state is not LeaseState.ENDED)
        return [number for number, lease in alive if bool(lease.job) is job]

    def _with_device(self) -> list[str]:
        return [n for n in self.model.jobs if self._host_of(n) and self.model.jobs[n].state is JobState.RUNNING]

    def _lease_host(self, lease: Held) -> str:
        return self.model.boards[lease.device].host if lease.state is LeaseState.HELD else ""

    def _host_of(self, job: str) -> str:
        return self._lease_host(self.model.leases[self.model.jobs[job].lease])

    def _token(self, job: str) -> int:
        return self.model.leases[self.model.jobs[job].lease].token


def _run(database: Database, examples: int, steps: int, *phases: Phase) -> None:
    machine = type("Beside", (Beside,), {"database": database})
    limits = settings(max_examples=examples, stateful_step_count=steps, phases=[Phase.generate, *phases])
    run_state_machine_as_test(machine, settings=limits)


def test_the_tables_do_what_the_model_does(any_database: Database) -> None:
    _run(any_database, 8, 30)


@pytest.mark.proof
def test_the_tables_do_what_the_model_does_for_long(any_database: Database) -> None:
    """Also finds the shortest way to what it finds, which takes minutes."""
    _run(any_database, 2000, 80, Phase.shrink)
