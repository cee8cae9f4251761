"""A board that says what no board says: its first line, its exit signals, its hold, its keys; one sentence each."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device, pinned_clocks
from edgebuild.devices.messages import MAX_DEPTH, NotAMessage, one_line, read_message, whole_number
from edgebuild.devices.ssh.address import SshAddress
from edgebuild.errors import DeviceError, EdgebuildError, UsageError
from tests import needs
from tests.devices.stub import StubDevice
from tests.mutants import COUNTS, ODD, altered, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RIGHT = b'4711\n{"event": "progress", "phase": "load", "done": 1, "total": 2}\n{"result": {"runtime": {"a": "1"}}}\n'


class FakeStream:
    """A stream of asyncssh's: what a board wrote, in pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, most: int) -> bytes:
        """The next piece."""
        piece, self._data = self._data[: min(most, 1000)], self._data[min(most, 1000) :]
        return piece


class FakeProcess:
    """A process of asyncssh's that wrote all that it will write, and ended."""

    def __init__(self, stdout: bytes, *, stderr: bytes = b"", status: Any = 0, signal: Any = None) -> None:
        self.stdout, self.stderr = FakeStream(stdout), FakeStream(stderr)
        self.exit_status, self.exit_signal = status, signal

    async def wait_closed(self) -> None:
        """It is."""

    def close(self) -> None:
        """Nothing to close."""


class FakeBoard:
    """What a channel needs of its device; remembers the groups that it was to kill."""

    id = "ssh-fake"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.killed: list[int] = []

    def wait_for(self, coroutine: Any, what: str, limit_s: float | None) -> Any:
        """Run it here."""
        del what, limit_s

        async def and_pump() -> Any:
            found = await coroutine
            for _ in range(20):  # what the device's own thread does meanwhile
                await asyncio.sleep(0)
            return found

        return self.loop.run_until_complete(and_pump())

    def kill_group(self, group: int, *, leader_ended: bool) -> None:
        """Remember."""
        del leader_ended
        self.killed.append(group)

    def lost(self) -> DeviceError:
        """The link is gone."""
        return DeviceError("lost")


@pytest.fixture
def board() -> Iterator[FakeBoard]:
    board = FakeBoard()
    yield board
    board.loop.close()


def talk(board: FakeBoard, process: FakeProcess) -> int:
    """Open a channel, read all of it, and return how it ended."""
    from edgebuild.devices.ssh.channel import SshChannel

    device: Any = board
    channel = SshChannel(device, process)
    try:
        while True:
            try:
                if channel.receive(0.0) is None:
                    break
            except TimeoutError:
                board.wait_for(asyncio.sleep(0), "", None)
        return channel.wait(1.0)
    finally:
        channel.kill()


@pytest.mark.parametrize(
    ("signal", "status"),
    [
        (("KILL", False, "", ""), -9),
        (("SEGV", True, "", ""), -11),
        (("WINCHESTER", False, "", ""), -9),
        (("", False, "", ""), -9),
        ("KILL", -9),
        ((None,), -9),
    ],
)
def test_a_signal_whatever_its_name_is_an_end(signal: Any, status: int, board: FakeBoard) -> None:
    assert talk(board, FakeProcess(b"17\n", status=None, signal=signal)) == status
    assert board.killed == [17]


@pytest.mark.parametrize("status", ["1", -1, 2.5])
def test_a_status_that_is_none_is_a_sentence(status: Any, board: FakeBoard) -> None:
    with pytest.raises(DeviceError):
        talk(board, FakeProcess(b"17\n", status=status))


@pytest.mark.parametrize(
    "first",
    [b"", b"\n", b"hello\n", "²\n".encode(), b"9" * 9_999 + b"\n", b"-1\n", b"0\n", b"1\n", b"\xff\xfe\n", b"1e3\n"],
)
def test_a_first_line_that_is_no_group_kills_nothing(first: bytes, board: FakeBoard) -> None:
    talk(board, FakeProcess(first))
    assert board.killed == []


