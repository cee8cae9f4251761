"""Looks at an artifact that anybody may have made, before anything of it is loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgebuild.backends.protocol import check_settings
from edgebuild.core.artifact_files import check_files, list_files, read_artifact
from edgebuild.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.backends.protocol import Backend
    from edgebuild.core.artifact import Artifact, TensorSpec

#: What one call of an artifact may be fed.
MAX_INPUT_BYTES = 1 << 30


def read_foreign(folder: Path, backends: Mapping[str, Backend], *, native_libraries: bool) -> Artifact:
    """Return the artifact in ``folder``: every file is what its manifest says, and none lies elsewhere.

    Raises ``ModelError`` for one that is damaged or reads outside of its folder, ``UsageError`` for settings that its
    backend doesn't have, and for native code unless ``native_libraries`` allows it.
    """
    from edgebuild.catalogue.tables import unknown

    artifact = read_artifact(folder)
    check_files(folder, artifact, list_files(folder))
    if artifact.backend not in backends:
        raise UsageError(f"{folder}: {unknown('backend', artifact.backend, backends)}.")
    check_settings(backends[artifact.backend], artifact.settings)
    for spec in artifact.contract.inputs:
        if _bytes(spec) > MAX_INPUT_BYTES:
            raise ModelError(f"{folder}: the input {spec.name!r} would take more than {MAX_INPUT_BYTES:,} bytes.")
    if artifact.libraries and not native_libraries:
        raise UsageError(
            f"{folder} brings native code, which would run with your rights: {', '.join(artifact.libraries)}.",
            hint="If you trust whoever built it, allow that with --allow-native-libraries.",
        )
    _require_own_data(folder, artifact)
    return artifact


def _require_own_data(folder: Path, artifact: Artifact) -> None:
    """Raise unless the external data of an ONNX file lies among the files that were checked."""
    from edgebuild.models.onnx_files import external_names

    listed = {file.path for file in artifact.files}
    for name in external_names(folder / artifact.entry) if artifact.entry.endswith(".onnx") else ():
        if name not in listed:
            raise ModelError(
                f"{folder / artifact.entry} reads data from {name!r}, which is none of the artifact's files."
            )


def _bytes(spec: TensorSpec) -> int:
    return math.prod(size for size in spec.shape if isinstance(size, int)) * 8
