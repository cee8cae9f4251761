"""What is inside: a CycloneDX 1.6 SBOM of one target, with the exact runtime that the artifact was measured in.

It answers the question that comes years later: which fielded releases run the vulnerable version?
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from edgebuild.core.values import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgebuild.core.artifact import Artifact
    from edgebuild.releasing.values import TargetRelease

#: What runs on the device beside the runtime: the runner feeds it with arrays.
ON_DEVICE = ("numpy",)
#: Serial numbers follow from the content: equal releases have equal bytes.
_NAMESPACE = uuid.UUID("6f1c2b53-2f43-5c8e-9d0a-1f7f3b0f6d11")


def sbom(release: TargetRelease, artifact: Artifact, versions: Iterable[tuple[str, str]], runtime: str) -> bytes:
    """Return the SBOM of one target. ``versions`` are those of the build, ``runtime`` its runtime's distribution."""
    built_with = dict(versions)
    version = release.requires.runtime_version
    name = f"{release.project}-{release.target}"
    parts = [_library(runtime, version.partition("-")[0], full=version)]
    parts += [_library(each, built_with[each]) for each in ON_DEVICE if each in built_with]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, release.to_json())}",
        "metadata": {
            "timestamp": release.created,
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": name,
                "version": release.version,
                "description": f"{release.candidate} for {release.target}",
                "components": [
                    {
                        "type": "file",
                        "bom-ref": f"model/{file.path}",
                        "name": file.path,
                        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
                    }
                    for file in sorted(artifact.files, key=lambda file: file.path)
                ],
            },
            "tools": {
                "components": [
                    {"type": "application" if each == "edgebuild" else "library", "name": each, "version": number}
                    for each, number in sorted(built_with.items())
                ]
            },
        },
        "components": parts,
        "dependencies": [
            {"ref": "model", "dependsOn": sorted(part["bom-ref"] for part in parts)},
            *({"ref": ref} for ref in sorted(part["bom-ref"] for part in parts)),
        ],
    }
    return canonical_json(document).encode()


def _library(name: str, version: str, full: str = "") -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    made: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if full not in ("", version):
        made["properties"] = [{"name": "edgebuild:full-version", "value": full}]
    return made
