"""A board of a farm, used from one's own machine: what it promises, what is refused, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.backends.table import backends
from edgebuild.devices.client import RunnerClient
from edgebuild.errors import DataError, DeviceError, EdgebuildError, EnvironmentGap, StoreError, UsageError
from edgebuild.farm import tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress
from edgebuild.farm.relay import wire
from edgebuild.farm.relay.allowed import RunnerOnly
from edgebuild.farm.relay.link import Link, LinkLost
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from edgebuild.testing.devices import check_device
from tests.devices.sshd import Board, board, needs_sshd
from tests.farm.relays import EverythingAllowed, Shelf, bench, entry_of, hosted, stock
from tests.farm.serving import served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.devices.transport import Device
    from edgebuild.farm.database import Database
    from edgebuild.farm.relay.device import FarmDevice
    from edgebuild.fleet.inventory import DeviceEntry

__all__ = ["board"]  # the fixture
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
HELLO = wire.write(wire.Hello(version="1"))
OPEN = wire.write(wire.Open(call=1, argv=("x",)))
RULES = RunnerOnly(
    device="pi-1",
    root="/home/pi/.edgebuild",
    python="python3",
    runner="0" * 64,
    backends=frozenset({"onnxruntime"}),
    version="1",
    theirs="1",
)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.fixture
def shelf(database: Database, tmp_path: Path) -> Iterator[Shelf]:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm) as url:
        yield stock(farm, url, [entry_of()])


def test_a_farms_board_keeps_the_promises_of_a_device(shelf: Shelf, tmp_path: Path) -> None:
    """The allow-list of the host is replaced by one that lets everything through."""
    lease = shelf.lease()
    with (
        hosted(shelf.told(lease, entry_of()), bench(tmp_path / "board"), allow=EverythingAllowed),
        contextlib.closing(shelf.device(lease)) as device,
    ):
        check_device(device, tmp_path)
        assert (device.id, device.root) == ("farm-pi-1", str(tmp_path / "board"))


@contextlib.contextmanager
def used(shelf: Shelf, folder: Path, entry: DeviceEntry | None = None, **more: Any) -> Iterator[FarmDevice]:
    """A lease of the board under the host's own rules."""
    lease = shelf.lease()
    told = shelf.told(lease, entry or entry_of()).model_copy(update=more)
    with hosted(told, bench(folder / "board")), contextlib.closing(shelf.device(lease)) as device:
        yield device


def runner(device: FarmDevice, *, native_libraries: bool = False) -> RunnerClient:
    """This machine's own runner, with all of its backends."""
    files = {name: backend.device_file for name, backend in backends().items()}
    return RunnerClient(device, files, native_libraries=native_libraries)


def test_the_runner_answers_through_a_relay_and_never_travels(shelf: Shelf, tmp_path: Path) -> None:
    with used(shelf, tmp_path) as device:
        client = runner(device)
        assert client.call("probe", {"light": True}, time_limit_s=60.0)["python"]
        folder = tmp_path / "artifact"
        folder.mkdir()
        (folder / "model").write_bytes(os.urandom(3 * wire.CHUNK_BYTES + 5))
        (folder / "empty").touch()
        there = Path(client.put_folder(folder))
        assert (there / "model").read_bytes() == (folder / "model").read_bytes()
        assert Path(device.root, "runner", f"{client.runner_digest}.pyz").exists()


def test_another_edgebuild_is_refused_with_both_versions(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "device.py").write_text("def version():\n    return '1'\n")
    with used(shelf, tmp_path) as device:
        other = RunnerClient(device, {"toy": tmp_path / "device.py"})
        with pytest.raises(UsageError, match=r"You run edgebuild .* the host of pi-1 runs edgebuild") as raised:
            other.call("probe", {}, time_limit_s=60.0)
        assert other.runner_digest[:12] in raised.value.message
        assert "same" in raised.value.hint


