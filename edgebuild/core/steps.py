"""A step: files in, files out, with everything that shaped its output in its key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from edgebuild.core.values import Value
from edgebuild.errors import EdgebuildError, EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.core.values import Json


class RunsOn(StrEnum):
    """Where a step runs, and so what its output depends on in addition to its inputs."""

    HOST = "host"  # pure file work: the same on every machine
    HOST_KERNELS = "host-kernels"  # executes numeric kernels: the ISA is part of the key
    DEVICE = "device"  # runs on the device: the device's platform configuration is part of the key


class Progress(Protocol):
    """Takes progress; never prints itself."""

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


class CacheScope(StrEnum):
    """Whether what a step made is found again."""

    STORED = "stored"  # by every later build with the same key
    NEVER = "never"  # by none: nobody says what it depends on


@dataclass(frozen=True, kw_only=True)
class ProjectCode:
    """The user's own code, as steps reach it.

    ``load`` returns the callable of a reference ``module:function``; its module is imported when it is first called.
    ``digest`` stands for all of the project's Python in the keys of steps that use it.
    """

    load: Callable[[str], Callable[..., Any]]
    digest: str


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a running step may use in addition to its inputs.

    ``scratch`` is a folder keyed by the step that survives a kill, for work that can resume. ``check`` raises
    ``Interrupted`` when the user stopped the work or the deadline passed: long loops call it often. ``device`` is how
    the device is reached (``devices.client.client_of``), ``code`` the user's code; None where there is none.
    """

    progress: Progress
    check: Callable[[], None]
    seed: int
    scratch: Path
    device: object | None = None
    code: ProjectCode | None = None

    def load(self, reference: str) -> Callable[..., Any]:
        """Return the user's callable of that name; raises ``EdgebuildError`` where a step runs without their code."""
        if self.code is None:
            raise EdgebuildError(f"{reference} is needed, and there is no project whose code it is.")
        return self.code.load(reference)


class Step(Value):
    """One unit of cached work, and only data: named inputs (a folder or file each) in, a folder out.

    What it works with comes in the context: connections, functions and modules are no fields. Its key is what it is
    (``kind``, ``version``), its fields, its inputs, and what the executor adds: ``tools``, the seed, and depending on
    ``runs_on`` and ``uses_code`` the instruction set, the device's configuration and runner, the user's code.

    One that ``measures`` has its device alone; others share it with what is computed there.

    ``unkeyed`` names the fields that shape nothing that comes out, such as what is shown to people only.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    runs_on: ClassVar[RunsOn]
    tools: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[bool] = False
    unkeyed: ClassVar[frozenset[str]] = frozenset()

    @property
    def uses_code(self) -> bool:
        """Whether the user's code decides what comes out."""
        return False

    @property
    def cache(self) -> CacheScope:
        """Whether what it makes is found again."""
        return CacheScope.STORED

    def all_tools(self) -> tuple[str, ...]:
        """Return the distributions whose versions shape the output."""
        return self.tools

    def key_fields(self) -> dict[str, Json]:
        """Return the parameters that shape the output, those left out that are at their defaults.

        Raises ``TypeError`` for a field that isn't made of plain data and values: whatever text stood for a path, a set
        or an object would not tell two of them apart, or would differ in every process.
        """
        key: dict[str, Json] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            at_default = not field.is_required() and value == field.get_default(call_default_factory=True)
            if name in self.unkeyed or at_default:
                continue
            try:
                key[name] = _plain(value)
            except TypeError as error:
                raise TypeError(
                    f"{type(self).__name__}.{name} can't be part of a key: {error}; name it in unkeyed, or "
                    "give it a type that is plain data"
                ) from error
        return key

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """Read ``inputs``, write into ``out_dir`` only; complete or raise."""
        raise NotImplementedError


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


def require_step(step: object) -> None:
    """Raise ``EnvironmentGap`` for what a plug-in gave as a step and isn't one."""
    if not isinstance(step, Step):
        kind = type(step)
        raise EnvironmentGap(
            f"{kind.__module__}.{kind.__qualname__} is no step.", hint="A step extends edgebuild.plugins.Step."
        )


def _plain(value: Any) -> Json:
    if isinstance(value, Value):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(item) for name, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no text of its own")
