"""Answers that are the farm's own values, several of them, or one of some kinds."""

from __future__ import annotations

from typing import TypeAlias

from edgebuild.cli.benching import LocalBench
from edgebuild.core.values import Value
from edgebuild.farm.comparing import Compared as Compared
from edgebuild.farm.history import History as History
from edgebuild.farm.replaying import Replayed
from edgebuild.farm.values import AuditLine, Job, Lease, Shelved, Standing
from edgebuild.farm.values import LogLine as LogLine


class FarmReplay(Value):
    """A record that a farm measured again: None for ``replay`` where the job came to no result."""

    job: Job
    replay: Replayed | None


Devices: TypeAlias = tuple[Shelved, ...]
Jobs: TypeAlias = tuple[Job, ...]
Status: TypeAlias = Standing | Job | Lease
Cancelled: TypeAlias = Job | Lease
Audit: TypeAlias = tuple[AuditLine, ...]
#: Measured here; by a farm; or by a farm once more.
Benched: TypeAlias = LocalBench | Job | FarmReplay