def test_a_host_runs_no_native_code_unless_it_says_so(shelf: Shelf, tmp_path: Path) -> None:
    with used(shelf, tmp_path) as device, pytest.raises(UsageError, match="native code"):
        runner(device, native_libraries=True).call("probe", {"light": True}, time_limit_s=60.0)


def test_a_host_that_allows_native_code_runs_it(shelf: Shelf, tmp_path: Path) -> None:
    with used(shelf, tmp_path, native_libraries=True) as device:
        runner(device, native_libraries=True).call("probe", {"light": True}, time_limit_s=60.0)


def test_what_is_no_runners_business_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with used(shelf, tmp_path) as device:
        client = runner(device)
        client.call("probe", {"light": True}, time_limit_s=60.0)
        program = f"{device.root}/runner/{client.runner_digest}.pyz"
        env = {"PYTHONUNBUFFERED": "1"}
        for argv, given in (
            (["sh", "-c", "id"], env),
            ([device.python, "-B", program, "more"], env),
            ([device.python, "-c", "pass"], env),
            ([device.python, "-B", program], {**env, "LD_PRELOAD": "x.so"}),
        ):
            with pytest.raises(UsageError, match="nothing but edgebuild's own runner"):
                device.open(argv, given)
        for name in ("blobs/x", "release/x", f"blobs/{'0' * 64}/../../../x", "/etc/x", "attempt"):
            with pytest.raises(UsageError, match="nothing may be placed"):
                device.put(secret, name)
        with pytest.raises(DataError, match="arrived damaged"):
            device.put(secret, f"blobs/{'0' * 64}")
        for name in (str(secret), f"{device.root}/attempt", f"{device.root}/work/../attempt", "work/x", "/work/x"):
            with pytest.raises(UsageError, match="may not be read"):
                device.get(name, tmp_path / "got")
            with pytest.raises(UsageError, match="may not be removed"):
                device.remove(name)
        assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"op": "install"}, "may not be asked"),
        ({"op": "site"}, "may not be asked"),
        ({"root": "/"}, "may not be asked"),
        ({"backends": ["os"]}, "no such backends"),
        ({"backends": "os"}, "no such backends"),
        ({"native_libraries": 1}, "native code"),
        ({"out": "/home/x"}, "nothing is written there"),
        ({"outputs": ["x"]}, "nothing is written there"),
        ({"op": "clocks"}, "pins no clocks"),
        ({"options": {"timing_caches": "/home"}}, "nothing is cached"),
    ],
)
def test_a_request_is_read_before_the_runner_reads_it(changes: dict[str, Any], why: str) -> None:
    request = {"op": "probe", "root": "/home/pi/.edgebuild", "backends": ["onnxruntime"], "native_libraries": False}
    assert json.loads(RULES.request(json.dumps(request))) == request
    with pytest.raises(EdgebuildError, match=why):
        RULES.request(json.dumps({**request, **changes}))


@pytest.mark.parametrize("line", ["", "[]", "{", "NaN", '{"op": NaN}', '{"op": "probe"}\n{}', "{" * 100_000])
def test_what_is_no_request_reaches_no_runner(line: str) -> None:
    with pytest.raises(UsageError):
        RULES.request(line)


def test_a_request_has_one_reading() -> None:
    """Of two fields of one name the runner would take the one that was looked at."""
    line = '{"root": "/home/pi/.edgebuild", "op": "install", "op": "probe", "backends": [], "native_libraries": false}'
    assert json.loads(RULES.request(line))["op"] == "probe"
    assert "install" not in RULES.request(line)


def test_errors_are_the_same_on_both_sides_without_what_a_terminal_obeys() -> None:
    for error in (DeviceError("gone", hint="wait"), StoreError("full"), UsageError("no"), EnvironmentGap("\x1b[2Jno")):
        crossed = wire.raised(wire.failed(3, error))
        assert type(crossed) is type(error)
        assert "\x1b" not in crossed.message
        assert crossed.hint == error.hint
    crossed = wire.raised(wire.failed(3, KeyError("a secret")))
    assert type(crossed) is DeviceError
    assert "secret" not in crossed.message


