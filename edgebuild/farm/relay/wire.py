"""What the two ends of a relay say to each other, many programs and files at once over one websocket.

Text frames hold one message as JSON; binary frames hold bytes of a file behind the number of their call. Every frame
is small, so that a file holds no line up for long, and nothing is sent that the other end has no room for.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from edgebuild.core.capabilities import Capabilities
from edgebuild.devices.messages import printable
from edgebuild.devices.transport import MAX_FILE_BYTES
from edgebuild.errors import (
    DataError,
    DeviceError,
    EdgebuildError,
    EnvironmentGap,
    ModelError,
    NoTimeToWait,
    StoreError,
    UsageError,
)
from edgebuild.farm.values import Message

#: No frame is larger; the server closes a relay with one that is.
MOST_FRAME_BYTES = 1 << 20
#: Of a file, in one frame.
CHUNK_BYTES = 1 << 18
#: Of a line, in one frame: JSON may make six bytes of a character.
PIECE_CHARACTERS = 1 << 16
#: What of a program's output may be on its way, or wait for its reader: further output waits on the device.
WINDOW = 1 << 20
#: A line costs the window this much beside its characters: empty ones are no free ones.
LINE_COST = 64
MOST_CALLS = 256
MOST_PATH = 1024
SAID_CHARACTERS = 16 << 10
#: The errors that are the same on both sides.
CROSSING: Final[dict[str, type[EdgebuildError]]] = {
    kind.__name__: kind
    for kind in (DataError, DeviceError, EnvironmentGap, ModelError, NoTimeToWait, StoreError, UsageError)
}

Call: TypeAlias = Annotated[int, Field(ge=1, lt=1 << 32)]
Text: TypeAlias = Annotated[str, Field(max_length=PIECE_CHARACTERS)]
Path: TypeAlias = Annotated[str, Field(min_length=1, max_length=MOST_PATH)]
Said: TypeAlias = Annotated[str, Field(max_length=SAID_CHARACTERS)]
Word: TypeAlias = Annotated[str, Field(max_length=16 << 10)]


class Hello(Message):
    """The user's end is there, with this edgebuild."""

    kind: Literal["hello"] = "hello"
    version: str = Field(max_length=64)


class Open(Message):
    """Start a program."""

    kind: Literal["open"] = "open"
    call: Call
    argv: tuple[Word, ...] = Field(min_length=1, max_length=64)
    env: dict[str, str] = Field(default_factory=dict, max_length=64)


class Line(Message):
    """A line to a program, or of its output; ``more`` says that its next piece follows."""

    kind: Literal["line"] = "line"
    call: Call
    text: Text
    more: bool = False


class Room(Message):
    """The reader of a program's output has room for this much more."""

    kind: Literal["room"] = "room"
    call: Call
    room: int = Field(ge=1, le=WINDOW)


class Kill(Message):
    """End a program and everything that it started."""

    kind: Literal["kill"] = "kill"
    call: Call


class Put(Message):
    """Place a file; its bytes follow once the host says ``Send``."""

    kind: Literal["put"] = "put"
    call: Call
    name: Path
    size_bytes: int = Field(ge=0, le=MAX_FILE_BYTES)


class Get(Message):
    """Fetch a file."""

    kind: Literal["get"] = "get"
    call: Call
    remote: Path
    most_bytes: int = Field(ge=0, le=MAX_FILE_BYTES)


class Remove(Message):
    """Remove a file or a folder."""

    kind: Literal["remove"] = "remove"
    call: Call
    remote: Path


class Welcome(Message):
    """The device is connected, and what it is to its host."""

    kind: Literal["welcome"] = "welcome"
    version: str = Field(max_length=64)
    root: str = Field(pattern=r"^/[^\x00-\x1f\x7f]+$", max_length=MOST_PATH)
    python: str = Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=MOST_PATH)
    capabilities: Capabilities


class Done(Message):
    """A call did what it was to do; ``path`` is where a file was put."""

    kind: Literal["done"] = "done"
    call: Call
    path: str = Field(default="", max_length=MOST_PATH)


class Send(Message):
    """The bytes of a file that is to be put are awaited."""

    kind: Literal["send"] = "send"
    call: Call


