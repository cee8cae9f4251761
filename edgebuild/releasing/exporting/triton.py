"""A model repository of Triton's: ``MODEL/config.pbtxt`` and ``MODEL/1/`` with the artifact, or the fp32 fallback.

The artifact goes along where a server's runtime opens it as edgebuild does. Triton brings a runtime of its own, so what
was compiled for one version, one processor or with options of ours isn't opened there, or answers otherwise.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.artifact_files import MANIFEST, MAX_MANIFEST_BYTES, read_artifact
from edgebuild.core.golden import FALLBACK, FALLBACK_MODEL
from edgebuild.errors import ModelError, ReleaseError
from edgebuild.models.onnx_files import load_onnx, read_facts
from edgebuild.releasing.exporting.pbtxt import config_text
from edgebuild.releasing.exporting.values import strange

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.artifact import Artifact, Contract
    from edgebuild.releasing.exporting.values import Wish

#: Runtimes of ours that Triton has a backend for, and the suffix of what each opens.
BACKENDS = {"onnxruntime": ".onnx", "openvino": ".xml"}
#: What an artifact must be told to be opened right, and Triton's backends aren't: why it stays behind.
TOLD = {
    "optimized": "it was optimised for one version of ONNX Runtime and one kind of processor",
    "libraries": "it needs native libraries of its own",
    "disabled": "it is wrong with the optimisations that a server makes",
    "bf16": "its arithmetic is bf16 only by an option",
    "unpack": "its weights are only stored in 8 bits, and a server would compute in 8 bits too",
    "weights": "its weights lie in a file of edgebuild's",
}
_UNSEEN = "Neither this configuration nor the model in a server was ever tried with Triton: do so before it serves."


def write(wish: Wish, to: Path) -> tuple[str, ...]:
    """Write the repository as a folder, and return what the user should know of it."""
    name = wish.called
    version = to / name / "1"
    version.mkdir(parents=True)
    artifact = _artifact(wish, to / ".scratch")
    reason = why_not(artifact)
    if reason is None:
        _place(wish, wish.part.release.artifact, {entry.path: entry.sha256 for entry in artifact.files}, version)
        backend, filename = artifact.backend, artifact.entry
        inputs, outputs = called_with(artifact.contract)
        notes = [f"It serves the artifact that was measured, {filename}, in another build of {backend}."]
    else:
        _place(wish, FALLBACK, None, version)
        backend, filename = "onnxruntime", FALLBACK_MODEL
        inputs, outputs = _interface(version / filename)
        notes = [f"It serves the model in fp32, and not the artifact that was measured: {reason}."]
    text = config_text(name=name, backend=backend, filename=filename, inputs=inputs, outputs=outputs)
    (to / name / "config.pbtxt").write_text(text, encoding="ascii")
    if artifact.contract.state:
        notes.append("The model has a state: clients send each state output back as the input of the next call.")
    if artifact.contract.constants:
        notes.append("Inputs that never change are inputs for clients too.")
    return (*notes, _UNSEEN)


def why_not(artifact: Artifact) -> str | None:
    """Return why Triton can't open an artifact as edgebuild does; None where it can."""
    if artifact.backend not in BACKENDS:
        return f"Triton has no backend that opens what was compiled for {artifact.backend}"
    if artifact.stages:
        return "it is a chain of several models"
    if "/" in artifact.entry or not artifact.entry.endswith(BACKENDS[artifact.backend]):
        return f"{artifact.entry!r} isn't what its backend opens"
    return next((reason for option, reason in TOLD.items() if dict(artifact.load).get(option)), None)


def called_with(contract: Contract) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return all that the model itself takes and gives: constants and states are fed by the client of a server."""
    constants = tuple(TensorSpec(name=each.name, shape=each.shape, dtype=each.dtype) for each in contract.constants)
    states = {spec.name: spec for spec in contract.state_specs}
    known = {spec.name for spec in contract.outputs}
    links = [link for link in contract.state if link.output not in known]
    if any(link.input not in states for link in contract.state):
        raise strange("The contract doesn't say what a state of the model is like.")
    given = tuple(states[link.input].model_copy(update={"name": link.output}) for link in links)
    return (*contract.inputs, *constants, *contract.state_specs), (*contract.outputs, *given)


def _artifact(wish: Wish, scratch: Path) -> Artifact:
    """Return what the artifact's manifest says, read from a copy in ``scratch``, which is removed again."""
    target = wish.part.release.target
    descriptor = wish.part.files().get(f"{wish.part.release.artifact}/{MANIFEST}")
    if descriptor is None:
        raise strange(f"The release for {target} has no artifact where it says.")
    scratch.mkdir()
    (scratch / MANIFEST).write_bytes(wish.bundle.layout.read(descriptor, limit=MAX_MANIFEST_BYTES))
    try:
        return read_artifact(scratch)
    except ModelError as error:
        raise ReleaseError(f"The artifact for {target} can't be read: {error.message}") from error
    finally:
        shutil.rmtree(scratch)


def _place(wish: Wish, folder: str, digests: Mapping[str, str] | None, to: Path) -> None:
    """Put the files of a folder of the target into ``to``, all or those of these digests, each checked as it comes."""
    files = {
        path.removeprefix(f"{folder}/"): descriptor
        for path, descriptor in wish.part.files().items()
        if path.startswith(f"{folder}/")
    }
    wanted = files.keys() if digests is None else digests.keys()
    if not wanted or any(path not in files for path in wanted):
        raise strange(f"The release for {wish.part.release.target} lacks files in {folder}/.")
    for path in sorted(wanted):
        if digests is not None and files[path].sha256 != digests[path]:
            raise strange(f"{folder}/{path} isn't what the artifact lists.")
        place = to / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as out:
            for chunk in wish.bundle.layout.chunks(files[path]):
                out.write(chunk)


def _interface(model: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Read what an ONNX file takes and gives: where a recipe changed the artifact's shapes, this one has others."""
    try:
        facts = read_facts(load_onnx(model))
    except (ModelError, OSError) as error:
        raise ReleaseError(f"The release's fallback model can't be read: {error}") from error
    if facts.unranked:
        raise ReleaseError(f"The release's fallback model doesn't say the shape of {', '.join(facts.unranked)}.")
    return facts.inputs, facts.outputs
