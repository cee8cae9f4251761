"""What a backend is: it compiles for one runtime on the host, and its ``device.py`` runs the result on the device.

``device.py`` (or a package ``device/``, whose modules import each other relatively) is Python 3.8, standard library +
the runtime + the numpy that it brings, and imports nothing of edgebuild (it travels alone). It exports:

- ``version() -> str | None``: the runtime's version, None where it isn't installed.
- ``load_runtime() -> None``: imports the runtime; raises ``ImportError``.
- ``class Session(artifact, folder, settings)``: ``run(inputs) -> outputs``, from a dict of arrays by ``input_names``
  (exactly these) to a list of arrays in the order of ``output_names``; synchronous, copies included. The arrays that it
  returns are the caller's: no later call writes to them. ``close()`` frees the model. ``artifact`` is the content of
  artifact.json.
- ``layers(artifact, folder, settings, inputs)``: a list of {name, op, precision, time_us}, read back from the runtime;
  ``inputs`` maps every input's name to an array.
- optionally ``class Flight(artifact, folder, settings)``: a session that answers several calls at once. ``callers``
  holds a ``run(inputs) -> outputs`` for each request in flight; each is called from a thread of its own, and must let
  the others run meanwhile. Without it throughput is measured one request at a time, and the record says so.
- optionally ``compile(model, out, options) -> dict``: compiles the file ``model`` into the folder ``out`` there. One
  that takes ``tell`` too is given ``tell(phase, done, total)`` to say how far it is.
- optionally ``facts() -> dict``: what the runtime says of the device in addition to its version, for the probe.
- optionally ``accelerator_memory() -> dict``: {source, used_bytes} of memory that isn't the process's own.
- optionally ``Session.device_ns``: the accelerator's own time in the last ``run``, copies left out.

Where artifact["load"] names a weights file ("weights", and as "weights_bytes" what comes out of it), the runner decodes
it, and ``Session``, ``Flight`` and ``layers`` get a keyword ``weights``: its tensors by name. Only a backend that is a
``Packing`` makes such artifacts.

What it raises with an attribute ``kind`` of "model", "data" or "environment" is shown to the user as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from edgebuild.core.artifact import Artifact, Contract, Precision, Setting
from edgebuild.core.artifact_files import MANIFEST, NOTES, list_files, write_manifest
from edgebuild.core.values import Value
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.core.artifact import Stage
    from edgebuild.core.steps import Step

Settings: TypeAlias = tuple[tuple[str, Setting], ...]


@dataclass(frozen=True, kw_only=True)
class SettingSpec:
    """One runtime setting: what it means and what it may be. ``choices`` are the only values where given."""

    name: str
    type: type[bool] | type[int] | type[str]
    meaning: str
    choices: tuple[Setting, ...] = ()
    least: int = 0


class CompileRequest(Value):
    """How a model is compiled. A variant of a model is compiled as the model is: by the same request, but its contract.

    ``on_device`` lets a backend compile on the device where that is better; false where there is none. ``libraries``
    are custom-op libraries. ``accelerator`` is the profile's; ``features`` are those of the profile's kernels that the
    candidate's recipe is made for.
    """

    precision: Precision
    contract: Contract
    on_device: bool = False
    libraries: tuple[Path, ...] = ()
    accelerator: str | None = None
    features: tuple[str, ...] = ()


@runtime_checkable
class Backend(Protocol):
    """One runtime. A new one is a folder with these names, a line in the table (or an entry point), and a test."""

    @property
    def name(self) -> str:
        """The name that profiles and artifacts use."""
        ...

    @property
    def device_file(self) -> Path:
        """Its ``device.py``, or the ``__init__.py`` of its ``device/``."""
        ...

    @property
    def install_hint(self) -> str:
        """The command that installs the runtime."""
        ...

    @property
    def distributions(self) -> tuple[str, ...]:
        """What brings the runtime to a board's Python, as pip names it; empty where it doesn't come as wheels."""
        ...

    @property
    def settings(self) -> tuple[SettingSpec, ...]:
        """Every runtime setting that an artifact for it may carry."""
        ...

    def installed(self) -> str | None:
        """Return the version of the runtime on this host, or None; imports nothing heavy."""
        ...

    def default_settings(self, cores: int) -> Settings:
        """Return the settings to start from on a device with ``cores`` cores."""
        ...

    def refuse(self, precision: Precision, facts: Mapping[str, str]) -> str | None:
        """Return why this precision can't be built for a device with these facts (a flattened probe), or None.

        Asked while planning. A fact that is missing or "unknown" refuses nothing, but a runtime that is "unknown".
        """
        ...

    def compile_step(self, request: CompileRequest) -> Step:
        """Return the step that turns {"model": folder with model.onnx} into an artifact folder with artifact.json.

        All of ``request`` shapes what comes out. What the backend doesn't have is refused (``check_request``).
        """
        ...


@runtime_checkable
class Packing(Protocol):
    """A backend that can also ship weights in a weights file (docs/weights-file.md)."""

    def pack_step(self) -> Step:
        """Return the step that turns {"artifact": compiled artifact} into the same one with weights files that pay."""
        ...


def write_notes(folder: Path, notes: Sequence[str]) -> None:
    """Leave what a reader of the candidate should know next to its artifact; it is no part of what ships."""
    (folder / NOTES).write_text(json.dumps(list(notes), indent=1) + "\n", encoding="utf-8")


def read_notes(folder: Path) -> tuple[str, ...]:
    """Return what the step that compiled an artifact had to say of it."""
    path = folder / NOTES
    return tuple(json.loads(path.read_bytes())) if path.is_file() else ()


def check_settings(backend: Backend, settings: Settings) -> None:
    """Raise ``UsageError`` for a setting that the backend doesn't have or a value that it can't take."""
    specs = {spec.name: spec for spec in backend.settings}
    for name, value in settings:
        spec = specs.get(name)
        if spec is None:
            raise UsageError(
                f"{backend.name} has no runtime setting {name!r}.", hint=f"It has {', '.join(sorted(specs))}."
            )
        fits = type(value) is spec.type and (not spec.choices or value in spec.choices)
        if not fits or (isinstance(value, int) and not isinstance(value, bool) and value < spec.least):
            allowed = " or ".join(str(c) for c in spec.choices) or f"{spec.type.__name__} of {spec.least} or more"
            raise UsageError(f"{backend.name}: {name} = {value!r} is not {allowed}.", hint=spec.meaning)


def check_request(
    backend: Backend, request: CompileRequest, *, accelerators: tuple[str, ...] = (), features: tuple[str, ...] = ()
) -> None:
    """Raise ``UsageError`` for an accelerator or a feature in ``request`` that the backend doesn't have."""
    asked = ("" if request.accelerator is None else request.accelerator,)
    for what, wanted, known in (("accelerator", asked, accelerators), ("feature", request.features, features)):
        for name in wanted:
            if name and name not in known:
                raise UsageError(
                    f"{backend.name} has no {what} {name!r}.",
                    hint=f"The profile may name {' or '.join(map(repr, known))}." if known else "",
                )


def write_artifact(
    folder: Path,
    *,
    backend: str,
    entry: str,
    contract: Contract,
    precision: Precision,
    load: Settings = (),
    stages: tuple[Stage, ...] = (),
) -> Artifact:
    """Write ``artifact.json`` over the files that lie in ``folder`` and return it."""
    files = tuple(file for file in list_files(folder) if file.path not in (MANIFEST, NOTES))
    artifact = Artifact(
        backend=backend,
        entry=entry,
        files=files,
        contract=contract,
        precision=precision,
        load=tuple(sorted(load)),
        stages=stages,
    )
    write_manifest(folder, artifact)
    return artifact
