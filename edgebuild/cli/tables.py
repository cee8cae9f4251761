"""Answers that are several values of one kind."""

from __future__ import annotations

from typing import TypeAlias

from edgebuild.cli.builds import Built
from edgebuild.cli.enrolling import KnownDevice
from edgebuild.cli.farm_running import Token
from edgebuild.cli.listing import KnownTarget, PlannedBuild
from edgebuild.cli.travelling import ListedRelease, Pushed, PushedDelta

Targets: TypeAlias = tuple[KnownTarget, ...]
Plans: TypeAlias = tuple[PlannedBuild, ...]
Builds: TypeAlias = tuple[Built, ...]
Devices: TypeAlias = tuple[KnownDevice, ...]
Releases: TypeAlias = tuple[ListedRelease, ...]
#: A release, or a delta beside one.
PushedAny: TypeAlias = Pushed | PushedDelta
Tokens: TypeAlias = tuple[Token, ...]
