"""The executor: runs steps and owns all caching. Steps never see the store.

A step whose key is stored is not run. Otherwise it gets its inputs as read-only folders, an empty folder for what it
makes, and a scratch folder that survives a kill. What it made is stored when it completed, and never when it failed.
"""

from __future__ import annotations

import copy
import errno
import os
import secrets
import shutil
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.core.record import StepRecord
from edgebuild.core.steps import CacheScope, RunsOn, StepContext, require_step
from edgebuild.core.values import digest_file, digest_json
from edgebuild.errors import DataError, EdgebuildError, Interrupted, StoreError
from edgebuild.execution import history
from edgebuild.execution.disk import FULL, FULL_HINT, has_links, is_folder, remove, store_error
from edgebuild.execution.entries import Entry
from edgebuild.execution.keys import key_of, key_parts, tool_version
from edgebuild.execution.lock import waiting_lock
from edgebuild.execution.manifest import content_digest, list_folder
from edgebuild.execution.turns import HostTurn
from edgebuild.execution.verification import signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from edgebuild.core.steps import Progress, ProjectCode, Step, Task
    from edgebuild.core.values import Json
    from edgebuild.execution.store import Store

#: Below this much free space a failed step is taken to have failed for want of it.
NEARLY_FULL_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ExternalInput:
    """An input from outside the store: a user file or folder, and the digest that stands for it in keys.

    ``stamp`` is how the files looked when they were digested; with it the executor notices a change during a step.
    """

    path: Path
    digest: str
    stamp: str = ""


def external_input(path: Path) -> ExternalInput:
    """Digest a user file or folder. Raises ``DataError`` when it is absent, unreadable or not plain files."""
    try:
        stamp = _stamp(path)
        digest = content_digest(list_folder(path)) if path.is_dir() else digest_file(path)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}", hint="check the path and its permissions") from error
    return ExternalInput(path=path, digest=digest, stamp=stamp)


def _stamp(path: Path) -> str:
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return digest_json([[str(each), *signature(each.stat())] for each in paths])


def _changed(value: ExternalInput) -> bool:
    """Whether the content changed since it was digested; reads it only if the files look different."""
    try:
        return _stamp(value.path) != value.stamp and external_input(value.path).digest != value.digest
    except (OSError, DataError):
        return True


Input: TypeAlias = Entry | ExternalInput
#: Keeps a device, for what its text says, and whether it is shared meanwhile.
Hold: TypeAlias = "Callable[[str, bool], AbstractContextManager[None]]"


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step made, or had made before. ``seconds`` is what this call took; ``why`` says why it ran or didn't."""

    entry: Entry
    path: Path
    reused: bool
    seconds: float
    why: str