def test_a_line_without_an_end_is_a_sentence(board: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebuild.devices.ssh.channel.MAX_LINE_BYTES", 10_000)
    with pytest.raises(DeviceError, match="a line of more than"):
        talk(board, FakeProcess(b"17\n" + b"x" * 20_000))


@pytest.mark.parametrize("count", COUNTS)
def test_raw_bytes_of_a_board_end_in_a_result_or_one_sentence(count: int, board: FakeBoard) -> None:
    from edgebuild.devices.ssh.channel import SshChannel

    class OverSsh(StubDevice):
        """Opens channels to a fake process."""

        def open(self, argv: Any, env: Any) -> Any:
            del argv, env
            device: Any = board
            channel: Any = SshChannel(device, FakeProcess(wrote, stderr=wrote))
            channel.send = lambda _: None
            return channel

    device: Any = OverSsh({})
    for seed in range(count):
        wrote = damaged(RIGHT, seed)
        try:
            found = RunnerClient(device, {}).call("probe", {}, time_limit_s=5.0)
        except DeviceError:
            continue
        assert isinstance(found["runtime"], dict), seed
    assert all(group > 1 for group in board.killed)


@pytest.mark.parametrize("count", COUNTS)
def test_altered_words_about_a_hold_end_in_one_sentence(count: int) -> None:
    held = [{"event": "waiting", "holder": "somebody"}, {"event": "held", "attempt": 3}]
    pinned = [{"event": "pinned", "guard": 12}]
    for seed in range(count):
        device: Any = StubDevice({})
        words = altered(held if seed % 2 else pinned, seed)
        device.raw = [json.dumps(message) for message in (words if isinstance(words, list) else [words])]
        sentence = held_or_said(RunnerClient(device, {}), hold=bool(seed % 2))
        assert len(sentence) < 1_000, seed
        assert sentence.isprintable(), seed


def held_or_said(client: RunnerClient, *, hold: bool) -> str:
    """Return the sentence that a hold ends in, empty where it was held; any other exception is a fault of ours."""
    try:
        with hold_device(client, "test") if hold else pinned_clocks(client):
            assert client.attempt is None or 0 <= client.attempt < 1 << 54
    except EdgebuildError as error:
        return error.message
    return ""


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 50_000, "", "null", '{"event": "held", "attempt": 1e999}'])
def test_a_hold_that_answers_nonsense_is_a_sentence(line: str) -> None:
    device: Any = StubDevice({})
    device.raw = [line]
    with pytest.raises(DeviceError), hold_device(RunnerClient(device, {}), "test"):
        pass


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_a_message_is_bounded_plain_data(odd: Any) -> None:
    try:
        found = read_message(json.dumps({"value": odd}))
    except NotAMessage:
        return
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8")


def test_a_message_nests_so_deep_and_no_deeper() -> None:
    def nested(depth: int) -> str:
        return '{"a":' * depth + "1" + "}" * depth

    assert read_message(nested(MAX_DEPTH))
    with pytest.raises(NotAMessage, match="nests deeper"):
        read_message(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("²", None), ("٣", None), ("9" * 5_000, None), ("-1", None), ("", None)]
)
def test_a_number_in_a_devices_words(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_text_of_a_device_can_not_steer_a_terminal() -> None:
    assert (
        one_line("a\x1b[2J\u202eb\nc\x07")
        == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b c\N{REPLACEMENT CHARACTER}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "pi:hunter2@board",
        "ssh://pi@board",
        "pi@board:" + "9" * 5_000,
        "pi@board:²²",
        "pi@bo ard",
        "pi@[::1",
        "pi@-oProxyCommand=touch x",
        "pi@board\n",
        "pi@board\x00",
        "\ud800@board",
        "@",
        "",
    ],
)
def test_an_odd_address_is_refused_and_no_password_is_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        SshAddress.parse(text)
    assert "hunter2" not in caught.value.message
    assert len(caught.value.message) < 300


def connected_with(key: Path, host_keys: tuple[str, ...] = ()) -> str:
    """Return the sentence that a connection with this key ends in; it never gets to the network."""
    from edgebuild.devices.ssh.connection import connected

    address = SshAddress(user="pi", host="127.0.0.1", port=1)
    with pytest.raises(DeviceError) as caught:
        asyncio.run(connected("board", address, host_keys, key_file=key))
    assert caught.value.hint
    return caught.value.message + caught.value.hint


@needs.marked(needs.program("ssh-keygen", "openssh-client"))
def test_a_key_with_a_passphrase_is_said_with_the_agent(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
    said = connected_with(key)
    assert "is protected by a passphrase" in said
    assert f"ssh-add {key}" in said


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00\xff" * 100, b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_private_key_is_said(data: bytes, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(data)
    assert "is no private key" in connected_with(key)
    assert "can't be read" in connected_with(tmp_path / "none")


@pytest.mark.parametrize("pinned", ["", "garbage", "ssh-ed25519", "ssh-ed25519 !!!!", "ssh-ed25519 AAAA\n* evil"])
def test_a_pinned_key_that_is_none_is_said(pinned: str) -> None:
    from edgebuild.devices.ssh.connection import connected

    address = SshAddress(user="pi", host="127.0.0.1", port=1)
    with pytest.raises(DeviceError, match="the pinned host key"):
        asyncio.run(connected("board", address, (pinned,), key_file=None))
