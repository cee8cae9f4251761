"""What a device may answer, one schema per operation; ``RunnerClient.call`` checks every answer before it returns.

A device is not trusted: it may be damaged, out of memory, of another version, or somebody else's. Numbers are finite
and in range, texts and lists bounded, files named without a path and with the digest that they must have when they
arrive. Fields that no schema knows are dropped.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from edgebuild.core.artifact import DType
from edgebuild.core.values import Value
from edgebuild.devices.messages import one_line
from edgebuild.devices.transport import MAX_FILE_BYTES
from edgebuild.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What a device may say of itself: this many readings, each of this many characters.
MAX_READINGS = 4_000
MAX_TEXT = 16_384
#: Longer than anything that is measured, in seconds.
MAX_SECONDS = 1e8


def _file_name(name: str) -> str:
    if name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError("should be the name of a file in the folder that was asked for")
    return name


Count = Annotated[int, Field(ge=0, le=1 << 53)]
Positive = Annotated[int, Field(ge=1, le=1 << 53)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
FileName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_file_name)]
FileBytes = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Exits = Annotated[tuple[tuple[Text, Count], ...], Field(max_length=64)]


class Answer(Value):
    """The base of all answers: what isn't known is dropped, and nothing is taken for another type."""

    model_config = ConfigDict(extra="ignore")


class RemoteFile(Answer):
    """A file that lies on the device, and what it must be when it arrives."""

    name: FileName
    sha256: Digest
    size_bytes: FileBytes


class Event(Answer):
    """A word before the answer: how far the work is, or what became of a hold."""

    event: Literal["progress", "waiting", "held", "pinned", "ready", "burst"]
    phase: Text = ""
    done: Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)] | None = None
    total: Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)] | None = None
    holder: Text = ""
    attempt: Count | None = None
    available_bytes: Count | None = None


class Probed(Answer):
    """What a device says of itself: readings by name, nested once; backends bring readings of their own."""

    model_config = ConfigDict(extra="allow")

    runtime: dict[Text, Text]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        todo: list[Any] = [self.model_dump()]
        seen = 0
        while todo:
            inner = todo.pop()
            seen += 1
            if seen > MAX_READINGS or (isinstance(inner, str) and len(inner) > MAX_TEXT):
                raise ValueError(f"should be at most {MAX_READINGS} readings of {MAX_TEXT} characters each")
            if isinstance(inner, dict):
                todo += [*inner, *inner.values()]
            elif isinstance(inner, list | tuple):
                todo += inner
        return self


class Staged(Answer):
    """Where a folder was put together, or the digests of what has to be sent first."""

    path: Text = ""
    reused: bool = False
    missing: Annotated[tuple[Digest, ...], Field(max_length=100_000)] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> Staged:
        if bool(self.path) == bool(self.missing):
            raise ValueError("either a path or what is missing")
        return self


class OutputFile(Answer):
    """One output of an evaluation, and its file: axis 0 of ``shape`` are the frames."""

    name: Annotated[str, Field(max_length=1 << 20)]
    file: FileName
    sha256: Digest
    size_bytes: FileBytes
    dtype: DType
    shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=32)]
    non_finite: Count
    first_non_finite_frame: Count | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        values = math.prod(self.shape)
        if self.non_finite > values or values > MAX_FILE_BYTES:
            raise ValueError("should hold as many values as its shape says")
        return self


class Evaluated(Answer):
    """The outputs of a whole data set."""

    frames: Positive
    samples: Positive
    batch: Positive
    seconds: Seconds
    outputs: Annotated[tuple[OutputFile, ...], Field(min_length=1, max_length=10_000)]
    non_finite: Count
    exits: Exits = ()

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if any(output.shape[0] != self.frames for output in self.outputs):
            raise ValueError("should hold one row of every output for each frame")
        if self.non_finite != sum(output.non_finite for output in self.outputs):
            raise ValueError("should count the values that aren't finite as its outputs do")
        return self


class Reading(Answer):
    """One fact of a launch's environment."""

    name: Text
    value: Text


class Launched(Answer):
    """One launch; the raw samples lie in the file ``samples``."""

    samples: Literal["samples.i64"]
    samples_sha256: Digest
    count: Annotated[int, Field(ge=1, le=1_000_000)]
    median_ns: Positive
    mean_ns: Positive | None = None
    exits: Exits = ()
    start_s: Seconds | None = None
    import_s: Seconds
    load_s: Seconds
    decode_s: Seconds | None = None
    decoded_bytes: Count | None = None
    warm_load_s: Seconds | None = None
    first_inference_s: Seconds
    warmup_inferences: Count
    settled: bool
    page_cache: Literal["warm", "cold", "unknown"]
    environment: Annotated[tuple[Reading, ...], Field(max_length=512)]
    invalid: Annotated[tuple[Text, ...], Field(max_length=64)]

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if bool(self.exits) != (self.mean_ns is not None) or sum(n for _, n in self.exits) not in (0, self.count):
            raise ValueError("should say of every inference at which exit it ended, and their mean")
        return self


class Paced(Launched):
    """One launch whose samples were taken in bursts, in their order."""

    bursts: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=100_000)]

    @model_validator(mode="after")
    def _all_of_them(self) -> Self:
        if sum(self.bursts) != self.count:
            raise ValueError("should hold as many samples as its bursts")
        return self


