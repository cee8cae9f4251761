"""How a release came to be: the predicate of a SLSA v1 provenance statement, which is signed over the release index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.core.record import BuildRecord

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
#: A name, not an address: nothing is looked up there.
BUILD_TYPE = "urn:edgebuild:build:v1"


def provenance(records: Sequence[BuildRecord]) -> dict[str, Any]:
    """Return the predicate for the builds of a release."""
    versions = dict(records[0].versions)
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "project": records[0].project,
                "builds": [
                    {
                        "target": record.target,
                        "command": record.command,
                        "budget": record.budget.text,
                        "objective": record.objective,
                    }
                    for record in records
                ],
            },
            "internalParameters": {
                "steps": sorted({step.key for record in records for step in record.steps}),
                "devices": {record.target: record.device for record in records},
            },
            "resolvedDependencies": [
                {"name": name, "uri": f"pkg:pypi/{name}@{version}"} for name, version in sorted(versions.items())
            ],
        },
        "runDetails": {
            "builder": {"id": "urn:edgebuild", "version": {"edgebuild": versions.get("edgebuild", "unknown")}},
            "metadata": {
                "invocationId": ",".join(record.build_id for record in records),
                "startedOn": min(record.started_at for record in records),
            },
            "byproducts": [
                {"name": evidence.path, "digest": {"sha256": evidence.sha256}}
                for record in records
                for evidence in record.evidence
            ],
        },
    }
