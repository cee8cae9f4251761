"""What is built, and with which settings it runs: the two identities that everything else is about."""

from __future__ import annotations

from typing import TypeAlias

from edgebuild.core.artifact import Precision, Setting
from edgebuild.core.values import Value

Settings: TypeAlias = tuple[tuple[str, Setting], ...]


class CandidateSpec(Value):
    """One precision of the original, or of what a recipe makes of it, on one profile.

    ``recipe`` is empty for the original. ``features`` are those of the profile's kernels that the recipe is made for.
    """

    profile: str
    backend: str
    precision: Precision
    recipe: str = ""
    accelerator: str | None = None
    features: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name that it goes by everywhere, such as ``openvino-cpu/pruned/int8-edgebuild``."""
        return "/".join(filter(None, (self.profile, self.recipe, self.precision.label)))


class Variant(Value):
    """A candidate with the runtime settings that it runs with: what is measured, certified and shipped."""

    candidate: str
    settings: Settings = ()

    @property
    def id(self) -> str:
        """Candidate and settings; settings in another order give the same id."""
        return f"{self.candidate} ({settings_label(self.settings)})"


def settings_label(settings: Settings) -> str:
    """Return settings as a short text, such as ``spinning=false threads=2``."""
    return " ".join(f"{name}={str(value).lower()}" for name, value in sorted(settings)) or "defaults"