class Flown(Launched):
    """One launch with several requests in flight: the samples are starts, then ends."""

    requests: Annotated[int, Field(ge=1, le=65_536)]
    concurrent: bool
    per_s: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class Remembered(Answer):
    """Peak memory, in bytes."""

    baseline_bytes: Count
    load_peak_bytes: Count
    inference_peak_bytes: Count
    pss_peak_bytes: Count | None = None
    decode_peak_bytes: Count | None = None
    emulator_bytes: Count | None = None


class Spent(Answer):
    """Energy per inference, or that there is no sensor."""

    sensor: Literal["unknown"] | None = None
    rail: Text | None = None
    gross_j_per_inference: Number | None = None
    net_j_per_inference: Number | None = None
    idle_w: Number | None = None
    load_w: Number | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        figures = (self.rail, self.gross_j_per_inference, self.net_j_per_inference, self.idle_w, self.load_w)
        known = sum(figure is not None for figure in figures)
        if known != (0 if self.sensor else len(figures)):
            raise ValueError("should be all figures of energy, or that there is no sensor")
        return self


class RunLayer(Answer):
    """One layer as the runtime runs it."""

    name: Annotated[str, Field(max_length=1 << 20)]
    op: Text
    precision: Text
    time_us: Seconds | None = None


class Layers(Answer):
    """All layers as the runtime runs them."""

    layers: Annotated[tuple[RunLayer, ...], Field(max_length=200_000)]


class Counted(Answer):
    """How many inferences ran between the marks."""

    inferences: Annotated[int, Field(ge=1, le=1_000_000)]


class Compiled(Answer):
    """The files that a backend's device code wrote. What else it says is checked by that backend's ``host.py``."""

    model_config = ConfigDict(extra="allow")

    files: Annotated[tuple[RemoteFile, ...], Field(max_length=10_000)]


class BoardPythonAnswer(Answer):
    """What wheels are chosen by."""

    version: tuple[Annotated[int, Field(ge=0, le=999)], Annotated[int, Field(ge=0, le=999)]]
    implementation: Annotated[str, Field(max_length=64)]
    bits: Annotated[int, Field(ge=1, le=1024)]
    arch: Annotated[str, Field(max_length=64)]
    libc: Annotated[str, Field(max_length=64)]
    free_bytes: Count
    markers: Annotated[dict[Text, Text], Field(max_length=64)]


class SiteFound(Answer):
    """What lies on a board of the packages that it is to have."""

    complete: bool
    there_bytes: Count


class Installed(Answer):
    """Where packages were put."""

    path: Text


#: Every operation whose answer is waited for, and what it must look like.
SCHEMAS: Mapping[str, type[Answer]] = {
    "probe": Probed,
    "stage": Staged,
    "evaluate": Evaluated,
    "measure": Launched,
    "bursts": Paced,
    "throughput": Flown,
    "memory": Remembered,
    "energy": Spent,
    "layers": Layers,
    "count": Counted,
    "compile": Compiled,
    "python": BoardPythonAnswer,
    "site": SiteFound,
    "install": Installed,
}


def checked(schema: type[Answer], fields: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Return what ``schema`` knows of ``fields``, as plain data; raises ``DeviceError`` with the first fault.

    Fields that were left out stay out.
    """
    try:
        # By way of JSON, so that a list is a tuple and yet nothing else is taken for what it isn't.
        found = schema.model_validate_json(json.dumps(fields), strict=True)
    except (ValidationError, ValueError, RecursionError) as error:
        raise DeviceError(
            f"{who} answers what makes no sense: {_first(error)}.",
            hint="Nothing of it was kept. Try again; if it happens again, the device or its runner is damaged.",
        ) from error
    return found.model_dump(mode="json", exclude_unset=True)


def answered(op: str, fields: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Return the answer to an operation, checked; raises ``DeviceError``."""
    schema = SCHEMAS.get(op)
    if schema is None:
        raise DeviceError(f"{who} answers to {op!r}, which nobody knows.", hint="The runner and this edgebuild differ.")
    return checked(schema, fields, who)


def outputs_of(answer: Mapping[str, Any]) -> tuple[RemoteFile, ...]:
    """Return the files of an evaluation."""
    return tuple(
        RemoteFile(name=output["file"], sha256=output["sha256"], size_bytes=output["size_bytes"])
        for output in answer["outputs"]
    )


def samples_of(answer: Mapping[str, Any]) -> RemoteFile:
    """Return the file of a launch's raw samples: an int64 for each, and two where several requests were in flight."""
    size = 8 * answer["count"] * (2 if "requests" in answer else 1)
    return RemoteFile(name=answer["samples"], sha256=answer["samples_sha256"], size_bytes=size)


def files_of(answer: Mapping[str, Any], names: Sequence[str], who: str) -> tuple[RemoteFile, ...]:
    """Return the named files of what a device compiled; raises ``DeviceError`` for one that it didn't write."""
    there = {file["name"]: file for file in answer["files"]}
    missing = [name for name in names if name not in there]
    if missing:
        raise DeviceError(f"{who} wrote no {missing[0]}.", hint="Try again.")
    return tuple(RemoteFile.model_validate(there[name]) for name in names)


def _first(error: Exception) -> str:
    """Say where the first fault is and what is wrong; it may hold text of the device's."""
    if not isinstance(error, ValidationError):
        return one_line(str(error))[:300]
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))[:100]
    what = fault["msg"].removeprefix("Value error, ")
    return one_line(f"{where}: {what}" if where else what)[:300]
