"""Opens a release in Python, in the runtime that it was measured in: ``edgebuild.runtime.load``.

It is the code that measured it that runs it, so what it answers here is what it answered there.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.backends.table import backends
from edgebuild.core.artifact_files import list_files, read_artifact
from edgebuild.core.values import digest_json
from edgebuild.devices.bundle import module_of
from edgebuild.devices.runner.artifact import Opened
from edgebuild.devices.runner.facts import probe
from edgebuild.devices.runner.feeding import Loop
from edgebuild.devices.runner.protocol import Problem
from edgebuild.errors import EnvironmentGap, ReleaseError
from edgebuild.releasing.board.running import misfits
from edgebuild.releasing.bundle import RELEASE_FILE, read_bundle
from edgebuild.releasing.layout import LAYOUT_FILE
from edgebuild.releasing.unpack import part_of, place_folder, unpack
from edgebuild.releasing.values import ARTIFACT, TargetRelease

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Model:
    """An opened release. Call it with named arrays in the shipped shape, batch included; use it in one thread.

    A recurrent model keeps its state from call to call; ``reset`` starts it again.
    """

    def __init__(self, release: TargetRelease, opened: Opened, scratch: tempfile.TemporaryDirectory[str]) -> None:
        self.release = release
        self._scratch = scratch
        self._session: Any = opened.session()
        self._loop = Loop(self._session, opened.contract)
        outputs = [spec.name for spec in release.contract.outputs]
        self._places = {name: self._session.output_names.index(name) for name in outputs}
        self._inputs = {spec.name: spec for spec in release.contract.inputs}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs of one call by name. Raises ``ReleaseError`` for inputs that the contract doesn't know."""
        if self._session is None:
            raise ReleaseError(f"{self.release.project} was closed.", hint="Load it again.")
        if set(inputs) != set(self._inputs):
            raise ReleaseError(
                f"{self.release.project} takes {', '.join(sorted(self._inputs))}; given were "
                f"{', '.join(sorted(inputs)) or 'none'}."
            )
        named = {name: np.asarray(array) for name, array in inputs.items()}
        for name, spec in self._inputs.items():
            array = named[name]
            fits = len(array.shape) == len(spec.shape) and all(
                not isinstance(want, int) or want == size for want, size in zip(spec.shape, array.shape, strict=True)
            )
            # By dtype, not by its name: a big-endian array has the same name and other bytes.
            if not fits or array.dtype != np.dtype(spec.dtype):
                raise ReleaseError(
                    f"Input {name!r} must be {spec.dtype} of shape {list(spec.shape)}, it is {array.dtype.str} "
                    f"({array.dtype.name}) of {list(array.shape)}."
                )
        found = self._loop.call(self._loop.feed(named))
        return {name: found[place] for name, place in self._places.items()}

    def reset(self) -> None:
        """Start the state of a recurrent model again."""
        self._loop.reset()

    def close(self) -> None:
        """Give back the runtime's session and the files; the model can't be called any more."""
        if self._session is not None:
            self._session.close()
            self._session = None
            self._scratch.cleanup()


def load(release: str | Path, *, target: str | None = None, native_libraries: bool = False) -> Model:
    """Open a bundle, or the folder of an installed release such as ``ROOT/current``.

    ``target`` names one of a bundle's targets. Default: the only one. ``native_libraries`` lets the artifact run the
    native code that it brings. Every byte of the artifact is checked against the digest that the release states, and
    this machine against what it requires, before anything is opened. That the release itself is as its maker left it
    is for `edgebuild release verify`, `install` and `release installed` to say. Raises ``ReleaseError`` where
    something doesn't fit, ``EnvironmentGap`` where the runtime isn't installed.
    """
    folder = Path(release)
    # The folder lives as long as the model: runtimes map their files.
    scratch = tempfile.TemporaryDirectory(prefix="edgebuild-runtime-")
    try:
        described, artifact = _placed(folder, Path(scratch.name), target)
        _require_fit(described, Path(scratch.name))
        opened = Opened({"artifact": str(artifact), "settings": None, "native_libraries": native_libraries})
        return Model(described, opened, scratch)
    except Problem as error:
        scratch.cleanup()
        kind = EnvironmentGap if error.kind == "environment" else ReleaseError
        raise kind(str(error), hint=error.hint) from error
    except BaseException:
        scratch.cleanup()
        raise


def _placed(folder: Path, scratch: Path, target: str | None) -> tuple[TargetRelease, Path]:
    """Put the artifact where it is named by its digest, as the runner wants it; return what the release says of it."""
    if (folder / LAYOUT_FILE).is_file():
        bundle = read_bundle(folder)
        part = part_of(bundle, target)
        described = part.release
        unpack(bundle, part, scratch, lambda path: path.startswith(f"{ARTIFACT}/"))
    else:
        described = _described(folder)
        place_folder(folder / ARTIFACT, scratch / ARTIFACT)
    entries = list_files(scratch / ARTIFACT)
    if read_artifact(scratch / ARTIFACT).digest() != described.artifact_digest:
        raise ReleaseError(f"{folder} doesn't hold the artifact that it says was measured.")
    named = scratch / digest_json([entry.model_dump(mode="json") for entry in entries])
    (scratch / ARTIFACT).rename(named)
    return described, named


def _described(folder: Path) -> TargetRelease:
    try:
        return TargetRelease.model_validate_json((folder / RELEASE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"{folder} is neither a bundle nor an installed release.",
            hint="A bundle is the folder that `edgebuild release create` makes; `current` is what was installed.",
        ) from error


def _require_fit(release: TargetRelease, root: Path) -> None:
    _bring_backend(release.requires.runtime)
    facts = json.loads(json.dumps(probe({"backends": [release.requires.runtime], "root": str(root)})))
    different = misfits(release.requires.model_dump(mode="json"), facts)
    if different:
        raise ReleaseError(
            f"{release.project} {release.version} for {release.target} is for another device: {'; '.join(different)}.",
            hint="Build for this device, or bring it to what was measured.",
        )


def _bring_backend(name: str) -> None:
    """Let the runner's code find a backend's device code, as it does in the runner's own file."""
    table, module = backends(), module_of(name)
    if name not in table:
        raise EnvironmentGap(f"This edgebuild has no backend {name!r}.", hint="Install the package that brings it.")
    if module in sys.modules:
        return
    path = table[name].device_file
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(module, path, submodule_search_locations=package)
    if spec is None or spec.loader is None:
        raise EnvironmentGap(f"{path} can't be imported.")
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    spec.loader.exec_module(made)
