"""One host at a time on one device, and no word from a host whose turn is over."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.answers import Event, checked
from edgebuild.devices.client import HEARTBEAT_S
from edgebuild.devices.lock import measurement_lock, require_time, waiting_for
from edgebuild.devices.messages import NotAMessage, one_line, printable, read_message
from edgebuild.devices.probe import read_probe
from edgebuild.errors import DeviceError, EdgebuildError, EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from edgebuild.core.steps import Progress
    from edgebuild.devices.client import RunnerClient
    from edgebuild.devices.transport import Channel

POLL_S = 0.2
#: Nobody measures on one device longer than this in one go.
HOLD_LIMIT_S = 7 * 86_400.0


@contextlib.contextmanager
def hold_device(
    client: RunnerClient,
    what: str,
    *,
    shared: bool = False,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
    until_s: float = float("inf"),
) -> Iterator[None]:
    """Hold a device for what is measured or computed on it; waits while another holds it, saying who.

    What is measured holds it alone; what is only computed may share it with others that compute. Whoever holds it
    already keeps it: what is done meanwhile may be made of parts that hold it too. On this machine, and for an emulator
    that runs here, it is the measurement lock. On a board the lock is its own kernel's: it ends with the connection,
    however that ends. The board numbers the attempts, and every request carries the number, so that the requests of a
    host that lost its turn without noticing are refused. ``check`` is called while waiting and may raise. Raises
    ``NoTimeToWait`` where it still waits at ``until_s`` (of ``time.monotonic``).
    """
    if client.held == "alone" or (shared and client.held == "shared"):
        yield
        return
    if client.held == "shared":
        raise EdgebuildError(f"{what} needs {client.device.id} alone, which is shared meanwhile.")
    if client.device.on_host:
        turn = measurement_lock(what, shared=shared, progress=progress, check=check, until_s=until_s)
    else:
        turn = _turn(client, what, shared, progress, check, until_s)
    with turn:
        client.held = "shared" if shared else "alone"
        try:
            yield
        finally:
            client.held = "not"


@contextlib.contextmanager
def _turn(
    client: RunnerClient,
    what: str,
    shared: bool,
    progress: Progress | None,
    check: Callable[[], None],
    until_s: float,
) -> Iterator[None]:
    channel = client.start("hold", {"what": what, "shared": shared}, time_limit_s=HOLD_LIMIT_S)
    over = threading.Event()
    knocking = threading.Thread(target=_beat, args=(channel, over), name="edgebuild-hold", daemon=True)
    knocking.start()
    try:
        client.attempt = _held(channel, client, progress or NoProgress(), check, until_s)
        yield
    finally:
        client.attempt = None
        over.set()
        knocking.join()
        channel.kill()


@contextlib.contextmanager
def pinned_clocks(client: RunnerClient, *, check: Callable[[], None] = never_stop) -> Iterator[None]:
    """Pin a Jetson's clocks while the block runs; the device puts them back however it ends, a cut link included.

    Raises ``EnvironmentGap`` where the device has no ``jetson_clocks`` or its user isn't allowed to use it.
    """
    channel = client.start("clocks", {}, time_limit_s=HOLD_LIMIT_S)
    over = threading.Event()
    knocking = threading.Thread(target=_beat, args=(channel, over), name="edgebuild-clocks", daemon=True)
    knocking.start()
    try:
        message = _next(channel, client, check)
        if message.get("event") != "pinned":
            error = message.get("error")
            answer = error if isinstance(error, dict) else {"message": str(message)}
            what, how = (printable(str(answer.get(part, "")))[:500] for part in ("message", "hint"))
            raise EnvironmentGap(f"{client.device.id}: {what}", hint=how)
        yield
    finally:
        over.set()
        knocking.join()
        channel.kill()


@contextlib.contextmanager
def clocks_as_asked(
    client: RunnerClient, probe: Mapping[str, str], *, pin: bool, check: Callable[[], None] = never_stop
) -> Iterator[Mapping[str, str]]:
    """Yield what the device is while it is measured: with ``pin`` its clocks are pinned, and it is probed with them."""
    if not pin:
        yield probe
        return
    with pinned_clocks(client, check=check):
        yield read_probe(client)


def _beat(channel: Channel, over: threading.Event) -> None:
    """Keep the turn while it is used; the board ends it when it hears nothing any more."""
    while not over.wait(HEARTBEAT_S):
        try:
            channel.send("")
        except DeviceError:
            return  # the link or the board is gone; the work that runs meanwhile notices


def _held(channel: Channel, client: RunnerClient, progress: Progress, check: Callable[[], None], until_s: float) -> int:
    message = _next(channel, client, check)
    if message.get("event") == "waiting":
        holder = repr(one_line(str(message.get("holder")))[:200])
        with progress.task(waiting_for(holder, client.device.id)) as task:

            def waited() -> None:
                check()
                require_time(until_s, holder, client.device.id)
                task.advance(0.0)

            while message.get("event") == "waiting":
                message = _next(channel, client, waited)
    if message.get("event") != "held" or message.get("attempt") is None:
        said = one_line(str(message.get("error") or message))[:300]
        raise DeviceError(f"{client.device.id} can't be held: {said}", hint="Try again.")
    return int(message["attempt"])


def _next(channel: Channel, client: RunnerClient, check: Callable[[], None]) -> dict[str, Any]:
    while True:
        check()
        try:
            line = channel.receive(POLL_S)
        except TimeoutError:
            continue
        try:
            message = read_message(line or "")
        except NotAMessage:
            raise DeviceError(
                f"{client.device.id} ended the hold: {printable(channel.stderr_tail()[-500:]) or 'no reason given'}",
                hint="Try again; `edgebuild device check` looks at the device.",
            ) from None
        return checked(Event, message, client.device.id) if "event" in message else message


def holding(
    client: RunnerClient,
    progress: Progress,
    check: Callable[[], None],
    lent: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    until: Callable[[], float] = lambda: float("inf"),
) -> Callable[[str, bool], AbstractContextManager[None]]:
    """Return what holds the client's device, shared or not, while a step runs on it (see ``hold_device``).

    ``lent`` lends the host to others meanwhile. ``until`` says, when the wait begins, until when it may last.
    """

    @contextlib.contextmanager
    def hold(what: str, shared: bool) -> Iterator[None]:
        turn = hold_device(client, f"edgebuild: {what}", shared=shared, progress=progress, check=check, until_s=until())
        with lent(), turn:
            yield

    return hold