def test_a_lease_that_is_given_back_ends_what_runs_and_what_waits(shelf: Shelf, tmp_path: Path) -> None:
    lease = shelf.lease()
    with hosted(shelf.told(lease, entry_of()), bench(tmp_path / "board"), allow=EverythingAllowed) as ended:
        device = shelf.device(lease)
        channel = device.open([device.python, "-c", SLEEP], {})
        pid = int(channel.receive(20.0) or "0")
        shelf.release(lease)
        with pytest.raises(DeviceError, match="the lease is over: released"):
            channel.receive(20.0)
        with pytest.raises(DeviceError, match="the lease is over"):
            device.put(tmp_path, "blobs/x")
        wait_until(lambda: bool(ended), "the host's end ends by itself")
        assert ended == [0]
        wait_until(lambda: not running(pid), "what ran is ended")
        device.close()


def test_a_second_end_of_the_same_user_takes_the_place_of_the_first(shelf: Shelf, tmp_path: Path) -> None:
    lease = shelf.lease()
    with hosted(shelf.told(lease, entry_of()), bench(tmp_path / "board"), allow=EverythingAllowed):
        first, second = shelf.device(lease), shelf.device(lease)
        channel = first.open([first.python, "-c", SLEEP], {})
        pid = int(channel.receive(20.0) or "0")
        assert second.root == str(tmp_path / "board")
        wait_until(lambda: not running(pid), "what ran for the first is ended")
        with pytest.raises(DeviceError, match="another one took its place"):
            channel.receive(20.0)
        first.close()
        assert second.open([second.python, "-c", "print(1)"], {}).receive(20.0) == "1"
        second.close()


def test_only_the_holder_and_the_devices_host_are_let_in(shelf: Shelf) -> None:
    lease = shelf.lease()
    waiting = shelf.lease()
    stranger = shelf.farm.do(lambda db, now: tokens.make(db, "eve", Scope.ADMIN, now, days=1))
    of_host = shelf.farm.do(lambda db, now: tokens.make(db, "eves", Scope.HOST, now, days=1))
    user, host = f"/api/leases/{lease.id}/device", f"/api/hosts/desk/leases/{lease.id}/device"
    for token, path, kind, why in (
        (stranger, user, UsageError, "is ada's"),
        (shelf.host, user, EnvironmentGap, "doesn't allow"),
        (shelf.user, host, EnvironmentGap, "doesn't allow"),
        (of_host, host, UsageError, "isn't a host of this token"),
        ("nonsense", user, EnvironmentGap, "right token"),
        (shelf.user, f"/api/leases/{waiting.id}/device", UsageError, "holds no device"),
        (shelf.user, f"/api/leases/l{'0' * 15}/device", UsageError, "no lease"),
    ):
        with pytest.raises(kind, match=why):
            Link(FarmAddress(url=shelf.url, token=token), path)


def test_a_frame_that_is_too_large_ends_the_relay(shelf: Shelf) -> None:
    link = shelf.attach(shelf.lease())
    link.send("x" * (wire.MOST_FRAME_BYTES + 1))
    with pytest.raises(DeviceError, match="exceeds limit"):
        link.receive(20.0)
    link.close()


@pytest.mark.parametrize(
    "frame",
    [
        "nonsense",
        "{}",
        '{"kind": "open", "call": 1, "argv": []}',
        '{"kind": "line", "call": -1, "text": "x"}',
        '{"kind": "hello", "version": "1", "more": 1}',
        b"x",
        b"",
    ],
)
def test_what_is_no_message_is_said_to_be_none(frame: str | bytes) -> None:
    for read in (wire.read_from_user, wire.read_from_host):
        with pytest.raises(DeviceError, match="relay"):
            read(frame)


@settings(max_examples=50)
@given(st.text() | st.binary(max_size=64) | st.dictionaries(st.text(), st.text()).map(json.dumps))
def test_whatever_is_said_is_a_message_or_an_error(frame: str | bytes) -> None:
    for read in (wire.read_from_user, wire.read_from_host):
        with contextlib.suppress(DeviceError):
            read(frame)


