"""Every error edgebuild raises on purpose, and the exit code each one ends in.

::

    EdgebuildError ............. 1   our bug when nothing below fits
    ├── UsageError ............. 2   a command, option or API call that makes no sense
    │   └── ConfigError ........ 2   edgebuild.toml, a target or a profile; lists *all* problems found
    ├── ModelError ............. 2   the user's model can't be loaded, exported or trusted
    ├── DataError .............. 2   the user's data or metric can't be used
    ├── BudgetMissed ........... 3   a result: no candidate stays inside the budget
    ├── Inconclusive ........... 4   a result: the data can't certify the budget
    ├── OutOfTime .............. 4   work that would have outrun the time asked for, inside a build
    ├── NoTimeToWait ........... 4   another build keeps the device until the time asked for is over
    ├── DeviceError ............ 5   the device failed, is out of reach or spoke nonsense
    │   ├── RunnerFailed ....... 5   one runner crashed, was killed or hung; in a build its candidate's result
    │   └── Disturbed .......... 5   the device answers, and is too busy for any launch to count
    ├── EnvironmentGap ......... 6   something isn't installed, or isn't possible on this machine
    │   └── StoreError ......... 6   the store is full, read-only or locked by another build
    ├── ReleaseError ........... 7   a release that was changed, isn't trusted, or doesn't fit this device
    └── Interrupted ............ 130 Ctrl-C, or a time limit of the user's

A message is one sentence that says what went wrong and where; ``hint`` says how to fix it.
Foreign exceptions are wrapped where they enter, with ``raise … from``.
"""

from __future__ import annotations

import re
import threading
from enum import StrEnum
from typing import ClassVar

#: What stands between :// and @ in a URL. A secret may hold slashes, as Amazon's do.
_USERINFO = re.compile(r"://(?:[^\s/@]*|[^\s@]*:[^\s@]*)@")


class Fault(StrEnum):
    """Whose fault an error is, and so whether one candidate or the whole build ends with it."""

    CANDIDATE = "candidate"  # of this model, recipe or runtime: the others may do better
    RUNNER = "runner"  # of one process on a device, as long as the device itself answers
    USER = "user"  # of what the user gave: the same for every candidate
    SURROUNDINGS = "surroundings"  # of the device, the store, or somebody who stopped the work
    BUG = "bug"  # ours, or a plug-in's


class EdgebuildError(Exception):
    """The root. ``exit_code`` is what the command line ends with, ``fault`` says whose fault it is."""

    exit_code: ClassVar[int] = 1
    fault: ClassVar[Fault] = Fault.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(without_passwords(message))
        self.message = without_passwords(message)
        self.hint = without_passwords(hint)


def without_passwords(text: str) -> str:
    """Return a text in which no URL shows its user and password: messages go to logs, records and other people."""
    return _USERINFO.sub("://…@", text)


class UsageError(EdgebuildError):
    """A command, an option or an API call that makes no sense."""

    exit_code = 2
    fault = Fault.USER


class ConfigError(UsageError):
    """A configuration file with one or more problems; ``problems`` holds a sentence for each of them."""

    def __init__(self, source: str, problems: tuple[str, ...], *, hint: str = "") -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {p}" for p in problems), hint=hint)
        self.source = source
        self.problems = problems


class ModelError(EdgebuildError):
    """The user's model can't be loaded, exported or trusted."""

    exit_code = 2
    fault = Fault.CANDIDATE


class DataError(EdgebuildError):
    """The user's data or metric can't be used."""

    exit_code = 2
    fault = Fault.USER


class BudgetMissed(EdgebuildError):
    """No candidate stays inside the budget: a result, with the best candidate kept."""

    exit_code = 3
    fault = Fault.CANDIDATE


class Inconclusive(EdgebuildError):
    """The data can't certify the budget: a result."""

    exit_code = 4
    fault = Fault.CANDIDATE


class OutOfTime(EdgebuildError):
    """Work was stopped because the rest of the time asked for is needed for what must follow it."""

    exit_code = 4
    fault = Fault.CANDIDATE


class NoTimeToWait(EdgebuildError):
    """Another build has the device, and the time asked for doesn't last until it gives it back; all made is kept."""

    exit_code = 4
    fault = Fault.SURROUNDINGS


class DeviceError(EdgebuildError):
    """A device or its runner failed, hung, or spoke nonsense."""

    exit_code = 5
    fault = Fault.SURROUNDINGS


class RunnerFailed(DeviceError):
    """One process on a device crashed, was killed, hung or failed, which says nothing of the device itself.

    ``said`` is the end of its error output.
    """

    fault = Fault.RUNNER

    def __init__(self, message: str, *, hint: str = "", said: str = "") -> None:
        super().__init__(f"{message}\nThe end of its error output:\n{said}" if said else message, hint=hint)
        self.sentence = message
        self.said = said


class Disturbed(DeviceError):
    """The device does its work, and something else on it takes so much time that no launch counts."""


class ReleaseError(EdgebuildError):
    """A release that was changed since it was made, isn't signed by whom it should be, or doesn't fit this device."""

    exit_code = 7
    fault = Fault.USER


class EnvironmentGap(EdgebuildError):
    """Something isn't installed, or isn't possible on this machine."""

    exit_code = 6
    fault = Fault.CANDIDATE


class StoreError(EnvironmentGap):
    """The store is full, read-only, or locked by another build."""

    fault = Fault.SURROUNDINGS


class Interrupted(EdgebuildError):
    """The user stopped the work; what was finished is kept."""

    exit_code = 130
    fault = Fault.SURROUNDINGS


#: Set once a Ctrl-C came, where the command line asked to be told: see ``was_interrupted``.
CTRL_C = threading.Event()


def was_interrupted(error: BaseException) -> bool:
    """Whether a Ctrl-C became this exception: libraries wrap what interrupts them.

    Native code that is just being imported may even lose it, and raise an ImportError or SystemError without a cause:
    what fails after a Ctrl-C failed because of it.
    """
    if CTRL_C.is_set():
        return True
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, KeyboardInterrupt):
            return True
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            todo += [one.__cause__, one.__context__]
    return False
