"""What the hosts of devices ask and say."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, model_validator
from sqlalchemy import Connection

from edgebuild import __version__
from edgebuild.errors import UsageError
from edgebuild.farm import arriving, audit, desk, shelf
from edgebuild.farm.exact import cleaned
from edgebuild.farm.server.answers import Id, Name, Problems
from edgebuild.farm.server.identity import Host, OfFarm
from edgebuild.farm.values import Finished, Given, JobEnd, Message, Offered, Shelved, Turn, Work

router = APIRouter(prefix="/api/hosts", tags=["hosts"], responses=Problems)
#: A host that has nothing to do hears so after this long, and asks again.
LONGEST_WAIT_S = 10.0


class Hello(Given):
    """What a host brings, and the version of its edgebuild."""

    version: str = Field(max_length=64)
    devices: tuple[Offered, ...] = Field(default=(), max_length=2000)


class AskWork(Given):
    """What a host runs and relays already; it gets an answer when there is something else to do, or after a while."""

    running: tuple[Turn, ...] = Field(default=(), max_length=2000)
    relays: tuple[str, ...] = Field(default=(), max_length=2000)
    wait: bool = True


class Said(Given):
    """What a job said."""

    token: int
    lines: tuple[str, ...] = Field(max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, data: Any) -> Any:
        """Let a job say anything: what is no character of it is shown as that."""
        lines = data.get("lines") if isinstance(data, dict) else None
        if not isinstance(lines, list | tuple):
            return data
        return {**data, "lines": [cleaned(line) if isinstance(line, str) else line for line in lines]}


class Counted(Message):
    """Whether a host's word counted: it doesn't when the turn was over."""

    counted: bool


def require_same(version: str) -> None:
    """Raise ``UsageError`` for a host of another minor version: what it was told it might take for something else."""
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise UsageError(
            f"The host runs edgebuild {version}, and this farm {__version__}.",
            hint="Install the same minor version on both.",
        )


@router.post("/{host}/hello")
def hello(farm: OfFarm, who: Host, host: Name, given: Hello) -> tuple[Shelved, ...]:
    """Join the farm with devices, or say which ones they are now. Both sides run the same minor version."""
    require_same(given.version)
    known = farm.do(lambda db, now: shelf.register(db, host, who.id, given.version, given.devices, now))
    farm.do(lambda db, now: audit.note(db, who.name, "hello", host, now, devices=[each.name for each in known]))
    return known


@router.post("/{host}/work")
async def work(farm: OfFarm, who: Host, host: Name, given: AskWork) -> Work:
    """Say what runs, and hear what is to be done: at once where there is something, else after a while.

    A host that asks again, since it gave up on this answer, gets everything there and nothing here.
    """
    said_at = farm.now
    until = said_at + LONGEST_WAIT_S
    poll = farm.polls.begin(host, who.id)

    def look(db: Connection, now: float) -> Work:
        if farm.polls.over(host, who.id, poll):
            desk.require_host(db, who, host)
            return Work()
        return desk.work(db, who, host, given.running, now, said_at=said_at)

    while True:
        with farm.bell.listening(host) as rung:
            todo = await run_in_threadpool(farm.do, look)
            news = todo.start or todo.stop or {relay.id for relay in todo.relays} != set(given.relays)
            over = farm.leaving or farm.now >= until or farm.polls.over(host, who.id, poll)
            if news or not given.wait or over:
                return todo
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), until - farm.now)


@router.post("/{host}/jobs/{job}/log")
def log(farm: OfFarm, who: Host, host: Name, job: Id, given: Said) -> Counted:
    """Keep what a job said."""
    del host
    return farm.do(lambda db, now: Counted(counted=desk.log(db, who, job, given.token, given.lines, now)))


@router.post("/{host}/jobs/{job}/finish")
def finish(farm: OfFarm, who: Host, host: Name, job: Id, given: Finished) -> Counted:
    """Say how a job's attempt ended. What it measured is held against its evidence, and kept."""
    del host
    session = None
    if given.how is JobEnd.SUCCEEDED:
        device = farm.look(lambda db: arriving.measured_on(db, job, given.token))
        if device is not None:
            given, session = arriving.looked_at(farm.blobs, given, device)
    return farm.do(lambda db, now: Counted(counted=desk.finish(db, who, job, given, now, session=session)))


@router.post("/{host}/jobs/{job}/give-back")
def give_back(farm: OfFarm, who: Host, host: Name, job: Id, given: Turn) -> Counted:
    """Say that a job made room."""
    del host
    return farm.do(lambda db, now: Counted(counted=desk.give_back(db, who, job, given.token, now)))