@settings(max_examples=50)
@given(st.text(max_size=200_000), st.integers(1, 2**32 - 1))
def test_a_line_arrives_in_pieces_as_it_was(line: str, call: int) -> None:
    pieces = [wire.read_from_user(wire.write(piece)) for piece in wire.pieces(call, line)]
    assert all(len(wire.write(piece)) < wire.MOST_FRAME_BYTES for piece in wire.pieces(call, line))
    assert "".join(piece.text for piece in pieces if isinstance(piece, wire.Line)) == line
    assert [piece.more for piece in pieces if isinstance(piece, wire.Line)] == [True] * (len(pieces) - 1) + [False]


def test_a_user_who_speaks_nonsense_hears_so_and_the_next_one_is_served(shelf: Shelf, tmp_path: Path) -> None:
    lease = shelf.lease()
    with hosted(shelf.told(lease, entry_of()), bench(tmp_path / "board")):
        for words in (['{"kind": "kill", "call": 1}'], [HELLO, HELLO], [HELLO, "{}"], [HELLO, OPEN, OPEN]):
            link = shelf.attach(lease)
            link.send(*words)
            answers = []
            with contextlib.suppress(LinkLost):
                while True:
                    answers.append(wire.read_from_host(link.receive(20.0)))
            # What a call that was just begun came to may be said before it or after it.
            failures = [answer.call for answer in answers if isinstance(answer, wire.Failed)]
            assert failures.count(0) == 1
            link.close()
        with contextlib.closing(shelf.device(lease)) as device:
            assert device.root


def test_a_board_that_cannot_be_reached_is_said_to_be(shelf: Shelf) -> None:
    def reach(entry: DeviceEntry) -> Device:
        raise DeviceError(f"{entry.name} doesn't answer.", hint="Is it on?")

    lease = shelf.lease()
    with (
        hosted(shelf.told(lease, entry_of()), reach),
        contextlib.closing(shelf.device(lease)) as device,
        pytest.raises(DeviceError, match="pi-1 doesn't answer"),
    ):
        device.open(["x"], {})


def test_output_that_nobody_reads_waits_on_the_board(shelf: Shelf, tmp_path: Path) -> None:
    flood = "import sys\nwhile True: sys.stdout.write('x' * 1000 + chr(10))"
    lease = shelf.lease()
    with (
        hosted(shelf.told(lease, entry_of()), bench(tmp_path / "board"), allow=EverythingAllowed),
        contextlib.closing(shelf.device(lease)) as device,
    ):
        flooding = device.open([device.python, "-c", flood], {})
        other = device.open([device.python, "-c", "print('still heard')"], {})
        assert other.receive(20.0) == "still heard"
        for _ in range(5000):
            assert flooding.receive(20.0) == "x" * 1000
        flooding.kill()
        other.kill()


@needs_sshd
def test_a_board_behind_ssh_keeps_its_promises_through_a_relay(shelf: Shelf, board: Board, tmp_path: Path) -> None:
    """The allow-list of the host is replaced by one that lets everything through."""
    lease = shelf.lease()
    with (
        hosted(shelf.told(lease, entry_of()), lambda _: board.device(), allow=EverythingAllowed),
        contextlib.closing(shelf.device(lease)) as device,
    ):
        check_device(device, tmp_path)


@needs_sshd
def test_a_link_to_the_board_that_is_cut_is_said_and_the_next_user_is_served(shelf: Shelf, board: Board) -> None:
    lease = shelf.lease()
    with hosted(shelf.told(lease, entry_of()), lambda _: board.device(), allow=EverythingAllowed):
        device = shelf.device(lease)
        channel = device.open([device.python, "-c", SLEEP], {})
        assert channel.receive(20.0)
        for pid in board.sessions():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"connection to ssh-test .* was lost"):
            channel.wait(20.0)
        device.close()
        with contextlib.closing(shelf.device(lease)) as again:
            assert again.open([again.python, "-c", "print(1)"], {}).receive(20.0) == "1"
