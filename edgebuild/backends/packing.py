"""Gives compiled artifacts a weights file (docs/weights-file.md) where one pays; what goes into it, a backend says."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, TypeAlias

from edgebuild.backends.protocol import read_notes, write_artifact, write_notes
from edgebuild.core.artifact_files import NOTES, read_artifact
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Artifact

    #: Tensors by name, each with what becomes of it in a weights file; the file's order is theirs.
    Taken: TypeAlias = Mapping[str, tuple[NDArray[Any], bytes]]
    #: Takes weights out of the compiled model in a folder. Its last argument is to be called often.
    Take: TypeAlias = Callable[[Path, Artifact, Callable[[], None]], Taken]

WEIGHTS = "weights.ebw"
#: Decoding takes time at every load: what is packed must shrink to so much.
MOST = 0.75


def pack(source: Path, out_dir: Path, take: Take, check: Callable[[], None]) -> None:
    """Write the artifact in ``source``, a chain too, with a weights file for every model whose files shrink by one.

    An artifact of which none does comes out as it went in.
    """
    _copy(source, out_dir)
    whole = _manifest(out_dir)
    stages = [stage.folder for stage in whole.stages] or [""]
    said = {stage: _packed(source / stage, out_dir / stage, take, check) for stage in stages}
    notes = [f"{stage}: {note}" if stage else note for stage, note in said.items() if note]
    if whole.stages and notes:
        _write(out_dir, whole, dict(whole.load))
    write_notes(out_dir, [*read_notes(source), *notes])


def _copy(source: Path, folder: Path) -> None:
    """Copy files without their modes: a store's are not to be written to."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.name != NOTES:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _packed(source: Path, folder: Path, take: Take, check: Callable[[], None]) -> str:
    """Pack one model in place where that pays, and return what to say of it."""
    from edgebuild.devices.runner import weights_file as form
    from edgebuild.models.weights_file import read_weights, sealed

    artifact = _manifest(source)
    if artifact.size_bytes > form.LIMIT:
        return ""
    taken = take(folder, artifact, check)
    plain, data = sum(value.nbytes for value, _ in taken.values()), sealed([content for _, content in taken.values()])
    left = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "artifact.json")
    if left + len(data) > MOST * artifact.size_bytes:
        _copy(source, folder)
        return ""
    (folder / WEIGHTS).write_bytes(data)
    read = read_weights(folder / WEIGHTS, plain)
    if any(read[name].tobytes() != value.tobytes() for name, (value, _) in taken.items()):
        raise ModelError("The weights file doesn't decode to the weights.", hint="This is a bug of edgebuild.")
    _write(folder, artifact, {**dict(artifact.load), "weights": WEIGHTS, "weights_bytes": plain})
    return f"ships {plain:,} bytes of weights as a weights file of {len(data):,}, decoded at every load"


def _manifest(folder: Path) -> Artifact:
    return read_artifact(folder)


def _write(folder: Path, artifact: Artifact, load: Mapping[str, Any]) -> None:
    write_artifact(
        folder,
        backend=artifact.backend,
        entry=artifact.entry,
        contract=artifact.contract,
        precision=artifact.precision,
        load=tuple(load.items()),
        stages=artifact.stages,
    )
