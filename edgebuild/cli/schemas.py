"""`schema`: what every command prints with ``--json``, as JSON Schemas."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgebuild.cli.farm_running import installed
from edgebuild.cli.output import say_json
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: What is printed where a command fails; no command is called so.
ERROR = "error"
#: The value of each command, as MODULE:NAME in this folder: only what is asked for is imported.
ANSWERS: Mapping[str, str] = {
    "init": "starting:Started",
    "targets": "tables:Targets",
    "doctor": "doctor:Health",
    "plan": "tables:Plans",
    "build": "tables:Builds",
    "report": "builds:Built",
    "explain": "builds:Explained",
    "bench": "farm_tables:Benched",
    "store du": "storing:StoreUsage",
    "store gc": "storing:StoreCollected",
    "device add": "enrolling:Enrolled",
    "device provision": "enrolling:Provisioned",
    "device list": "tables:Devices",
    "device check": "enrolling:Checked",
    "device remove": "enrolling:Removed",
    "install": "trusting:Verified",
    "release create": "bundling:Created",
    "release sign": "trusting:Signed",
    "release verify": "trusting:Verified",
    "release installed": "there:OnDevice",
    "release roll-back": "there:OnDevice",
    "release policy": "trusting:PolicyWritten",
    "release push": "tables:PushedAny",
    "release pull": "travelling:Pulled",
    "release promote": "travelling:Promoted",
    "release list": "tables:Releases",
    "release delta": "travelling:DeltaMade",
    "release apply": "travelling:DeltaApplied",
    "release affected": "travelling:Affected",
    "release replay": "gating:Replayed",
    "release gate": "gating:Gated",
    "release export": "bundling:Exported",
    "farm init": "farm_running:FarmMade",
    "farm serve": "farm_running:FarmServed",
    "farm token make": "farm_running:TokenMade",
    "farm token list": "tables:Tokens",
    "farm token revoke": "farm_running:TokenRevoked",
    "farm list": "farm_tables:Devices",
    "farm jobs": "farm_tables:Jobs",
    "farm status": "farm_tables:Status",
    "farm logs": "farm_tables:LogLine",
    "farm cancel": "farm_tables:Cancelled",
    "farm drain": "farm_tables:Shelved",
    "farm undrain": "farm_tables:Shelved",
    "farm maintenance": "farm_tables:Shelved",
    "farm restore": "farm_tables:Shelved",
    "farm retire": "farm_tables:Shelved",
    "farm check": "farm_tables:Shelved",
    "farm audit": "farm_tables:Audit",
    "farm history": "farm_tables:History",
    "farm compare": "farm_tables:Compared",
    ERROR: "failed:Failed",
}


def schema_of(command: str) -> dict[str, Any]:
    """Return the JSON Schema of what a command prints; of `farm logs`, of each line.

    Raises ``UsageError`` for what is no command, ``EnvironmentGap`` for one of the farm where that isn't installed.
    """
    from pydantic import TypeAdapter

    if command not in ANSWERS:
        raise UsageError(f"{command!r} prints no JSON.", hint=f"These do: {', '.join(sorted(ANSWERS))}.")
    module, _, name = ANSWERS[command].partition(":")
    with installed():
        printed = getattr(importlib.import_module(f"edgebuild.cli.{module}"), name)
    made = TypeAdapter(printed).json_schema(mode="serialization")
    return {"$schema": DIALECT, **made}


def print_schema(command: str) -> None:
    """Print the schema of a command, or those of all by name."""
    say_json(schema_of(command) if command else {each: schema_of(each) for each in ANSWERS})
