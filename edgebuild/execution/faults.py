"""Whose fault an exception is: what fails inside one candidate's or recipe's work is its result, not the build's end.

One guard for all such work. Every exception is the work's own, bugs of ours and of plug-ins among them, except those
that say that something else is broken: the store, the data, the configuration, the device, or the user's interrupt.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgebuild.core.values import digest_bytes
from edgebuild.errors import (
    EdgebuildError,
    EnvironmentGap,
    Fault,
    Interrupted,
    ModelError,
    RunnerFailed,
    was_interrupted,
    without_passwords,
)
from edgebuild.execution.disk import FULL, store_error
from edgebuild.execution.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

#: Entry points whose packages may fail on a candidate: quantisers, techniques, backends.
PLUGINS = (
    "edgebuild.quantisers",
    "edgebuild.techniques",
    "edgebuild.backends",
    "edgebuild.metrics",
    "edgebuild.devices",
)
#: Where packages are installed; in a virtual environment that may be below the project's folder.
INSTALLED = frozenset({"site-packages", "dist-packages"})
#: Of a foreign exception's own message, a sentence quotes so much.
QUOTED_CHARACTERS = 200

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why some work came to nothing: one sentence, and further notes for the record.

    ``error`` is what a build ends with in which nothing is left. ``unexpected`` says that it was no finding about the
    model: a crash, or a bug. ``report`` is the file with a bug's traceback, ``said`` the end of what a runner that
    failed left on its error output.
    """

    sentence: str
    error: EdgebuildError
    unexpected: bool
    report: str = ""
    said: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a candidate's record says of it in addition to the sentence."""
        said = (f"the end of the runner's error output: {self.said}",) if self.said else ()
        return (*said, *((f"bug report: {self.report}",) if self.report else ()))

    @property
    def with_report(self) -> str:
        """The sentence, and where the bug report lies."""
        return f"{self.sentence} (bug report: {self.report})" if self.report else self.sentence


@dataclass(frozen=True, kw_only=True)
class _Code:
    """Whose code failed and where, how that is said, and which error it is where nothing is left."""

    place: str
    text: str = "a bug in edgebuild"
    error: type[EdgebuildError] = EdgebuildError


class _PluginCode(_Code):
    pass


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Turns what fails in one candidate's or one recipe's work into a value.

    ``alive`` raises ``DeviceError`` where the device itself is gone. ``reports`` is the folder for bug reports, and
    ``project`` the folder of the user's own code; without them no report is written and no code is taken as theirs.
    """

    alive: Callable[[], None]
    reports: Path | None = None
    project: Path | None = None
    command: str = ""

    def attempt(self, what: str, work: Callable[[], T]) -> T | Failure:
        """Return what ``work`` returns, or how it failed. Raises what isn't its fault (see ``failure``)."""
        try:
            return work()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - also what native code panics with, and a stray sys.exit()
            return self.failure(what, error)

    def failure(self, what: str, error: BaseException) -> Failure:
        """Return ``error`` as the failure of ``what``; call it where it was caught.

        Raises it again where it isn't the work's own (``Fault``): one of the surroundings (a full disk is one) or of
        the user, unless a plug-in raised the latter itself.
        """
        if was_interrupted(error) and not isinstance(error, Interrupted):
            raise Interrupted(f"interrupted during {what}; what was finished is kept") from error
        if isinstance(error, OSError) and error.errno in FULL:
            raise store_error(error, self.reports or Path(), what) from error
        if isinstance(error, RunnerFailed):
            self.alive()
            return Failure(sentence=error.sentence, error=error, unexpected=True, said=error.said)
        fault = error.fault if isinstance(error, EdgebuildError) else Fault.BUG
        blame = _blame(error, self.project)
        if fault is Fault.SURROUNDINGS or (fault is Fault.USER and not isinstance(blame, _PluginCode)):
            raise error
        if isinstance(error, EdgebuildError) and fault is not Fault.BUG:
            return Failure(sentence=error.message, error=error, unexpected=False)
        return self._bug(what, error, blame)

    def _bug(self, what: str, error: BaseException, blame: _Code) -> Failure:
        kind = blame.error
        if isinstance(error, EdgebuildError):
            sentence = f"{blame.text}: {error.message}"
        elif isinstance(error, MemoryError):
            kind = EnvironmentGap
            sentence = f"there is too little memory on this machine: MemoryError in {blame.place}"
        else:
            said = _quoted(error)
            sentence = f"{blame.text}: {type(error).__name__} in {blame.place}" + (f" ({said})" if said else "")
        path = self._report(what, sentence, error)
        raised = kind(f"{what}: {sentence}", hint=f"The bug report is {path}." if path else "")
        raised.__cause__ = error
        return Failure(sentence=sentence, error=raised, unexpected=True, report=path)

    def _report(self, what: str, sentence: str, error: BaseException) -> str:
        """Write the traceback with versions and return where; the same failure again writes the same file."""
        if self.reports is None:
            return ""
        lines = [
            f"{what}: {sentence}",
            f"command: {self.command}",
            *(f"{name} {version}" for name, version in installed_versions()),
            "",
            *traceback.format_exception(error),
        ]
        text = without_passwords("\n".join(lines)).encode("utf-8", "backslashreplace")
        path = self.reports / f"bug-{digest_bytes(text)[:12]}.txt"
        try:
            self.reports.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        except OSError as failed:
            raise store_error(failed, self.reports, "writing a bug report") from error
        return os.path.relpath(path, self.project) if self.project is not None else str(path)