class Executor:
    """Runs steps against one store. ``records`` tells what each ran or reused, in order.

    ``check`` raises ``Interrupted`` when the work must stop. ``device`` and ``code`` are what steps find in their
    context: how the device is reached, and the user's code. ``hold`` keeps the device, for what its text says, while a
    step runs there: nothing is computed on a device where another build measures. Steps on the host wait for their
    ``turn``. ``project`` keeps apart the
    histories of projects that share a store.
    """

    def __init__(
        self,
        *,
        store: Store,
        progress: Progress,
        check: Callable[[], None],
        seed: int,
        isa: str,
        device_configuration: Mapping[str, str],
        device: object | None = None,
        code: ProjectCode | None = None,
        hold: Hold | None = None,
        turn: HostTurn | None = None,
        project: str = "",
    ) -> None:
        self._own: list[StepRecord] = []
        self._before: Executor | None = None
        self._store = store
        self._progress = progress
        self._check = check
        self._seed = seed
        self._isa = isa
        self._device_configuration = device_configuration
        self._device, self._code = device, code
        #: Part of the keys of what is never found again: this build alone has it.
        self._session = secrets.token_hex(32)
        self._hold: Hold = hold or (lambda _, __: nullcontext())
        self._turn = turn or HostTurn()
        self._project = project
        # Each is read from its distribution's metadata: once, for the dozens of steps of a build.
        self._version = cache(tool_version)

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """What each step ran or reused so far."""
        return (*(self._before.records if self._before else ()), *self._own)

    @property
    def configuration(self) -> Mapping[str, str]:
        """The platform configuration of the device that device steps run on."""
        return self._device_configuration

    def on(self, configuration: Mapping[str, str], *, device: object, hold: Hold | None = None) -> Executor:
        """Return an executor for another device on the same store; its records begin with all of this one's."""
        other = copy.copy(self)
        other._own, other._before = [], self
        other._device, other._device_configuration = device, configuration
        other._hold = hold or self._hold
        return other

    def run(
        self,
        step: Step,
        inputs: Mapping[str, Input],
        *,
        label: str,
        candidate: str = "",
        recipe: str = "",
        made: Path | None = None,
    ) -> StepResult:
        """Return what ``step`` makes of ``inputs``, from the store where it is there.

        ``label`` names the step in the project, for people; ``candidate`` or ``recipe`` whose work it is, if anyone's.
        ``made`` is a ``work_folder`` with what the step would write, where finding out its key made that: it is taken.
        Errors of the step pass through; Ctrl-C becomes ``Interrupted``. Raises ``EdgebuildError`` when the step wrote
        nothing or changed its inputs, ``StoreError`` when the disk is full or read-only.
        """
        require_step(step)
        started = time.monotonic()
        try:
            self._check()
            parts = self._parts(step, inputs)
            entry, why = self._reuse_or_make(step, inputs, parts, label, made)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted during {label}; what was finished is kept", hint="the same command resumes from here"
            ) from error
        result = StepResult(
            entry=entry, path=entry.path, reused=why is None, seconds=time.monotonic() - started, why=why or "unchanged"
        )
        self._own.append(
            StepRecord(
                label=label,
                kind=step.kind,
                key=entry.key,
                reused=result.reused,
                seconds=result.seconds,
                why=result.why,
                made_s=float(entry.meta.get("seconds", result.seconds)),
                candidate=candidate,
                recipe=recipe,
            )
        )
        return result

    @contextmanager
    def work_folder(self, label: str) -> Iterator[Path | None]:
        """Lend an empty folder beside the store for what ``label`` names; None beside a read-only one.

        It is gone afterwards. Raises ``StoreError`` where the disk under it is full.
        """
        if not self._store.layout.writable:
            yield None
            return
        with self._store.work_folder() as folder, self._disk_failures(label):
            yield folder

    def known(self, label: str) -> bool:
        """Whether the project ever made anything under that label."""
        return history.recall(self._store, self._project, label) is not None

    def stored(self, step: Step, inputs: Mapping[str, Input]) -> bool:
        """Whether ``run`` would find in the store what ``step`` makes of ``inputs``."""
        return self._store.lookup(key_of(self._parts(step, inputs))) is not None

    def _parts(self, step: Step, inputs: Mapping[str, Input]) -> dict[str, Json]:
        digests = {name: value.digest for name, value in inputs.items()}
        parts = key_parts(
            step,
            digests,
            seed=self._seed,
            isa=self._isa,
            device_configuration=self._device_configuration,
            code_digest=self._code.digest if self._code is not None else "",
            version=self._version,
        )
        return parts if step.cache is CacheScope.STORED else {**parts, "session": self._session}

    def _reuse_or_make(
        self, step: Step, inputs: Mapping[str, Input], parts: dict[str, Json], label: str, made: Path | None
    ) -> tuple[Entry, str | None]:
        """Return the entry, and why it was made (None: it was there)."""
        store, key, why = self._store, key_of(parts), None
        entry = store.lookup(key)
        if entry is None:
            store.require_writable(f"running {label}")
            # The device before the key: who holds a device and needs the key must not wait for one that waits for him.
            with self._room(step, label), self._alone(key, label):
                entry = store.lookup(key)  # another build may have finished it while this one waited
                if entry is None:
                    why = self._why(key, parts, label)
                    entry = self._make(step, inputs, parts, label, why, made)
        elif os.path.lexists(store.layout.scratch(key)):
            self._tidy(key, label)
        history.remember(store, self._project, label, parts)
        return entry, why

    def _room(self, step: Step, label: str) -> AbstractContextManager[None]:
        """Where the step runs: on the device, which is held for it, or on the host, when it is this thread's turn."""
        return self._hold(label, not step.measures) if step.runs_on is RunsOn.DEVICE else self._turn.taken(self._check)

    def _tidy(self, key: str, label: str) -> None:
        """Remove the scratch folder of a finished step: whoever made it was killed before it could. Else it stays."""
        with suppress(OSError, StoreError), self._alone(key, label):
            if self._store.lookup(key) is not None:
                remove(self._store.layout.scratch(key))

    def _why(self, key: str, parts: dict[str, Json], label: str) -> str:
        scratch = self._store.layout.scratch(key)
        return history.why_made(
            history.recall(self._store, self._project, label),
            parts,
            damaged=any(damage.key == key for damage in self._store.damaged),
            resumes=scratch.is_dir() and any(scratch.iterdir()),
        )

    def _make(
        self,
        step: Step,
        inputs: Mapping[str, Input],
        parts: dict[str, Json],
        label: str,
        why: str,
        made: Path | None,
    ) -> Entry:
        store, key, started = self._store, key_of(parts), time.monotonic()
        scratch = store.layout.scratch(key)
        with store.work_folder() as out_dir, self._progress.task(label), self._disk_failures(label):
            if has_links(scratch) or not is_folder(scratch):
                remove(scratch)  # what resumes from it would write through a link
                scratch.mkdir()
            context = StepContext(
                progress=self._progress,
                check=self._check,
                seed=self._seed,
                scratch=scratch,
                device=self._device,
                code=self._code,
            )
            if made is None:
                step.run({name: value.path for name, value in inputs.items()}, out_dir, context)
            else:
                for path in made.iterdir():
                    path.rename(out_dir / path.name)
            if not any(path.is_file() for path in out_dir.rglob("*")):
                raise EdgebuildError(f"{label} ended without writing anything ({step.kind}, version {step.version})")
            self._refuse_changed_inputs(inputs, label)
            meta = {"label": label, "parts": parts, "why": why, "seconds": round(time.monotonic() - started, 3)}
            entry = store.commit(key, out_dir, meta)
        remove(scratch)
        return entry

    def _refuse_changed_inputs(self, inputs: Mapping[str, Input], label: str) -> None:
        """Keep a result only when it was made from what its key says."""
        for name, value in inputs.items():
            if isinstance(value, Entry):
                if not self._store.intact(value):
                    self._store.lookup(value.key)  # drops what is damaged
                    raise EdgebuildError(f"the stored input {name!r} was changed while {label} ran")
            elif value.stamp and _changed(value):
                raise DataError(f"{value.path} changed while {label} ran", hint="leave it alone and build again")

    @contextmanager
    def _alone(self, key: str, label: str) -> Iterator[None]:
        """Hold the key's lock: of two builds that need the same step, the second waits and reuses."""
        waits: list[Task] = []

        def waiting(holder: str) -> None:
            if not waits:
                waits.append(self._progress.task(f"{label}: waiting for another build ({holder})").__enter__())

        try:
            with waiting_lock(self._store.layout.lock(key), self._check, waiting):
                for task in waits:
                    task.__exit__(None, None, None)
                waits.clear()
                yield
        finally:
            for task in waits:
                task.__exit__(None, None, None)

    @contextmanager
    def _disk_failures(self, label: str) -> Iterator[None]:
        """A step writes into the store's disk: when that is full, say so, whatever the step's library made of it."""
        try:
            yield
        except EdgebuildError:
            raise
        except OSError as error:
            if error.errno in FULL | {errno.EROFS}:
                raise store_error(error, self._store.root, label) from error
            self._say_if_full(error, label)
            raise
        except Exception as error:
            self._say_if_full(error, label)
            raise

    def _say_if_full(self, error: Exception, label: str) -> None:
        """Raise ``StoreError`` where there is no room left; numpy's own error for that has no number."""
        if shutil.disk_usage(self._store.root).free < NEARLY_FULL_BYTES:
            raise StoreError(
                f"the disk under the store {self._store.root} is full: {label} failed", hint=FULL_HINT
            ) from error
