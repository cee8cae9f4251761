"""Targets: device models, with the facts that are expected of them and where each is known from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from edgebuild.catalogue.project_tables import LimitsTable, Names, Text
from edgebuild.catalogue.shipped import load_all
from edgebuild.catalogue.sources import Sourced
from edgebuild.catalogue.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class TextFact(Sourced):
    """A fact in words."""

    value: Text


class NamesFact(Sourced):
    """A fact that is a list."""

    value: Names


class CountFact(Sourced):
    """A fact that is a whole number."""

    value: Annotated[int, Field(ge=1)]


class EmulatorCoreFact(Sourced):
    """A CPU model of the emulator."""

    value: Literal["cortex-a72", "cortex-a76", "max"]


class Facts(Table):
    """What a device of this model has; a fact that isn't known for sure is left out."""

    arch: TextFact | None = Field(default=None, description="The CPU architecture, as `uname -m` says.")
    known_as: TextFact | None = Field(
        default=None, description="What the device's own name for its CPU or board contains."
    )
    soc: TextFact | None = None
    cpu: TextFact | None = None
    cores: CountFact | None = Field(default=None, description="CPU cores, all power modes aside.")
    isa: NamesFact | None = Field(default=None, description="CPU features that matter, as in /proc/cpuinfo.")
    memory_bytes: CountFact | None = Field(default=None, description="Memory of the smallest variant.")
    gpu: TextFact | None = None
    gpu_architecture: TextFact | None = Field(default=None, description="CUDA compute capability.")
    accelerators: NamesFact | None = Field(
        default=None, description="What can run models other than CPU and GPU: `dla`; empty where there is nothing."
    )
    power_modes: NamesFact | None = None
    os: TextFact | None = None
    emulator_core: EmulatorCoreFact | None = Field(
        default=None, description="What an emulator of it runs as: QEMU's name of the CPU."
    )


class TargetFile(Table):
    """One file of ``targets/``."""

    title: Text = Field(description="What it is, for people.")
    profiles: Annotated[Names, Field(min_length=1)] = Field(
        description="How to compile for it, in order of preference."
    )
    facts: Facts = Facts()
    limits: LimitsTable = Field(default=LimitsTable(), description="Limits where the project sets none.")


class Target(TargetFile):
    """A target with its name, which is its file's."""

    name: str


def load_targets(project_folder: Path | None = None) -> Mapping[str, Target]:
    """Return all targets by name: the shipped ones and those of ``<project>/targets``.

    Raises ``ConfigError`` with every problem of every file.
    """
    return load_all("targets", TargetFile, _named, project_folder)


def _named(name: str, file: TargetFile) -> Target:
    return Target(**dict(file), name=name)
