"""Profiles: how a family of hardware is compiled for, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from edgebuild.catalogue.project_tables import Names, Text
from edgebuild.catalogue.shipped import load_all
from edgebuild.catalogue.sources import Sourced
from edgebuild.catalogue.tables import Table
from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def _setting(value: Any) -> Setting:
    if isinstance(value, bool | int | str):
        return value
    raise ValueError("must be true or false, a whole number, or text")


SettingValue = Annotated[Setting, PlainValidator(_setting), WithJsonSchema({"type": ["boolean", "integer", "string"]})]

#: What a setting may say in place of a number of cores.
CORES_ALL = "all"
CORES_HALF = "half"


class Rule(Sourced):
    """Holds where the CPU (or GPU) has all of ``requires``; the first rule of a list that holds is used."""

    requires: Names = Field(default=(), description="Features in Linux's own words, as in /proc/cpuinfo.")


class Int8Rule(Rule):
    """Which 8-bit schemes are raced, best first."""

    schemes: Annotated[tuple[Int8Scheme, ...], Field(min_length=1)]


class Fp16Rule(Rule):
    """What fp16 means."""

    meaning: Fp16Meaning


class ChannelRule(Rule):
    """What a layer's channel count should be a multiple of, so that the kernels waste no lanes."""

    multiple: Annotated[int, Field(ge=1)]


class FeatureRule(Rule):
    """What kernels can do that a technique may need; every rule that holds counts."""

    names: Names = Field(description='Such as `"2:4"`: of four weights in a row two may be zero, and cost nothing.')
    gpu_architecture: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = Field(
        default=None, description="The least CUDA compute capability that has them; a GPU that isn't known has not."
    )


class ProfileFile(Table):
    """One file of ``profiles/``."""

    title: Text = Field(description="What it is, for people.")
    backend: Text = Field(description="What compiles and runs: onnxruntime, openvino or tensorrt.")
    requires_arch: Annotated[Names, Field(min_length=1)] = Field(
        description="The CPU architectures, as `uname -m` says."
    )
    requires: Names = Field(default=(), description="Features without which the backend doesn't run at all.")
    accelerator: Text | None = Field(
        default=None, description="What runs the model other than CPU and GPU, in the backend's own word: `dla`."
    )
    device_work: bool = Field(default=True, description="Whether edgebuild can compile, measure and evaluate here.")
    why_no_device_work: Text | None = Field(
        default=None, description="The reason where it can't, to follow the profile's name."
    )
    precisions: Annotated[
        tuple[Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-storage"], ...], Field(min_length=1)
    ]
    quantisers: Names = Field(default=(), description="Who makes int8 models, raced against each other.")
    fp16: tuple[Fp16Rule, ...] = ()
    bf16: tuple[Rule, ...] = Field(default=(), description="Where float layers may be computed in bf16.")
    int8: tuple[Int8Rule, ...] = ()
    channels: tuple[ChannelRule, ...] = ()
    features: tuple[FeatureRule, ...] = ()
    settings: Annotated[tuple[dict[str, SettingValue], ...], Field(min_length=1)] = Field(
        description='Runtime settings that are raced. `"all"` and `"half"` stand for the number of cores.'
    )

    @model_validator(mode="after")
    def _complete(self) -> ProfileFile:
        if self.device_work == (self.why_no_device_work is not None):
            raise ValueError("needs `why_no_device_work` exactly where `device_work` is false")
        if "int8" in self.precisions and not (self.int8 and self.quantisers):
            raise ValueError("int8 needs [[int8]] rules and `quantisers`")
        if "int8-dynamic" in self.precisions and not self.int8:
            raise ValueError("int8-dynamic needs [[int8]] rules, which say whether weights have 7 bits")
        if "fp16" in self.precisions and not self.fp16:
            raise ValueError("fp16 needs [[fp16]] rules")
        if "bf16" in self.precisions and not self.bf16:
            raise ValueError("bf16 needs [[bf16]] rules")
        return self


class Profile(ProfileFile):
    """A profile with its name, which is its file's."""

    name: str


def load_profiles(project_folder: Path | None = None) -> Mapping[str, Profile]:
    """Return all profiles by name: the shipped ones and those of ``<project>/profiles``.

    Raises ``ConfigError`` with every problem of every file.
    """
    return load_all("profiles", ProfileFile, _named, project_folder)


def _named(name: str, file: ProfileFile) -> Profile:
    return Profile(**dict(file), name=name)