class Size(Message):
    """So many bytes of a file follow."""

    kind: Literal["size"] = "size"
    call: Call
    size_bytes: int = Field(ge=0, le=MAX_FILE_BYTES)


class OutputEnd(Message):
    """A program writes no more lines; ``said`` is the end of its error output until then."""

    kind: Literal["output_end"] = "output_end"
    call: Call
    said: Said


class Ended(Message):
    """A program ended, or was: its status, minus the signal's number if one ended it."""

    kind: Literal["ended"] = "ended"
    call: Call
    status: int = Field(ge=-128, le=0xFFFF_FFFF)
    said: Said


class Failed(Message):
    """A call failed: the class of its error, and its words. ``call`` is 0 where all of the relay does."""

    kind: Literal["failed"] = "failed"
    call: int = Field(ge=0, lt=1 << 32)
    error: str = Field(max_length=64)
    message: str = Field(max_length=4_000)
    hint: str = Field(default="", max_length=4_000)
    said: Said = ""


FromUser: TypeAlias = Hello | Open | Line | Room | Kill | Put | Get | Remove
FromHost: TypeAlias = Welcome | Line | Done | Send | Size | OutputEnd | Ended | Failed
_FROM_USER: Final = TypeAdapter[FromUser](Annotated[FromUser, Field(discriminator="kind")])
_FROM_HOST: Final = TypeAdapter[FromHost](Annotated[FromHost, Field(discriminator="kind")])
T = TypeVar("T")
_HEAD: Final = struct.Struct(">I")


class Bytes(Message):
    """Bytes of a call's file."""

    kind: Literal["bytes"] = "bytes"
    call: int
    data: bytes


def read_from_user(frame: str | bytes) -> FromUser | Bytes:
    """Return what a user's end says; raises ``DeviceError`` for what is no message."""
    return _bytes(frame) if isinstance(frame, bytes) else _read(_FROM_USER, frame)


def read_from_host(frame: str | bytes) -> FromHost | Bytes:
    """Return what a host's end says; raises ``DeviceError`` for what is no message."""
    return _bytes(frame) if isinstance(frame, bytes) else _read(_FROM_HOST, frame)


def write(message: FromUser | FromHost) -> str:
    """Return a message as a text frame."""
    return message.model_dump_json()


def write_bytes(call: int, data: bytes) -> bytes:
    """Return bytes of a file as a binary frame."""
    return _HEAD.pack(call) + data


def pieces(call: int, line: str) -> list[Line]:
    """Return a line in pieces that fit into frames."""
    cuts = range(0, max(1, len(line)), PIECE_CHARACTERS)
    last = len(cuts) - 1
    parts = (line[at : at + PIECE_CHARACTERS] for at in cuts)
    return [Line(call=call, text=part, more=number < last) for number, part in enumerate(parts)]


def cost(piece: Line) -> int:
    """Return what a piece of output takes of the window."""
    return len(piece.text) + LINE_COST


def failed(call: int, error: Exception, said: str = "") -> Failed:
    """Return an error as it crosses a relay: the nearest class that crosses, and its words without control characters.

    What is no error of edgebuild's crosses as the name of its class only.
    """
    kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in CROSSING), "DeviceError")
    message, hint = f"The device's host failed: {type(error).__name__}.", ""
    if isinstance(error, EdgebuildError):
        message, hint = error.message, error.hint
    return Failed(call=call, error=kind, message=printable(message), hint=printable(hint), said=said[-SAID_CHARACTERS:])


def raised(message: Failed) -> EdgebuildError:
    """Return the error that crossed a relay."""
    kind = CROSSING.get(message.error, DeviceError)
    return kind(printable(message.message) or "The device's host failed.", hint=printable(message.hint))


def _bytes(frame: bytes) -> Bytes:
    if not _HEAD.size <= len(frame) <= CHUNK_BYTES + _HEAD.size:
        raise DeviceError("The other end of the relay sends a piece of a file of no possible size.")
    return Bytes(call=_HEAD.unpack_from(frame)[0], data=frame[_HEAD.size :])


def _read(adapter: TypeAdapter[T], frame: str) -> T:
    try:
        return adapter.validate_json(frame)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DeviceError(
            f"The other end of the relay says what is no message of one: {where}: {first['msg']}"[:300] + ".",
            hint="Both ends, and the server, have to run the same edgebuild.",
        ) from error