def plugin_failure(error: BaseException) -> EnvironmentGap | None:
    """Return what a plug-in raised outside any candidate's work (while planning, say) as an error; None if none did."""
    blame = _blame(error, None)
    if not isinstance(blame, _PluginCode):
        return None
    said = _quoted(error)
    sentence = f"{type(error).__name__} in {blame.place}" + (f" ({said})" if said else "")
    return EnvironmentGap(f"{blame.text}: {sentence}", hint="Tell its authors, or uninstall it.")


def _blame(error: BaseException, project: Path | None) -> _Code:
    """Return whose code failed: the innermost frame that is edgebuild's, a plug-in's or the user's."""
    plugins = tuple(_plugin_roots())
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    for path, line in reversed(frames):
        if path.is_relative_to(_PACKAGE) and path != Path(__file__):
            return _Code(place=f"{path.relative_to(_PACKAGE)}:{line}")
        for root, name in plugins:
            if path.is_relative_to(root):
                place = f"{path.relative_to(root) if path != root else path.name}:{line}"
                return _PluginCode(place=place, text=f"a bug in the plug-in {name}", error=EnvironmentGap)
        if project is not None and path.is_relative_to(project) and not INSTALLED & set(path.parts):
            text = "an error in the project's own code"
            return _Code(place=f"{path.relative_to(project)}:{line}", text=text, error=ModelError)
    return _Code(place=f"{frames[-1][0].name}:{frames[-1][1]}" if frames else "an unknown place")


def _quoted(error: BaseException) -> str:
    """Return the first line of what an exception says, on one line and not too long."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - even this is a foreign class's own code
        return ""
    line = without_passwords(next((line.strip() for line in text.splitlines() if line.strip()), ""))
    shown = "".join(c if c.isprintable() else "?" for c in line)
    return shown if len(shown) <= QUOTED_CHARACTERS else f"{shown[:QUOTED_CHARACTERS]}…"


def _plugin_roots() -> Iterator[tuple[Path, str]]:
    """Yield the folder (or file) of every package that brings a plug-in and is imported, and how it is called."""
    import sys

    for group in PLUGINS:
        for entry in entry_points(group=group):
            top = entry.module.partition(".")[0]
            file = getattr(sys.modules.get(top), "__file__", None)
            if top == "edgebuild" or file is None:
                continue
            path = Path(file)
            name = entry.dist.name if entry.dist is not None else top
            yield path.parent if path.name == "__init__.py" else path, name
