"""A step: files in, files out, with everything that shaped its output in its key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.core.values import Json


class RunsOn(StrEnum):
    """Where a step runs, and so what its output depends on beside its inputs."""

    HOST = "host"  # pure file work: the same on every machine
    HOST_KERNELS = "host-kernels"  # executes numeric kernels: the ISA is part of the key
    DEVICE = "device"  # runs on the device: the device's platform configuration is part of the key


class Progress(Protocol):
    """Takes progress; never prints by itself."""

    def task(self, title: str, total: float | None = None) -> Task:
        """Open a line of progress; use it as a context manager."""
        ...

    def say(self, text: str) -> None:
        """Tell the user something that stays."""
        ...


class Task(Protocol):
    """One line of progress."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Say that ``amount`` of the total is done."""
        ...

    def __enter__(self) -> Task: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a running step may use beside its inputs.

    ``scratch`` is a folder keyed by the step that survives a kill, for work that can resume. ``check`` raises
    ``Interrupted`` when the user stopped the work or the deadline passed: long loops call it often.
    """

    progress: Progress
    check: Callable[[], None]
    seed: int
    scratch: Path


@runtime_checkable
class Step(Protocol):
    """One unit of cached work: named inputs (a folder or file each) in, a folder out."""

    @property
    def kind(self) -> str:
        """The name of this sort of step."""
        ...

    @property
    def version(self) -> int:
        """Raised whenever the code changes what comes out."""
        ...

    @property
    def runs_on(self) -> RunsOn:
        """Where it runs."""
        ...

    @property
    def tools(self) -> tuple[str, ...]:
        """The distributions whose versions shape the output."""
        ...

    def key_fields(self) -> Mapping[str, Json]:
        """The parameters that shape the output, defaults left out."""
        ...

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Read ``inputs``, write into ``out_dir`` only; complete or raise."""
        ...


class NoProgress:
    """Progress for callers that want none."""

    def task(self, title: str, total: float | None = None) -> NoProgress:
        """Return a task that says nothing."""
        del title, total
        return self

    def say(self, text: str) -> None:
        """Say nothing."""
        del text

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Say nothing."""
        del amount, note

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def never_stop() -> None:
    """Let the work go on: the ``check`` of callers that can't be interrupted."""


def fields_of(step: Any, *, without: Mapping[str, str]) -> dict[str, Json]:
    """Return the fields of a dataclass step that belong into its key: all that differ from their defaults.

    ``without`` names fields that don't, with the reason for each. Raises ``TypeError`` for a field that isn't made of
    plain data and values: whatever text stood for a path, a function or an object would not tell two of them apart, or
    would differ in every process.
    """
    from dataclasses import MISSING, fields

    from edgebuild.core.values import Value

    key: dict[str, Json] = {}
    for field in fields(step):
        value = getattr(step, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name in without or (default is not MISSING and value == default):
            continue
        try:
            key[field.name] = _plain(value, Value)
        except TypeError as error:
            raise TypeError(
                f"{type(step).__name__}.{field.name} can't be part of a key: {error}; "
                "exclude it with the reason, or write key_fields() out"
            ) from error
    return key


def _plain(value: Any, value_type: type) -> Json:
    if isinstance(value, value_type):
        return value.model_dump(mode="json")  # type: ignore[attr-defined,no-any-return]
    if isinstance(value, tuple | list):
        return [_plain(item, value_type) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(item, value_type) for name, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no text of its own")
